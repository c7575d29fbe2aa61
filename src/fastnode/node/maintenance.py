"""What a node does from time to time: it frees memory and checks certificates."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from fastnode.certs.expiry import Notice, due_notice, refuse_expired
from fastnode.limits import SPARE_SECONDS
from fastnode.loggers import fields

if TYPE_CHECKING:
    import asyncio

    from fastnode.buffers.pool import BufferPool
    from fastnode.certs.manager import CertManager
    from fastnode.node.acceptor import Acceptor
    from fastnode.options import NetworkOptions, NodeOptions
    from fastnode.routing import Route, RouteTable

__all__ = ["ExpiryCheck", "Maintenance"]

certs_log = logging.getLogger("fastnode.certs")

#: How often unused slabs are freed, and certificates are checked for their end.
TICK_SECONDS = 30.0


class ExpiryCheck:
    """Refuses expired certificates, and logs certificates that are about to expire.

    Args:
        node: the name of the node, for errors and the log.
    """

    def __init__(self, node: str) -> None:
        self._node = node
        self._last: dict[CertManager, Notice] = {}

    def refuse(self, manager: CertManager | None, place: str = "") -> None:
        """Raise `CertificateError` if the certificate of a manager has expired.

        Args:
            place: what uses the manager, as "acceptor 0"; empty: the node itself.
        """
        if manager is not None:
            what = f"{place} of node {self._node}" if place else f"node {self._node}"
            refuse_expired(what, manager.certificate, datetime.now(UTC))

    def log_due(
        self, managers: Iterable[CertManager | None], now: datetime | None = None
    ) -> None:
        """Log each notice that is due about the certificates of these managers.

        Args:
            now: an aware time; None means the current time.
        """
        if now is None:
            now = datetime.now(UTC)
        used = {manager for manager in managers if manager is not None}
        self._last = {m: last for m, last in self._last.items() if m in used}
        for manager in used:
            certificate = manager.certificate
            if certificate is None:
                continue
            notice = due_notice(certificate, now, self._last.get(manager))
            if notice is not None:
                self._last[manager] = notice
                certs_log.log(
                    notice.level,
                    "%s: %s",
                    self._node,
                    notice.text,
                    extra=fields(
                        "certificate_expiry", node=self._node, certificate=certificate
                    ),
                )


class Maintenance:
    """Frees memory while a node runs, and checks all certificates that it shows.

    Args:
        name: the name of the node, for errors and the log.
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
        """Begin the regular work."""
        self._loop = loop
        self._acceptors = acceptors
        self._pool.spares.on_kept = self._spare_kept
        self._tick()

    def _tick(self) -> None:
        assert self._loop is not None
        self._pool.trim()
        self._expiry.log_due(self.cert_managers())
        self._ticker = self._loop.call_later(TICK_SECONDS, self._tick)

    def _spare_kept(self) -> None:
        """Plan to free a large payload that was kept. Older ones that are due are freed
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

    def cert_managers(self) -> Iterator[CertManager | None]:
        """Return the managers of all certificates that the node shows."""
        if not self._network.plaintext:
            yield self._manager
            yield from (acceptor.cert_manager for acceptor in self._acceptors)
            yield from (route.cert_manager for route in self._routes)

    def stop(self) -> None:
        """End the regular work."""
        if self._ticker is not None:
            self._ticker.cancel()

    def free_memory(self) -> None:
        """Free all unused memory. All links have ended."""
        for handle in (self._aging, self._giving):
            if handle is not None:
                handle.cancel()
        self._pool.spares.clear()
        # The first call keeps the slabs that were used since the last call.
        self._pool.trim()
        self._pool.trim()
