"""Authorities whose certificates break one rule of RFC 5280 each."""

from __future__ import annotations

import inspect
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fastnode.certs.authority import Authority

__all__ = ["FLAWS", "flawed"]

#: What differs from a good authority, and words of the warning.
FLAWS: dict[str, tuple[dict[str, Any], str]] = {
    "easy-rsa of Debian 12": ({"basic_critical": False}, "not marked critical"),
    "openssl req -x509": ({"usage": None}, "no key usage extension"),
    "no keyCertSign": ({"usage": "crl_sign"}, "without keyCertSign"),
    "no basic constraints": ({"basic": False}, "not the certificate of an authority"),
    "no subject key identifier": ({"own": False}, "no subject key identifier"),
    "a critical key identifier": ({"own_critical": True}, "identifier that is marked"),
    "for e-mail only": ({"extended": True}, "allows no TLS"),
    "an unknown extension": ({"unknown": True}, "OpenSSL does not know"),
    "expired": ({"days": -1}, "expired on"),
    "not valid yet": ({"begins": 1}, "is valid from"),
}


def flawed(
    name: str,
    *,
    basic: bool = True,
    basic_critical: bool = True,
    usage: str | None = "key_cert_sign",
    own: bool = True,
    own_critical: bool = False,
    extended: bool = False,
    unknown: bool = False,
    begins: int = -9,
    days: int = 90,
) -> Authority:
    """A root; by default a good one."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=begins))
        .not_valid_after(now + timedelta(days=days))
    )
    added: list[tuple[x509.ExtensionType, bool]] = []
    if basic:
        added.append((x509.BasicConstraints(True, None), basic_critical))
    if usage is not None:
        names = inspect.signature(x509.KeyUsage).parameters
        flags = {each: each == usage for each in names}
        added.append((x509.KeyUsage(**flags), True))
    if own:
        digest = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        added.append((digest, own_critical))
    if extended:
        usages = [ExtendedKeyUsageOID.EMAIL_PROTECTION]
        added.append((x509.ExtendedKeyUsage(usages), False))
    if unknown:
        oid = x509.ObjectIdentifier("1.2.3.4")
        added.append((x509.UnrecognizedExtension(oid, b"\x05\x00"), True))
    for extension, critical in added:
        builder = builder.add_extension(extension, critical=critical)
    return Authority(builder.sign(key, hashes.SHA256()), key)
