"""Certificates as only strangers make them: OpenSSL parses them, libraries may not.

A good self-signed certificate is taken apart, one field of it is replaced, and it is
signed anew, so that its holder can use it in a handshake.
"""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

__all__ = ["KINDS", "make"]

# Fields of a TBSCertificate (RFC 5280, 4.1), when the version is there.
VERSION, SERIAL, ISSUER, VALIDITY, SUBJECT, EXTENSIONS = 0, 1, 3, 4, 5, 7
COMMON_NAME = b"\x55\x04\x03"
SAN = b"\x55\x1d\x11"


def tlv(tag: int, body: bytes) -> bytes:
    """One DER element."""
    size = len(body)
    if size < 128:
        return bytes([tag, size]) + body
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + body


def elements(data: bytes) -> list[tuple[int, bytes]]:
    """The DER elements in a row: tag and body."""
    found, at = [], 0
    while at < len(data):
        tag, size = data[at], data[at + 1]
        at += 2
        if size & 0x80:
            count = size & 0x7F
            size = int.from_bytes(data[at : at + count], "big")
            at += count
        found.append((tag, data[at : at + size]))
        at += size
    return found


def name(tag: int, value: bytes) -> bytes:
    """A distinguished name with one common name, of any kind of string."""
    pair = tlv(0x06, COMMON_NAME) + tlv(tag, value)
    return tlv(0x31, tlv(0x30, pair))


def sans(body: bytes) -> bytes:
    """Extensions with subject alternative names alone."""
    return tlv(0x30, tlv(0x30, tlv(0x06, SAN) + tlv(0x04, tlv(0x30, body))))


Patch = dict[int, tuple[int, bytes]]


def named(tag: int, value: bytes) -> Patch:
    return {ISSUER: (0x30, name(tag, value)), SUBJECT: (0x30, name(tag, value))}


def dated(tag: int, begin: bytes, end: bytes) -> Patch:
    return {VALIDITY: (0x30, tlv(tag, begin) + tlv(tag, end))}


KINDS: dict[str, Patch] = {
    "version 2": {VERSION: (0xA0, tlv(0x02, b"\x01"))},
    "version 6": {VERSION: (0xA0, tlv(0x02, b"\x05"))},
    "a name that is no text": named(0x03, b"\x00abc"),
    "a name that is no UTF-8": named(0x0C, b"\xff\xfe\xff"),
    "a name with half a surrogate": named(0x1E, b"\xd8\x00"),
    "a name with lines and escapes": named(0x0C, b"\n2026 ERROR fake\x1b[31m"),
    "a very long name": named(0x0C, b"A" * 6_000),
    "no name": {ISSUER: (0x30, b""), SUBJECT: (0x30, b"")},
    "the year 0": dated(0x18, b"00000101000000Z", b"99991231235959Z"),
    "a negative serial number": {SERIAL: (0x02, b"\xff\x01")},
    "a very long serial number": {SERIAL: (0x02, b"\x01" * 12_000)},
    "very many names": {EXTENSIONS: (0xA3, sans(tlv(0x82, b"\x01" * 100) * 120))},
    "an address of three bytes": {EXTENSIONS: (0xA3, sans(tlv(0x87, b"abc")))},
    "a name that is not ASCII": {EXTENSIONS: (0xA3, sans(tlv(0x82, b"\xff\xff")))},
}


def make(kind: str) -> tuple[bytes, bytes, bytes]:
    """Certificate and key, PEM, and the certificate in DER."""
    key = ec.generate_private_key(ec.SECP256R1())
    who = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "stranger")])
    now = datetime.now(UTC)
    good = (
        x509.CertificateBuilder()
        .subject_name(who)
        .issuer_name(who)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("a")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    fields = elements(elements(good.tbs_certificate_bytes)[0][1])
    for at, field in KINDS[kind].items():
        fields[at] = field
    body = tlv(0x30, b"".join(tlv(*field) for field in fields))
    signature = key.sign(body, ec.ECDSA(hashes.SHA256()))
    algorithm = elements(elements(good.public_bytes(Encoding.DER))[0][1])[1]
    der = tlv(0x30, body + tlv(*algorithm) + tlv(0x03, b"\0" + signature))
    pem = b"-----BEGIN CERTIFICATE-----\n%b-----END CERTIFICATE-----\n" % (
        base64.encodebytes(der)
    )
    key_pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pem, key_pem, der
