"""A certificate chain and its private key."""

from __future__ import annotations

import os
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeAlias

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from fastnode.certs.key_file import load_cert_chain
from fastnode.certs.pem import parse_certificates
from fastnode.certs.pkcs12 import fits, parse_pkcs12
from fastnode.certs.private_key import Password, parse_private_key
from fastnode.certs.sans import sans_of
from fastnode.certs.signing import lifetime_of, self_signed
from fastnode.certs.usable import usable_key
from fastnode.errors import CertificateLoadError

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

__all__ = ["Certificate", "Password"]

_File: TypeAlias = str | os.PathLike[str]


class Certificate:
    """An X.509 certificate with its chain and private key. Immutable.

    It is checked when it is made: everything parses, the key fits the certificate,
    each certificate of the chain is signed by the next (RFC 8446, 4.4.2).
    """

    __slots__ = ("_chain", "_key_pem")

    _chain: tuple[x509.Certificate, ...]
    _key_pem: bytes

    def __init__(self) -> None:
        raise TypeError("use Certificate.load, from_pem, load_pkcs12 or self_signed")

    # --- making ----------------------------------------------------------------

    @classmethod
    def load(
        cls,
        cert_file: _File,
        key_file: _File | None = None,
        password: Password = None,
    ) -> Certificate:
        """Load a PEM chain, the certificate first, and its PEM key.

        Args:
            key_file: None: the key is in `cert_file`, before the certificates or
                after them.
            password: for a key that is encrypted (PKCS#8 or traditional PEM); a
                callable is asked once, and only for such a key.

        Raises:
            CertificateLoadError: unreadable, damaged, not fitting, out of order; or
                the password is missing or wrong.
        """
        cert = _read(cert_file)
        key = cert if key_file is None else _read(key_file)
        named = cert_file if key_file is None else key_file
        return cls.from_named(
            cert, key, password, os.fspath(cert_file), os.fspath(named)
        )

    @classmethod
    def from_pem(
        cls,
        cert_pem: bytes | str,
        key_pem: bytes | str | None = None,
        password: Password = None,
    ) -> Certificate:
        """As `load`, from PEM text; `key_pem` None: the key is in `cert_pem`."""
        cert = cert_pem.encode() if isinstance(cert_pem, str) else cert_pem
        if key_pem is None:
            return cls.from_named(cert, cert, password, "the PEM text", "the PEM text")
        key = key_pem.encode() if isinstance(key_pem, str) else key_pem
        return cls.from_named(cert, key, password, "the certificate", "the key")

    @classmethod
    def load_pkcs12(cls, file: _File, password: Password = None) -> Certificate:
        """Load a PKCS#12 file (.p12, .pfx); see `from_pkcs12`.

        Raises:
            CertificateLoadError: unreadable, damaged, the password is missing or
                wrong, no key in it, or no certificate that fits it.
        """
        return cls._from_pkcs12(_read(file), password, os.fspath(file))

    @classmethod
    def from_pkcs12(cls, data: bytes, password: Password = None) -> Certificate:
        """A key, its certificate and the chain out of PKCS#12 data (RFC 7292).

        The certificates may be in any order; those that are not of the chain are
        left out.

        Args:
            password: a callable is asked once, and only where it is needed.

        Raises:
            CertificateLoadError: as `load_pkcs12`.
        """
        return cls._from_pkcs12(data, password, "the PKCS#12 data")

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

        Raises:
            ConfigError: one of the arguments cannot be in a certificate.
        """
        cert_pem, key_pem = self_signed(organization, hosts, lifetime_of(days))
        return cls.from_pem(cert_pem, key_pem)

    @classmethod
    def from_named(
        cls, cert: bytes, key: bytes, password: Password, cert_from: str, key_from: str
    ) -> Certificate:
        """As `from_pem`; errors call the texts `cert_from` and `key_from`."""
        chain = _parse_chain(cert, cert_from)
        private = parse_private_key(key, password, key_from)
        if not fits(private, chain[0]):
            whose = f"{key_from} is not the key of {cert_from}"
            if key_from == cert_from:
                whose = f"the key in {key_from} is not that of its first certificate"
            raise CertificateLoadError(
                whose,
                hint="load the pair that was issued together; the certificate comes "
                "first in its file, the chain after it",
            )
        return cls._make(chain, private, key_from)

    @classmethod
    def _from_pkcs12(cls, data: bytes, password: Password, source: str) -> Certificate:
        return cls._make(*parse_pkcs12(data, password, source), source)

    @classmethod
    def _make(
        cls, chain: tuple[x509.Certificate, ...], private: PrivateKeyTypes, source: str
    ) -> Certificate:
        self = object.__new__(cls)
        self._chain = chain
        self._key_pem = usable_key(private, chain, source)
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
    def issuers(self) -> tuple[bytes, ...]:
        """The certificates of the chain above this one, DER."""
        return tuple(c.public_bytes(Encoding.DER) for c in self._chain[1:])

    @property
    def size(self) -> int:
        """Bytes of the chain as TLS sends it: DER, and 5 bytes for each certificate."""
        return sum(len(c.public_bytes(Encoding.DER)) + 5 for c in self._chain)

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


def _read(file: _File) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise CertificateLoadError(
            f"{os.fspath(file)}: {error.strerror}",
            hint="check the path and its permissions",
        ) from error


def _parse_chain(data: bytes, source: str) -> tuple[x509.Certificate, ...]:
    chain = parse_certificates(data, source)
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
