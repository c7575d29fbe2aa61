"""A pool of authorities to trust."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from fastnode.certs.crl import CrlSet, check_crl, parse_crls, warn_if_outdated
from fastnode.errors import CertificateLoadError, SettingsFrozenError

__all__ = ["CertPool"]

_File: TypeAlias = str | os.PathLike[str]


class CertPool:
    """Certificates of authorities (or self-signed ones) that are trusted.

    It may hold certificate revocation lists too: a peer's certificate that is on the
    list of its issuer is refused, and so is every certificate of an issuer whose list
    has expired.

    A pool that a running node uses is fixed: `add` and `add_crl` raise then.
    """

    def __init__(self) -> None:
        self._certificates: dict[bytes, x509.Certificate] = {}
        self._system = False
        self._frozen = False
        self._crls = CrlSet()
        self._generation = 0

    @classmethod
    def load(cls, *files: _File) -> CertPool:
        """A pool of all certificates in PEM files.

        Raises:
            CertificateLoadError: no file given, or one is unreadable or holds none.
        """
        if not files:
            raise CertificateLoadError(
                "a pool was loaded from no file", hint="name at least one PEM file"
            )
        pool = cls()
        for file in files:
            pool._add(_read(file), os.fspath(file))
        return pool

    @classmethod
    def from_pem(cls, data: bytes | str) -> CertPool:
        """A pool of all certificates in PEM text.

        Raises:
            CertificateLoadError: there is none in it, or it is damaged.
        """
        pool = cls()
        pool.add(data)
        return pool

    @classmethod
    def from_named(cls, data: bytes, source: str) -> CertPool:
        """As `from_pem`; errors call the text by the name `source`."""
        pool = cls()
        pool._add(data, source)
        return pool

    @classmethod
    def system(cls) -> CertPool:
        """The authorities that the operating system trusts."""
        pool = cls()
        pool._system = True
        return pool

    def add(self, pem: bytes | str) -> None:
        """Add all certificates in PEM text.

        Raises:
            CertificateLoadError: there is none in it, or it is damaged; nothing was
                added.
            SettingsFrozenError: a running node uses the pool.
        """
        self._check_not_frozen()
        self._add(pem.encode() if isinstance(pem, str) else pem, "the PEM text")

    def _add(self, data: bytes, source: str) -> None:
        try:
            found = x509.load_pem_x509_certificates(data)
            if len(found) < data.count(b"-----BEGIN CERTIFICATE-----"):
                raise ValueError("a block without its end")  # which it passes over
        except ValueError as error:
            raise CertificateLoadError(
                f"{source} holds no certificate that can be read: {error}",
                hint="it must hold PEM blocks that begin with BEGIN CERTIFICATE",
            ) from None
        for certificate in found:
            self._certificates[certificate.public_bytes(Encoding.DER)] = certificate
        self._generation += 1

    # --- revocation ------------------------------------------------------------

    def load_crl(self, *files: _File) -> None:
        """Add the certificate revocation lists in files; see `add_crl`.

        Raises:
            CertificateLoadError: no file given, or one is unreadable; or as
                `add_crl`. Nothing of any of them was added.
            SettingsFrozenError: a running node uses the pool.
        """
        if not files:
            raise CertificateLoadError(
                "revocation lists were loaded from no file",
                hint="name at least one file",
            )
        self._check_not_frozen()
        self._add_crls([(_read(file), os.fspath(file)) for file in files])

    def add_crl(self, data: bytes | str) -> None:
        """Add certificate revocation lists: PEM, several at once, or one in DER.

        A newer list takes the place of an older one of the same issuer. One that has
        expired is taken too, with a warning in the log: it refuses its issuer's
        certificates until a new one is there. A list must be signed by its issuer if
        that is in the pool; others, as those of intermediates, are judged in the
        handshake.

        Raises:
            CertificateLoadError: none in it, damaged, a delta, or not signed by its
                issuer; nothing was added.
            SettingsFrozenError: a running node uses the pool.
        """
        self._check_not_frozen()
        encoded = data.encode() if isinstance(data, str) else data
        self._add_crls([(encoded, "the CRL data")])

    def _add_crls(self, texts: list[tuple[bytes, str]]) -> None:
        found = [
            (crl, source) for data, source in texts for crl in parse_crls(data, source)
        ]
        for crl, source in found:
            check_crl(crl, self.certificates, source)
        for crl, source in found:
            warn_if_outdated(crl, source)
        self._crls = self._crls.with_added(crl for crl, _source in found)
        self._generation += 1

    def take_crls_of(self, other: CertPool) -> None:
        """Take over the revocation lists of a pool that this one replaces."""
        self._check_not_frozen()
        self._crls = self._crls.with_added(other.crls)
        self._generation += 1

    @property
    def crls(self) -> tuple[x509.CertificateRevocationList, ...]:
        """The newest revocation list of each issuer of which there is one."""
        return self._crls.crls

    @property
    def crl_pem(self) -> str:
        """The revocation lists, as PEM text; empty where there are none."""
        return self._crls.pem

    # --- in use ----------------------------------------------------------------

    @property
    def generation(self) -> int:
        """Grows with everything that is added."""
        return self._generation

    def _check_not_frozen(self) -> None:
        if self._frozen:
            raise SettingsFrozenError(
                "this pool is in use by a running node",
                hint="CA pools are fixed at start: restart the node; with "
                "live_trust=True, assign a new pool to its manager",
            )

    def freeze(self) -> None:
        """Fix the pool: a node uses it."""
        self._frozen = True

    @property
    def is_system(self) -> bool:
        """Whether the operating system's authorities are in it."""
        return self._system

    @property
    def certificates(self) -> tuple[x509.Certificate, ...]:
        """The certificates that were added."""
        return tuple(self._certificates.values())

    @property
    def encoded(self) -> tuple[bytes, ...]:
        """The certificates that were added, each in DER."""
        return tuple(self._certificates)

    @property
    def pem(self) -> str:
        """The certificates that were added, as PEM text."""
        return "".join(
            certificate.public_bytes(Encoding.PEM).decode()
            for certificate in self._certificates.values()
        )

    def __len__(self) -> int:
        return len(self._certificates)

    def __repr__(self) -> str:
        names = [c.subject.rfc4514_string() for c in self.certificates]
        if self._system:
            names.append("the system's")
        return f"<CertPool: {'; '.join(names)}>"


def _read(file: _File) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise CertificateLoadError(
            f"{os.fspath(file)}: {error.strerror}",
            hint="check the path and its permissions",
        ) from error
