"""The interface of a link to the acceptor or dialer that it belongs to."""

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
    """Checks peers, and keeps the links of a node."""

    @property
    def alpn(self) -> str | None:
        """The application protocol that TLS must agree on; None in plaintext."""

    def may_introduce(self, protocol: LinkProtocol) -> bool:
        """Return whether a dialer may send HELLO after the TLS handshake.

        If not, the owner ends the connection. This is not called for acceptors.
        """

    async def admit(self, protocol: LinkProtocol) -> Peer:
        """Check the peer by ``protocol.presented`` and ``protocol.peer_hello``.

        Raises:
            HandshakeError: the peer is refused. The peer is told the reason.
        """

    def explain(self, protocol: LinkProtocol, error: ssl.SSLError) -> FastnodeError:
        """Return the error for an error of TLS during the handshake."""

    def link_up(self, protocol: LinkProtocol) -> None:
        """Take note that ``protocol.link`` is up."""

    def link_closing(self, protocol: LinkProtocol) -> None:
        """Take note that the link is closing, so nothing new can be sent.

        Either side may have asked for it.
        """

    def link_ended(
        self, protocol: LinkProtocol, was: State, error: FastnodeError
    ) -> None:
        """Take note that the link ended or failed to come up, with the reason."""
