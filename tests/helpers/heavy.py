"""Certificates that cost a lot to read or to verify; nobody has to have their keys.

They are written in DER by hand, with a signature that is none.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

from helpers import odd_certificates
from helpers.odd_certificates import tlv

__all__ = [
    "KEYS",
    "authority_names",
    "ber",
    "certificate",
    "compressed",
    "constraints",
    "ec_named",
    "explicit_curve",
    "name",
    "rsa",
    "sans",
]

ECDSA_SHA256 = bytes.fromhex("300a06082a8648ce3d040302")
EC_KEY = bytes.fromhex("06072a8648ce3d0201")
PRIME_FIELD = bytes.fromhex("06072a8648ce3d0101")
RSA_KEY = bytes.fromhex("300d06092a864886f70d0101010500")
ED25519 = bytes.fromhex("300506032b6570")
P256, P224 = bytes.fromhex("06082a8648ce3d030107"), bytes.fromhex("06052b81040021")
COMMON_NAME = bytes.fromhex("0603550403")


def name(text: bytes, parts: int = 1) -> bytes:
    """A distinguished name of so many equal parts."""
    return tlv(0x30, odd_certificates.name(0x0C, text) * parts)


def integer(number: int) -> bytes:
    """A number that is not negative."""
    return tlv(0x02, number.to_bytes(number.bit_length() // 8 + 1))


def bits(data: bytes) -> bytes:
    """A string of whole bytes as bits."""
    return tlv(0x03, b"\0" + data)


def rsa(modulus_bits: int, exponent: int = 65537) -> bytes:
    """A public RSA key of random digits."""
    source = random.Random(modulus_bits)
    modulus = source.getrandbits(modulus_bits) | 1 << (modulus_bits - 1) | 1
    return tlv(0x30, RSA_KEY + bits(tlv(0x30, integer(modulus) + integer(exponent))))


def ec_named(curve: bytes = P256) -> bytes:
    """The generator of P-256, as a public key."""
    point = bytes.fromhex(
        "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296"
        "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5"
    )
    return tlv(0x30, tlv(0x30, EC_KEY + curve) + bits(point))


def compressed() -> bytes:
    """A point of P-224 without its second coordinate, whose square root is slow."""
    point = bytes.fromhex("02b70e0cbd6bb4bf7f321390b94a03c1d356c21122343280d6115c1d21")
    return tlv(0x30, tlv(0x30, EC_KEY + P224) + bits(point))


def explicit_curve(prime: int = 0) -> bytes:
    """A key on a curve that is written out, with compressed points.

    Args:
        prime: of the field; 0: one that makes square roots slow.
    """
    prime = prime or hard_prime()
    size = (prime.bit_length() + 7) // 8
    a, x = 1, 2
    # Some b for which there is a point with that x.
    b = next(
        b for b in range(1, 1000) if pow(x**3 + a * x + b, (prime - 1) // 2, prime) == 1
    )
    point = b"\x02" + x.to_bytes(size)
    curve = tlv(0x30, tlv(0x04, a.to_bytes(size)) + tlv(0x04, b.to_bytes(size)))
    parameters = tlv(
        0x30,
        integer(1)
        + tlv(0x30, PRIME_FIELD + integer(prime))
        + curve
        + tlv(0x04, point)
        + integer(prime - 2)
        + integer(1),
    )
    return tlv(0x30, tlv(0x30, EC_KEY + parameters) + bits(point))


def hard_prime(size: int = 521, twos: int = 500) -> int:
    """A prime p of which 2**twos divides p - 1."""
    source = random.Random(size)
    while True:
        odd = source.getrandbits(size - twos) | 1 | 1 << (size - twos - 1)
        prime = (odd << twos) + 1
        if all(prime % small for small in range(3, 2000, 2)) and all(
            pow(base, prime - 1, prime) == 1 for base in (2, 3, 5, 7, 11, 13)
        ):
            return prime


def _extension(oid: str, value: bytes) -> bytes:
    return tlv(0x30, tlv(0x06, bytes.fromhex(oid)) + tlv(0x04, value))


def sans(count: int) -> bytes:
    """Subject alternative names."""
    names = b"".join(tlv(0x82, f"{n:x}.a".encode()) for n in range(count))
    return _extension("551d11", tlv(0x30, names))


def constraints(count: int) -> bytes:
    """Name constraints, all of them permitted subtrees."""
    trees = b"".join(tlv(0x30, tlv(0x82, f"{n:x}.b".encode())) for n in range(count))
    return _extension("551d1e", tlv(0x30, tlv(0xA0, trees)))


def authority_names(count: int) -> bytes:
    """The extension of a CertificateRequest that names so many authorities."""
    each = name(b"a")
    names = b"".join(len(each).to_bytes(2) + each for _ in range(count))
    body = len(names).to_bytes(2) + names
    signatures = b"\0\x0d\0\x04\0\x02\x04\x03"
    return signatures + b"\0\x2f" + len(body).to_bytes(2) + body


def certificate(
    key: bytes | None = None,
    extensions: Iterable[bytes] = (),
    *,
    subject: bytes | None = None,
    issuer: bytes | None = None,
) -> bytes:
    """A certificate with such a key; the generator of P-256 by default."""
    dates = tlv(0x17, b"240101000000Z") + tlv(0x17, b"340101000000Z")
    found = b"".join(extensions)
    fields = (
        tlv(0xA0, integer(2))
        + integer(7)
        + ECDSA_SHA256
        + (issuer or name(b"nobody"))
        + tlv(0x30, dates)
        + (subject or name(b"stranger"))
        + (key or ec_named())
        + (tlv(0xA3, tlv(0x30, found)) if found else b"")
    )
    return tlv(0x30, tlv(0x30, fields) + ECDSA_SHA256 + bits(b"\x30\x06\2\1\1\2\1\1"))


def ber() -> bytes:
    """A certificate whose outermost length is marked by its end: BER, not DER."""
    inner = certificate()
    return b"\x30\x80" + inner[4:] + b"\0\0"


#: Keys by what they are called in tables.
KEYS = {
    "P-256": ec_named,
    "RSA 2048": lambda: rsa(2048),
    "RSA 4096": lambda: rsa(4096),
    "RSA 8192": lambda: rsa(8192),
    "RSA 16384": lambda: rsa(16384),
    "RSA 3072, long exponent": lambda: rsa(3072, (1 << 3064) - 1),
    "RSA 8192, exponent of 64 bits": lambda: rsa(8192, (1 << 64) - 1),
    "P-224, compressed": compressed,
    "explicit curve": explicit_curve,
}
