"""PKCS#12 files: a key, its certificate and others, in no particular order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.hazmat.primitives.serialization.pkcs12 import (
    PKCS12KeyAndCertificates,
    load_pkcs12,
)

from fastnode.certs.private_key import Password, check_kind, secret_of
from fastnode.errors import CertificateLoadError

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.types import (
        PrivateKeyTypes,
        PublicKeyTypes,
    )

__all__ = ["fits", "parse_pkcs12"]


def parse_pkcs12(
    data: bytes, password: Password, source: str
) -> tuple[tuple[x509.Certificate, ...], PrivateKeyTypes]:
    """The chain, the key's certificate first, and the key (RFC 7292).

    Certificates that are not of the chain are left out.

    Args:
        password: a callable is asked only where the file does not open without.
        source: how errors call where the data is from.

    Raises:
        CertificateLoadError: damaged, wrong password, no key, or none that fits.
    """
    bag = _open(data, password, source)
    if bag.key is None:
        raise CertificateLoadError(
            f"{source} holds no private key",
            hint="export it with its key: openssl pkcs12 -export -inkey KEY -in CERT",
        )
    check_kind(bag.key, source)
    found = [bag.cert, *bag.additional_certs]
    certificates = [each.certificate for each in found if each is not None]
    leaf = next((each for each in certificates if fits(bag.key, each)), None)
    if leaf is None:
        raise CertificateLoadError(
            f"{source} holds {len(certificates)} certificates, none for its key",
            hint="export the pair that was issued together",
        )
    return tuple(_chain(leaf, certificates)), bag.key


def fits(key: PrivateKeyTypes, certificate: x509.Certificate) -> bool:
    """Whether a certificate is for this key."""
    try:
        return _spki(key.public_key()) == _spki(certificate.public_key())
    except (ValueError, UnsupportedAlgorithm):  # a key of a kind unknown here
        return False


def _spki(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _open(data: bytes, password: Password, source: str) -> PKCS12KeyAndCertificates:
    if b"-----BEGIN " in data:
        raise CertificateLoadError(
            f"{source} is PEM, not PKCS#12", hint="use Certificate.load"
        )
    # Without a password there are two ways to write such a file (RFC 7292, B.1).
    for nothing in (None, b""):
        try:
            return load_pkcs12(data, nothing)
        except Exception:  # noqa: S112 - the next attempt, or the error below, tells
            continue
    secret = secret_of(password, source)
    if secret is None:
        raise CertificateLoadError(
            f"{source} does not open without a password",
            hint="pass its password; if it has none, the file is damaged",
        )
    try:
        return load_pkcs12(data, secret)
    except Exception:
        raise CertificateLoadError(
            f"{source} holds no PKCS#12 data that can be read",
            hint="the password is wrong, or the file is damaged",
        ) from None


def _chain(
    leaf: x509.Certificate, certificates: Iterable[x509.Certificate]
) -> Iterator[x509.Certificate]:
    """The leaf, its issuer, and so on, as far as they are there."""
    left = [each for each in certificates if each != leaf]
    current: x509.Certificate | None = leaf
    while current is not None:
        yield current
        issuer = next((each for each in left if _issued(current, each)), None)
        left = [each for each in left if each != issuer]
        current = issuer


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
