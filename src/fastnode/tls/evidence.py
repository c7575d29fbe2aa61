"""What is known when a handshake fails, besides the error itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from fastnode.openssl.verdict import Verdict
from fastnode.tls.identity import MOST_NAMES, listed, readable, subject_text

if TYPE_CHECKING:
    from cryptography import x509

    from fastnode.certs.certificate import Certificate
    from fastnode.certs.pool import CertPool

__all__ = ["Evidence"]

SYSTEM: Final = "the system's authorities"


class Evidence(NamedTuple):
    """What an error is explained with.

    Attributes:
        dialer: whether this side is the client.
        peer: the best name known for the other side.
        server_name: the name that the server's certificate was verified against.
        shown: the certificate that this side shows; None: none.
        pool: what the peer's certificate was verified against; None: the system's.
        verdict: what OpenSSL found of the peer's certificate; None where it was not
            shown one, or could not be asked.
    """

    dialer: bool
    peer: str | None = None
    server_name: str | None = None
    shown: Certificate | None = None
    pool: CertPool | None = None
    verdict: Verdict | None = None

    @property
    def whose(self) -> str:
        """The peer's certificate, in words."""
        return f"the {'server' if self.dialer else 'client'}'s certificate"

    @property
    def our_pool(self) -> str:
        """The setting against which the peer was verified."""
        return "this dialer's root_cas" if self.dialer else "this acceptor's client_cas"

    @property
    def their_pool(self) -> str:
        """The setting against which the peer verifies us."""
        return "the acceptor's client_cas" if self.dialer else "the dialer's root_cas"

    @property
    def our_authorities(self) -> str:
        """Whom this side trusts, in words."""
        if self.pool is None:
            return SYSTEM
        system = [SYSTEM] if self.pool.is_system else []
        # Only those that are shown are written: strangers cause this again and again.
        shown = self.pool.certificates[: MOST_NAMES - len(system)]
        text = listed([*system, *map(subject_text, shown)])
        more = len(self.pool) - len(shown)
        return f"{text} and {more} more" if more else text

    @property
    def their_authorities(self) -> str:
        """Whom the peer said that it trusts, in words; empty where it did not."""
        if self.verdict is None:
            return ""
        return listed([authority.text for authority in self.verdict.authorities])

    def presented(self) -> tuple[x509.Certificate, ...]:
        """What the peer presented, as far as it can be read, its own first."""
        found = self.verdict.presented if self.verdict is not None else ()
        return tuple(c for c in map(readable, found) if c is not None)
