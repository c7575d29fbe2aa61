"""What a node does from time to time: memory goes back, certificates are looked at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from fastnode.limits import SPARE_SECONDS
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
        self._aging: asyncio.TimerHandle | None = None
        self._giving: asyncio.Handle | None = None

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
        self._pool.spares.on_kept = self._spare_kept
        self._tick()

    def _tick(self) -> None:
        assert self._loop is not None
        self._pool.trim()
        self._expiry.log_due(self._cert_managers())
        self._ticker = self._loop.call_later(TICK_SECONDS, self._tick)

    def _spare_kept(self) -> None:
        """A large payload was kept: see that it goes back some time, and older ones
        now, a piece in each turn of the loop."""
        assert self._loop is not None
        if self._aging is None:
            self._aging = self._loop.call_later(SPARE_SECONDS, self._age_spares)
        if self._giving is None and self._pool.spares.due:
            self._giving = self._loop.call_soon(self._give_back)

    def _age_spares(self) -> None:
        self._aging = None
        self._pool.spares.age()
        if self._pool.spares:
            self._spare_kept()

    def _give_back(self) -> None:
        self._giving = None
        self._pool.spares.give_back()
        if self._pool.spares:
            self._spare_kept()

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
        """All links are gone: give back all memory that is free."""
        for handle in (self._aging, self._giving):
            if handle is not None:
                handle.cancel()
        self._pool.spares.clear()
        # What was used since the last time stays for one more.
        self._pool.trim()
        self._pool.trim()
