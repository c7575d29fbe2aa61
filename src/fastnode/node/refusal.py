"""A connection to an acceptor that did not become a link, and why."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from fastnode.certs.sans import sans_of
from fastnode.errors import Side
from fastnode.tls.identity import (
    describe,
    issuer_text,
    readable,
    subject_text,
)

if TYPE_CHECKING:
    from cryptography import x509

    from fastnode.errors import FastnodeError
    from fastnode.link.protocol import LinkProtocol
    from fastnode.peer import Address

__all__ = ["Refusal"]


@dataclass(frozen=True, slots=True)
class Refusal:
    """What ``on_refused`` is told; not of connections that end without a word.

    Attributes:
        error: the reason; the peer is told the same.
        address: host and port of the dialer.
        name: the node name that it gave itself; None if it did not come to that.
        certificate: what it presented, verified or not; None if nothing, or where
            OpenSSL does not tell (see docs/tls.md).
    """

    error: FastnodeError
    address: Address
    name: str | None
    certificate: x509.Certificate | None

    @classmethod
    def of(cls, protocol: LinkProtocol, error: FastnodeError) -> Refusal:
        """The refusal of a connection that has just ended."""
        verdict, hello = protocol.presented.verdict, protocol.peer_hello
        der = None
        if verdict is not None and verdict.presented:
            der = verdict.presented[0]
        elif hello is not None:
            der = protocol.presented.certificate
        host, port = protocol.address
        return cls(
            error=error,
            address=(host, port),
            name=None if hello is None else str(hello.name),
            certificate=readable(der),
        )

    @property
    def reason(self) -> str:
        """The name of the error's class, as acceptors count it."""
        return type(self.error).__name__

    @property
    def hint(self) -> str | None:
        """What to do about it."""
        return self.error.hint

    @property
    def side(self) -> Side:
        """Who refused: this side (LOCAL), or the dialer (REMOTE)."""
        return self.error.side or Side.REMOTE

    @property
    def subject(self) -> str | None:
        """The certificate's subject, RFC 4514, cut to be logged."""
        shown = self.certificate
        return None if shown is None else subject_text(shown)

    @property
    def issuer(self) -> str | None:
        """The certificate's issuer, RFC 4514, cut to be logged."""
        shown = self.certificate
        return None if shown is None else issuer_text(shown)

    @property
    def sans(self) -> tuple[str, ...]:
        """The certificate's DNS, IP and URI subject alternative names."""
        return sans_of(self.certificate) if self.certificate is not None else ()

    @property
    def not_valid_before(self) -> datetime | None:
        """When the certificate begins; aware, UTC; None where it is unreadable."""
        return self._date("not_valid_before_utc")

    @property
    def not_valid_after(self) -> datetime | None:
        """When the certificate ends; aware, UTC; None where it is unreadable."""
        return self._date("not_valid_after_utc")

    def _date(self, which: str) -> datetime | None:
        try:
            found: datetime | None = getattr(self.certificate, which, None)
        except ValueError:  # the year 0: strangers write what they like
            return None
        return found

    def __str__(self) -> str:
        host, port = self.address
        said = f"{host}:{port}: {self.reason}: {self.error}"
        if self.certificate is not None:
            return f"{said}; {describe(self.certificate)}"
        # If the dialer refused, the reason is about our certificate.
        return said if self.side is Side.REMOTE else f"{said}; no certificate seen"
