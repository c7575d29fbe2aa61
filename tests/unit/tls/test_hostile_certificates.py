"""Certificates that strangers make: read without an exception, described in a line."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from fastnode.certs.sans import sans_of
from fastnode.names import NodeName
from fastnode.tls.identity import covers, describe


def certificate(san: bytes, common_name: str = "n") -> x509.Certificate:
    """A certificate whose subject alternative names are these very bytes."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)])
    extension = x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, san)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .public_key(key.public_key())
        .add_extension(extension, critical=False)
        .sign(key, hashes.SHA256())
    )


def names(*sans: x509.GeneralName) -> bytes:
    return x509.SubjectAlternativeName(list(sans)).public_bytes()


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("ffff", id="no DER"),
        pytest.param("3000", id="no name"),
        pytest.param("30058703010203", id="address of three bytes"),
        pytest.param("30048202ffff", id="name that is not ASCII"),
        pytest.param("3004a3020500", id="X.400 address"),
        pytest.param("3004a5020500", id="EDI party"),
    ],
)
def test_unreadable_names_cover_nothing(value: str) -> None:
    odd = certificate(bytes.fromhex(value))
    assert not covers(odd, NodeName.parse("n@10.0.0.1"), ())
    assert sans_of(odd) == ()
    assert describe(odd)


def test_address_as_a_dns_name_covers_nothing() -> None:
    odd = certificate(names(x509.DNSName("10.0.0.1")))
    assert not covers(odd, NodeName.parse("n@10.0.0.1"), ())


def test_wildcard_of_a_top_level_domain_covers_nothing() -> None:
    for pattern in ("*.example", "*.example."):
        odd = certificate(names(x509.DNSName(pattern)))
        assert not covers(odd, NodeName.parse("n@node.example"), ())


def test_description_is_one_line_whatever_it_is_made_of() -> None:
    uri = x509.UniformResourceIdentifier("a\r\nERROR forged")
    text = describe(certificate(names(uri), "n\nERROR forged\x1b[31m"))
    assert text.isprintable()
