"""A pool of authorities to trust."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

from cryptography.hazmat.primitives.serialization import Encoding

from fastnode.certs.crl import CrlSet, check_crl, parse_crls, warn_if_outdated
from fastnode.certs.defects import calls_itself_authority, defect_of
from fastnode.certs.pem import parse_authorities
from fastnode.errors import CertificateLoadError, SettingsFrozenError
from fastnode.loggers import fields
from fastnode.names import check_flag

if TYPE_CHECKING:
    from cryptography import x509

__all__ = ["CertPool"]

_File: TypeAlias = str | os.PathLike[str]


log = logging.getLogger("fastnode.certs")

#: Certificates that one warning names.
NAMED: Final = 3


class CertPool:
    """Certificates of authorities (or self-signed ones) that are trusted.

    It may hold certificate revocation lists too: a peer's certificate that is on the
    list of its issuer is refused, and so is every certificate of an issuer whose list
    has expired.

    A certificate that can never verify a peer, because chains are checked strictly, is
    taken with a warning in the log, which says how to make one that can.

    Args:
        partial_chains: every certificate of the pool is trusted by itself, as in Go.
            Then an intermediate authority can be trusted without its root, and a
            certificate that is not one of an authority for itself. False: a chain must
            end at a self-signed certificate of the pool.

    A pool that a running node uses is fixed: `add` and `add_crl` raise then.
    """

    def __init__(self, *, partial_chains: bool = False) -> None:
        check_flag("partial_chains", partial_chains)
        self._certificates: dict[bytes, x509.Certificate] = {}
        self._partial_chains = partial_chains
        self._system = False
        self._frozen = False
        self._crls = CrlSet()
        self._generation = 0
        # How many certificates there were, and when the first one ends.
        self._expires: tuple[int, datetime | None] | None = None

    @classmethod
    def load(cls, *files: _File, partial_chains: bool = False) -> CertPool:
        """Load a pool of all certificates in PEM files.

        Args:
            partial_chains: see `CertPool`.

        Raises:
            CertificateLoadError: no file given, or one is unreadable, holds none, or
                holds something that would be left out.
        """
        if not files:
            raise CertificateLoadError(
                "a pool was loaded from no file", hint="name at least one PEM file"
            )
        pool = cls(partial_chains=partial_chains)
        for file in files:
            pool._add(_read(file), os.fspath(file))
        return pool

    @classmethod
    def from_pem(cls, data: bytes | str, *, partial_chains: bool = False) -> CertPool:
        """Make a pool of all certificates in PEM text.

        Args:
            partial_chains: see `CertPool`.

        Raises:
            CertificateLoadError: there is none in it, it is damaged, or it holds
                something that would be left out.
        """
        pool = cls(partial_chains=partial_chains)
        pool.add(data)
        return pool

    @classmethod
    def from_named(
        cls, data: bytes, source: str, *, partial_chains: bool = False
    ) -> CertPool:
        """As `from_pem`; errors call the text by the name `source`."""
        pool = cls(partial_chains=partial_chains)
        pool._add(data, source)
        return pool

    def replacing(self, old: CertPool | None) -> CertPool:
        """Return a new pool with these authorities, in the place of another pool.

        It treats partial chains as the old pool does, and keeps its revocation lists: a
        certificate that was revoked stays revoked.
        """
        partial = self._partial_chains if old is None else old.partial_chains
        pool = type(self)(partial_chains=partial)
        pool._certificates = dict(self._certificates)
        pool._crls = self._crls if old is None else self._crls.with_added(old.crls)
        pool._generation = 1
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
        found = parse_authorities(data, source)
        _warn_of_defects(found, source, partial_chains=self._partial_chains)
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
        if not self._frozen:
            self._frozen = True
            self._warn_of_intermediates()

    def _warn_of_intermediates(self) -> None:
        """Log the authorities that verify nobody, because their own issuer is not
        trusted."""
        if self._partial_chains or self._system:
            return
        subjects = {each.subject for each in self._certificates.values()}
        alone = [
            each
            for each in self._certificates.values()
            if each.issuer not in subjects and defect_of(each) is None
        ]
        if alone:
            log.warning(
                "a pool holds %s without %s, which issued it: such a certificate "
                "verifies nobody; add its issuer to the pool, or make the pool with "
                "partial_chains=True",
                _named(alone),
                _text(alone[0].issuer),
                extra=fields("issuer_missing", certificate=alone[0]),
            )

    @property
    def partial_chains(self) -> bool:
        """Whether each certificate is trusted by itself, not as a root only."""
        return self._partial_chains

    @property
    def is_system(self) -> bool:
        """Whether the operating system's authorities are in it."""
        return self._system

    @property
    def certificates(self) -> tuple[x509.Certificate, ...]:
        """The certificates that were added."""
        return tuple(self._certificates.values())

    @property
    def expires_at(self) -> datetime | None:
        """When the first certificate of the pool ends, aware, UTC. None if there is
        none, as in a pool of the system."""
        if self._expires is None or self._expires[0] != len(self._certificates):
            ends = [each.not_valid_after_utc for each in self._certificates.values()]
            self._expires = len(ends), min(ends, default=None)
        return self._expires[1]

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


def _warn_of_defects(
    found: Iterable[x509.Certificate], source: str, *, partial_chains: bool
) -> None:
    """Log the certificates that strict checking refuses, with the first defect."""
    broken = [
        (each, rule)
        for each in found
        if (rule := defect_of(each)) is not None
        and not (partial_chains and not calls_itself_authority(each))
    ]
    if not broken:
        return
    first, rule = broken[0]
    more = f" (and {len(broken) - 1} more like it)" if len(broken) > 1 else ""
    log.warning(
        "%s: no peer can be verified by %s%s: it %s, and chains are checked strictly "
        "(RFC 5280); make its certificate anew, with the same key and name, and with: "
        "%s (see Authorities of your own in docs/tls.md)",
        source,
        _text(first.subject),
        more,
        rule.broken,
        rule.remedy,
        extra=fields("authority_unusable", certificate=first, file=source),
    )


def _named(certificates: Sequence[x509.Certificate]) -> str:
    text = ", ".join(_text(each.subject) for each in certificates[:NAMED])
    more = len(certificates) - NAMED
    return f"{text} and {more} more" if more > 0 else text


def _text(name: x509.Name) -> str:
    try:
        return name.rfc4514_string() or "an authority without a name"
    except Exception:  # a TypeError, for one, where an attribute is no text
        return "an authority with an unreadable name"


def _read(file: _File) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise CertificateLoadError(
            f"{os.fspath(file)}: {error.strerror}",
            hint="check the path and its permissions",
        ) from error
