"""A pool of authorities to trust."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from fastnode.errors import CertificateLoadError, SettingsFrozenError

__all__ = ["CertPool"]

_File: TypeAlias = str | os.PathLike[str]


class CertPool:
    """Certificates of authorities (or self-signed ones) that are trusted.

    A pool that a running node uses is fixed: `add` raises then.
    """

    def __init__(self) -> None:
        self._certificates: dict[bytes, x509.Certificate] = {}
        self._system = False
        self._frozen = False

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
            try:
                data = Path(file).read_bytes()
            except OSError as error:
                raise CertificateLoadError(
                    f"{os.fspath(file)}: {error.strerror}",
                    hint="check the path and its permissions",
                ) from error
            pool._add(data, os.fspath(file))
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
        if self._frozen:
            raise SettingsFrozenError(
                "this pool is in use by a running node",
                hint="CA pools are fixed at start: restart the node; with "
                "live_trust=True, assign a new pool to its manager",
            )
        self._add(pem.encode() if isinstance(pem, str) else pem, "the PEM text")

    def _add(self, data: bytes, source: str) -> None:
        try:
            found = x509.load_pem_x509_certificates(data)
        except ValueError as error:
            raise CertificateLoadError(
                f"{source} holds no certificate that can be read: {error}",
                hint="it must hold PEM blocks that begin with BEGIN CERTIFICATE",
            ) from None
        for certificate in found:
            self._certificates[certificate.public_bytes(Encoding.DER)] = certificate

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
