"""Where to dial a node, and by which trust: routes, a resolver, or the name's host."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from fastnode.dispatch.user_code import HookFailed, text_of
from fastnode.errors import FastnodeError, NoRoute, Side
from fastnode.limits import DEFAULT_PORT
from fastnode.loggers import fields
from fastnode.names import check_address, joined, verified_host

if TYPE_CHECKING:
    from fastnode.certs.manager import CertManager
    from fastnode.names import NodeName
    from fastnode.node.slow import SlowCallbacks
    from fastnode.options import Resolver
    from fastnode.peer import Address
    from fastnode.routing import RouteTable

__all__ = ["NOTHING_MATCHED", "Target", "Targets"]

log = logging.getLogger("fastnode.node")

#: How an address was found that nobody named.
NOTHING_MATCHED: Final = "no route or resolver matched"


@dataclass(frozen=True, slots=True)
class Target:
    """Where to connect, by which trust, and how that was found.

    Attributes:
        weight: of the route; targets of the same weight are equals.
        verifies_name: whether TLS compares `server_name` with the certificate.
    """

    host: str
    port: int
    cert_manager: CertManager | None
    server_name: str
    insecure: bool
    found: str
    weight: int = 0
    verifies_name: bool = True

    def __str__(self) -> str:
        return joined(self.host, self.port)


@dataclass(frozen=True, slots=True)
class Targets:
    """Finds what to dial for the names of other nodes.

    Attributes:
        routes: asked first.
        resolver: the user's hook, asked where no route matches.
        resolve_seconds: how long the resolver may take.
        cert_manager: the node's; a route may have one of its own.
        insecure_skip_verify: the node's value, likewise.
        slow: calls the resolver.
    """

    routes: RouteTable
    resolver: Resolver | None
    resolve_seconds: float
    cert_manager: CertManager | None
    insecure_skip_verify: bool
    slow: SlowCallbacks

    async def find(self, name: NodeName) -> list[Target]:
        """Return what to try, in order: the routes that match by weight, else what the
        resolver returns, else the name's own host at the default port.

        Raises:
            NoRoute: the resolver failed, took too long, or returned no good address.
        """
        routes = self.routes.matching(str(name))
        if routes:
            return [
                self._target(
                    (route.host, route.port),
                    f"by the route {route.match!r}",
                    route.cert_manager,
                    route.server_name,
                    route.insecure_skip_verify,
                    route.weight,
                )
                for route in routes
            ]
        if self.resolver is None:
            return [self._target((name.host, DEFAULT_PORT), NOTHING_MATCHED)]
        addresses = await self._resolve(self.resolver, str(name))
        return [self._target(address, "by the resolver") for address in addresses]

    def at(self, address: Address, server_name: str | None) -> Target:
        """Return the target for one address of a service.

        Nobody but a discovery vouches for the host of the address, so TLS does not
        compare the host with the certificate. `fastnode.node.membership` says what is
        compared in its place. Only the server name of the cert manager is verified by
        TLS too, if there is one.

        Args:
            server_name: the host that the caller has fixed for the service, which is
                sent as SNI.
        """
        target = self._target(address, "by its address", server_name=server_name)
        manager = self.cert_manager
        fixed = manager is not None and manager.server_name is not None
        return replace(target, verifies_name=fixed and server_name is None)

    def _target(
        self,
        address: Address,
        found: str,
        cert_manager: CertManager | None = None,
        server_name: str | None = None,
        insecure: bool | None = None,
        weight: int = 0,
    ) -> Target:
        host, port = address
        manager = cert_manager or self.cert_manager
        known = manager.server_name if manager is not None else None
        return Target(
            host=host,
            port=port,
            cert_manager=manager,
            server_name=verified_host(server_name or known or host),
            insecure=self.insecure_skip_verify if insecure is None else insecure,
            found=found,
            weight=weight,
        )

    async def _resolve(self, resolver: Resolver, name: str) -> Sequence[Address]:
        """Return the addresses that the resolver knows, checked.

        One bad address does not hide the good ones: it is left out with a warning.
        """
        scope = asyncio.timeout(self.resolve_seconds)
        try:
            async with scope:
                answer = await self.slow.ask("resolver", resolver, name)
            # The answer is an object of the user, whose iteration may raise.
            entries = [] if answer is None else self.slow.call("resolver", list, answer)
        except (TimeoutError, HookFailed) as failed:
            if scope.expired():
                raise _no_route(
                    name,
                    f"the resolver did not say within {self.resolve_seconds:g} s "
                    f"where {name} is",
                    "see what the resolver waits for, or add a route",
                ) from failed
            error = failed.error if isinstance(failed, HookFailed) else failed
            if isinstance(error, FastnodeError):
                raise error from None
            raise _no_route(
                name,
                f"the resolver failed on {name}: {failed}",
                "see the exception that caused this one, and mend the resolver",
            ) from error
        good, bad = self._sorted(entries)
        if bad:
            text = "%d of %d addresses that the resolver returned for %s are unusable: "
            log.warning(
                text + "%s",
                len(bad),
                len(entries),
                name,
                bad[0],
                extra=fields("addresses_unusable", peer=name),
            )
        if good:
            return good
        if bad:
            raise _no_route(
                name,
                f"the resolver returned no usable address of {name}: {bad[0]}",
                "return a sequence of (host, port): a str and an int",
            )
        raise _no_route(
            name,
            f"the resolver knows no address of {name}",
            "add a route, or register the node with the resolver",
        )

    def _sorted(self, entries: Sequence[object]) -> tuple[list[Address], list[str]]:
        """The good addresses, and what is wrong with the bad ones."""
        good, bad = [], []
        for entry in entries:
            try:
                good.append(self.slow.call("resolver", check_address, entry))
            except HookFailed as failed:
                bad.append(text_of(failed.error))
        return good, bad


def _no_route(name: str, text: str, hint: str) -> NoRoute:
    return NoRoute(text, peer=name, side=Side.LOCAL, hint=hint)
