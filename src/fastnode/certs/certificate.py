"""A certificate chain and its private key."""

from __future__ import annotations

import ipaddress
import os
import ssl
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn, TypeAlias

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from fastnode.certs.key_file import load_cert_chain
from fastnode.errors import CertificateLoadError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

__all__ = ["Certificate", "Password", "sans_of"]

_File: TypeAlias = str | os.PathLike[str]
#: What decrypts a private key; a callable is asked when it is needed.
Password: TypeAlias = str | bytes | Callable[[], str | bytes] | None

#: What cryptography raises for a certificate without SANs, and for malformed ones.
UNREADABLE_SANS: Final = (
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.UnsupportedGeneralNameType,
    ValueError,
)


class Certificate:
    """An X.509 certificate with its chain and private key. Immutable.

    It is checked when it is made: everything parses, the key fits the certificate,
    each certificate of the chain is signed by the next (RFC 8446, 4.4.2).
    """

    __slots__ = ("_chain", "_key_pem")

    _chain: tuple[x509.Certificate, ...]
    _key_pem: bytes

    def __init__(self) -> None:
        raise TypeError("use Certificate.load, from_pem or self_signed")

    # --- making ----------------------------------------------------------------

    @classmethod
    def load(
        cls, cert_file: _File, key_file: _File, password: Password = None
    ) -> Certificate:
        """Load a PEM chain, the certificate first, and its PEM key.

        Raises:
            CertificateLoadError: unreadable, damaged, not fitting, out of order.
        """
        return cls._make(
            _read(cert_file),
            _read(key_file),
            password,
            os.fspath(cert_file),
            os.fspath(key_file),
        )

    @classmethod
    def from_pem(
        cls, cert_pem: bytes | str, key_pem: bytes | str, password: Password = None
    ) -> Certificate:
        """As `load`, from PEM text."""
        cert = cert_pem.encode() if isinstance(cert_pem, str) else cert_pem
        key = key_pem.encode() if isinstance(key_pem, str) else key_pem
        return cls._make(cert, key, password, "the certificate", "the key")

    @classmethod
    def self_signed(
        cls,
        organization: str,
        hosts: Sequence[str] = ("localhost", "127.0.0.1", "::1"),
        *,
        days: float = 365.0,
    ) -> Certificate:
        """A new self-signed certificate with a new P-256 key, for both sides.

        Args:
            hosts: become SANs: addresses as IP, ``fastnode://`` names as URI, the
                others as DNS.
            days: how long it is valid from now.
        """
        # Here: the authority is built on this class.
        from fastnode.certs.authority import self_signed  # noqa: PLC0415

        cert_pem, key_pem = self_signed(organization, hosts, timedelta(days=days))
        return cls.from_pem(cert_pem, key_pem)

    @classmethod
    def _make(
        cls, cert: bytes, key: bytes, password: Password, cert_from: str, key_from: str
    ) -> Certificate:
        chain = _parse_chain(cert, cert_from)
        private = _parse_key(key, password, key_from)
        if _spki(private.public_key()) != _spki(chain[0].public_key()):
            raise CertificateLoadError(
                f"{key_from} is not the key of {cert_from}",
                hint="load the pair that was issued together; the certificate comes "
                "first in its file, the chain after it",
            )
        self = object.__new__(cls)
        self._chain = chain
        self._key_pem = private.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )
        return self

    # --- what it says ------------------------------------------------------------

    @property
    def chain(self) -> tuple[x509.Certificate, ...]:
        """The certificate itself first, then each one's issuer."""
        return self._chain

    @property
    def x509(self) -> x509.Certificate:
        """The certificate itself."""
        return self._chain[0]

    @property
    def subject(self) -> str:
        """RFC 4514."""
        return self.x509.subject.rfc4514_string()

    @property
    def issuer(self) -> str:
        """RFC 4514."""
        return self.x509.issuer.rfc4514_string()

    @property
    def sans(self) -> tuple[str, ...]:
        """DNS, IP and URI subject alternative names, as text."""
        return sans_of(self.x509)

    @property
    def serial_number(self) -> int:
        """The serial number that its issuer gave it."""
        return self.x509.serial_number

    @property
    def not_valid_before(self) -> datetime:
        """Aware, UTC."""
        return self.x509.not_valid_before_utc

    @property
    def not_valid_after(self) -> datetime:
        """Aware, UTC."""
        return self.x509.not_valid_after_utc

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate's DER, hexadecimal."""
        return self.x509.fingerprint(hashes.SHA256()).hex()

    @property
    def expired(self) -> bool:
        """Whether its end has passed."""
        return datetime.now(UTC) >= self.not_valid_after

    def load_into(self, context: ssl.SSLContext) -> None:
        """Put chain and key into a context; the key touches no disk."""
        chain = b"".join(c.public_bytes(Encoding.PEM) for c in self._chain)
        load_cert_chain(context, chain, self._key_pem)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Certificate):
            return NotImplemented
        return self._chain == other._chain

    def __hash__(self) -> int:
        return hash(self._chain)

    def __repr__(self) -> str:
        return (
            f"<Certificate {self.subject}, serial {self.serial_number:x}, "
            f"until {self.not_valid_after:%Y-%m-%d %H:%M} UTC>"
        )

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Certificate holds a private key and is not pickled")


