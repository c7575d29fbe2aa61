"""What a node does from time to time: memory goes back, certificates are looked at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from fastnode.node.expiry import ExpiryCheck

if TYPE_CHECKING:
    import asyncio

    from fastnode.buffers.pool import BufferPool
    from fastnode.certs.manager import CertManager
    from fastnode.node.acceptor import Acceptor
    from fastnode.options import NetworkOptions, NodeOptions
    from fastnode.routing import Route, RouteTable

__all__ = ["Upkeep"]

#: How often slabs that nobody needed since the last time go back to the system, and
#: certificates are looked at for their end.
TICK_SECONDS = 30.0


class Upkeep:
    """Ticks while a node runs, and knows all certificates that it shows.

    Args:
        name: the node's, for what is said.
    """

    def __init__(
        self, name: str, options: NodeOptions, pool: BufferPool, routes: RouteTable
    ) -> None:
        self._manager = options.cert_manager
        self._network: NetworkOptions = options.network
        self._pool = pool
        self._routes = routes
        self._expiry = ExpiryCheck(name)
        self._acceptors: Sequence[Acceptor] = ()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ticker: asyncio.TimerHandle | None = None

    def refuse_expired(self) -> None:
        """Raise `CertificateError` if a certificate of the options has expired."""
        if self._network.plaintext:
            return
        self._expiry.refuse(self._manager)
        for number, options in enumerate(self._network.acceptors):
            self._expiry.refuse(options.cert_manager, f"acceptor {number}")
        for route in self._routes:
            self.refuse_route(route)

    def refuse_route(self, route: Route) -> None:
        """Raise `CertificateError` if the certificate of a route has expired."""
        if not self._network.plaintext:
            self._expiry.refuse(route.cert_manager, f"the route {route.match!r}")

    def start(
        self, loop: asyncio.AbstractEventLoop, acceptors: Sequence[Acceptor]
    ) -> None:
        """Tick from now on."""
        self._loop = loop
        self._acceptors = acceptors
        self._tick()

    def _tick(self) -> None:
        assert self._loop is not None
        self._pool.trim()
        self._expiry.log_due(self._cert_managers())
        self._ticker = self._loop.call_later(TICK_SECONDS, self._tick)

    def _cert_managers(self) -> Iterator[CertManager | None]:
        if not self._network.plaintext:
            yield self._manager
            yield from (acceptor.cert_manager for acceptor in self._acceptors)
            yield from (route.cert_manager for route in self._routes)

    def stop(self) -> None:
        """Tick no more."""
        if self._ticker is not None:
            self._ticker.cancel()

    def end(self) -> None:
        """All links are gone: give back all slabs that are free."""
        # What was used since the last time stays for one more.
        self._pool.trim()
        self._pool.trim()
