"""What a link asks of the acceptor or dialer that it belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import ssl

    from fastnode.errors import FastnodeError
    from fastnode.link.machine import State
    from fastnode.link.protocol import LinkProtocol
    from fastnode.peer import Peer

__all__ = ["LinkOwner"]


class LinkOwner(Protocol):
    """Judges peers and keeps the links of a node."""

    @property
    def alpn(self) -> str | None:
        """The application protocol that TLS must agree on; None in plaintext."""

    def may_introduce(self, protocol: LinkProtocol) -> bool:
        """Whether a dialer may say HELLO on this connection, whose TLS handshake is
        complete. If not, the owner ends the connection. Acceptors are not asked."""

    async def admit(self, protocol: LinkProtocol) -> Peer:
        """Judge the peer by ``protocol.presented`` and ``protocol.peer_hello``.

        Raises:
            HandshakeError: it is refused; the peer is told why.
        """

    def explain(self, protocol: LinkProtocol, error: ssl.SSLError) -> FastnodeError:
        """The error for one that TLS raised during the handshake."""

    def link_up(self, protocol: LinkProtocol) -> None:
        """The link is up: ``protocol.link``."""

    def link_closing(self, protocol: LinkProtocol) -> None:
        """The link is closing, because either side wants it: nothing new can be
        sent."""

    def link_ended(
        self, protocol: LinkProtocol, was: State, error: FastnodeError
    ) -> None:
        """The link ended, or never came up, for this reason."""
