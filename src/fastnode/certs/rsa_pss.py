"""RSA keys that are for PSS signatures only (RFC 4055, 1.2: id-RSASSA-PSS).

The `cryptography` library reads such a key as a plain RSA key, and writes it as one.
OpenSSL then finds that the key does not belong to its certificate. So the key is
written here with the algorithm, and the parameters, that its certificate names.
"""

from __future__ import annotations

import base64
import textwrap
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from fastnode.certs.private_key import PrivateKey

if TYPE_CHECKING:
    from cryptography import x509

__all__ = ["is_rsa_pss", "restricted_key"]

#: The object identifier of RSASSA-PSS, 1.2.840.113549.1.1.10, in DER.
RSASSA_PSS: Final = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0a"
# DER (X.690)
INTEGER: Final = 0x02
OCTET_STRING: Final = 0x04
SEQUENCE: Final = 0x30
VERSION: Final = 0xA0


def is_rsa_pss(certificate: x509.Certificate) -> bool:
    """Whether the key of a certificate is for RSA-PSS only."""
    return RSASSA_PSS in _algorithm_of(certificate)[:16]


def restricted_key(key: PrivateKey, certificate: x509.Certificate) -> bytes:
    """Return an RSA key with the algorithm that its certificate names: PKCS#8, PEM."""
    numbers = key.private_bytes(
        Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption()
    )
    der = _element(
        SEQUENCE,
        _element(INTEGER, b"\0")
        + _algorithm_of(certificate)
        + _element(OCTET_STRING, numbers),
    )
    lines = textwrap.wrap(base64.b64encode(der).decode(), 64)
    return "\n".join(
        ["-----BEGIN PRIVATE KEY-----", *lines, "-----END PRIVATE KEY-----", ""]
    ).encode()


def _algorithm_of(certificate: x509.Certificate) -> bytes:
    """The AlgorithmIdentifier of the public key, DER (RFC 5280, 4.1)."""
    fields = _children(_children(certificate.tbs_certificate_bytes)[0][1])
    if fields[0][0] == VERSION:
        del fields[0]
    # Serial number, signature, issuer, validity, subject, subjectPublicKeyInfo.
    tag, body = _children(fields[5][1])[0]
    return _element(tag, body)


def _children(der: bytes) -> list[tuple[int, bytes]]:
    """The elements in DER that the library has read before: tags and contents."""
    found = []
    at = 0
    while at < len(der):
        tag, length = der[at], der[at + 1]
        at += 2
        if length & 0x80:
            width = length & 0x7F
            length = int.from_bytes(der[at : at + width], "big")
            at += width
        found.append((tag, der[at : at + length]))
        at += length
    return found


def _element(tag: int, body: bytes) -> bytes:
    size = len(body)
    if size < 0x80:
        return bytes([tag, size]) + body
    width = (size.bit_length() + 7) // 8
    return bytes([tag, 0x80 | width]) + size.to_bytes(width, "big") + body
