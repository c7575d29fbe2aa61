"""Authorities whose certificates carry name constraints."""

from __future__ import annotations

import ipaddress
import ssl
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from fastnode.certs import signing
from fastnode.certs.authority import Authority
from helpers.odd_certificates import tlv

__all__ = [
    "constrained",
    "encoded",
    "extension",
    "openssl_reads_hosts",
    "refused",
    "subtree",
    "with_extension",
]

#: Tags of the types of GeneralName (RFC 5280, appendix A).
TAGS = {"email": 0x81, "DNS": 0x82, "URI": 0x86, "IP": 0x87}
_KEY = ec.generate_private_key(ec.SECP256R1())


def subtree(text: str, behind: bytes = b"") -> tuple[bool, bytes]:
    """One constraint, as OpenSSL writes them: ``excluded;DNS:pay.internal``.

    Args:
        text: the value of ``IP:`` is a network, or any bytes in hexadecimal.
        behind: DER that follows the name: minimum and maximum.

    Returns:
        Whether it is a permitted one, and its DER.
    """
    which, _, name = text.partition(";")
    kind, _, value = name.partition(":")
    data = value.encode("latin-1")
    if kind == "IP" and "/" in value:
        network = ipaddress.ip_network(value, strict=False)
        data = network.network_address.packed + network.netmask.packed
    elif kind == "IP":
        data = bytes.fromhex(value)
    return which == "permitted", tlv(0x30, tlv(TAGS[kind], data) + behind)


def extension(*texts: str | tuple[bool, bytes]) -> bytes:
    """The value of an extension with these constraints."""
    found = [subtree(each) if isinstance(each, str) else each for each in texts]
    permitted = b"".join(der for first, der in found if first)
    excluded = b"".join(der for first, der in found if not first)
    return tlv(
        0x30,
        (tlv(0xA0, permitted) if permitted else b"")
        + (tlv(0xA1, excluded) if excluded else b""),
    )


def with_extension(
    value: bytes,
    *,
    parent: Authority | None = None,
    name: str = "team CA",
    critical: bool = True,
) -> Authority:
    """An authority with this extension: a root, or one below `parent`."""
    subject = signing.common_name_only(name)
    now = datetime.now(UTC)
    builder = signing.ca_builder(
        subject,
        subject if parent is None else parent.x509.subject,
        _KEY if parent is None else parent._key,
        now - timedelta(hours=1),
        now + timedelta(days=9),
    ).add_extension(
        x509.UnrecognizedExtension(x509.NameConstraints.oid, value), critical
    )
    signed_by = _KEY if parent is None else parent._key
    certificate = signing.sign(builder, signed_by, _KEY.public_key())
    chain = () if parent is None else (certificate, *parent._chain)
    return Authority(certificate, _KEY, chain)


def constrained(
    *texts: str, parent: Authority | None = None, name: str = "team CA"
) -> Authority:
    """An authority with these constraints: a root, or one below `parent`."""
    return with_extension(extension(*texts), parent=parent, name=name)


def encoded(*texts: str) -> bytes:
    """A certificate with these constraints, DER."""
    return constrained(*texts).x509.public_bytes(Encoding.DER)


def refused(issuer: Authority, root: Authority, sans: list[str]) -> bool:
    """Whether OpenSSL refuses a certificate with these SANs."""
    shown = issuer.issue(None, dns=sans).certificate()
    accepting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    accepting.hostname_checks_common_name = False
    shown.load_into(accepting)
    dialing = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    dialing.check_hostname = False
    dialing.hostname_checks_common_name = False
    dialing.load_verify_locations(cadata=root.cert_pem.decode())
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    near = dialing.wrap_bio(to_client, to_server, server_hostname="x")
    far = accepting.wrap_bio(to_server, to_client, server_side=True)
    codes: list[int] = []
    try:
        for end in (near, far, near):
            with suppress(ssl.SSLWantReadError):
                end.do_handshake()
    except ssl.SSLCertVerificationError as error:
        codes.append(error.verify_code)
    # X509_V_ERR_PERMITTED_VIOLATION and _EXCLUDED_VIOLATION.
    assert not set(codes) - {47, 48}
    return bool(codes)


@cache
def openssl_reads_hosts() -> bool:
    """Whether OpenSSL compares URI constraints with the host of ``name@host``, as RFC
    5280 says (3.5 does), and not with all of it (3.0)."""
    root = constrained("excluded;URI:pay.team-b.internal")
    return refused(root, root, ["fastnode://pay@pay.team-b.internal"])