def sans_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """DNS, IP and URI subject alternative names of a certificate, as text."""
    try:
        extension = certificate.extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        )
    except UNREADABLE_SANS:
        return ()
    kinds = (x509.DNSName, x509.IPAddress, x509.UniformResourceIdentifier)
    return tuple(str(san.value) for san in extension.value if isinstance(san, kinds))


def general_name(host: str) -> x509.GeneralName:
    """A host as the kind of SAN that it is."""
    if "://" in host:
        return x509.UniformResourceIdentifier(host)
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _read(file: _File) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise CertificateLoadError(
            f"{os.fspath(file)}: {error.strerror}",
            hint="check the path and its permissions",
        ) from error


def _parse_chain(data: bytes, source: str) -> tuple[x509.Certificate, ...]:
    try:
        chain = tuple(x509.load_pem_x509_certificates(data))
    except ValueError as error:
        swapped = b"PRIVATE KEY-----" in data
        raise CertificateLoadError(
            f"{source} holds no certificate that can be read: {error}",
            hint="certificate and key are swapped"
            if swapped
            else "it must hold PEM blocks that begin with BEGIN CERTIFICATE",
        ) from None
    for certificate, issuer in pairwise(chain):
        try:
            certificate.verify_directly_issued_by(issuer)
        except (ValueError, TypeError, InvalidSignature):
            raise CertificateLoadError(
                f"{source}: the chain is out of order: "
                f"{certificate.subject.rfc4514_string()} was not issued by "
                f"{issuer.subject.rfc4514_string()}, which follows it",
                hint="the certificate comes first, then its issuer, and so on",
            ) from None
    return chain


def _parse_key(data: bytes, password: Password, source: str) -> PrivateKeyTypes:
    encrypted = b"ENCRYPTED" in data
    # A callable may ask a person: only where the answer is needed.
    secret = password() if encrypted and callable(password) else password
    if isinstance(secret, str):
        secret = secret.encode()
    if not isinstance(secret, bytes):
        secret = None
    try:
        # A password for a key that is not encrypted is not an error: one setting
        # often serves several files.
        return load_pem_private_key(data, secret if encrypted else None)
    except TypeError:
        raise CertificateLoadError(
            f"{source} is encrypted", hint="pass its password"
        ) from None
    except Exception:
        # Not the library's text: it may quote what it was given.
        swapped = b"BEGIN CERTIFICATE" in data and b"PRIVATE KEY" not in data
        hint = "it must hold a PEM block that begins with BEGIN ... PRIVATE KEY"
        if encrypted:
            hint = "the password is wrong, or the file is damaged"
        elif swapped:
            hint = "certificate and key are swapped"
        raise CertificateLoadError(
            f"{source} holds no private key that can be read", hint=hint
        ) from None


def _spki(key: object) -> bytes:
    encoded: bytes = key.public_bytes(  # type: ignore[attr-defined]
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    )
    return encoded
