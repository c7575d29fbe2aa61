"""Faults between nodes: connections that a test can cut, drop, silence and delay.

Each node dials each other node through a `Proxy` of its own, and a route leads to the
proxy. So the nodes need no change, and the faults are those of real TCP connections.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self

from fastnode import ConfigError
from fastnode.discovery import Target
from fastnode.names import NodeName
from fastnode.node.node import Node
from fastnode.testing.proxy import Proxy, Way
from fastnode.testing.routes import address_of, route_to
from fastnode.testing.seconds import check_seconds

__all__ = ["Network"]


class Network:
    """The connections between nodes, for tests of what happens when they fail.

    Give it to `pair` or `cluster`, or connect nodes of your own with `introduce`. A
    network belongs to the event loop of the test. ``async with`` closes it; `pair` and
    `cluster` do that too.

    A fault is between two nodes, whichever of them dials. It stays until `restore`.
    The methods take nodes or node names. They return at once. The nodes hear of a fault
    as they would in a real network, so wait for what follows from it: for example
    ``await link.wait_closed()``.
    """

    def __init__(self) -> None:
        # By the dialer and the node that it dials.
        self._proxies: dict[tuple[str, str], Proxy] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def introduce(self, node: Node, other: Node) -> None:
        """Let a node dial another one through this network.

        It adds a route to `node`. Call it again when another node with the name of
        `other` was started: the same route then leads to that one.

        Raises:
            ConfigError: `other` has no acceptor, or `node` has a route of its own for
                the name.
        """
        address = address_of(other)
        pair = (node.name, other.name)
        known = self._proxies.get(pair)
        proxy = known or Proxy()
        if known is None:
            await proxy.start(address)
        else:
            proxy.retarget(address)
        try:
            route = route_to(other, proxy.address)
            if route not in node.routes(other.name):
                node.add_route(route)
        except BaseException:
            if known is None:
                await proxy.close()
            raise
        self._proxies[pair] = proxy

    def target(self, node: Node | str, other: Node | str) -> Target:
        """Return the target at which a node reaches another one through this network.

        A service dials the addresses that its discovery names, and no routes. So the
        discovery of a test has to name this target. Otherwise the service dials the
        other node itself, and no fault has an effect::

            discovery = StaticDiscovery({"billing": [network.target(orders, billing)]})
            service = orders.service("billing", discovery=discovery)

        Args:
            node: the node that dials.
            other: the instance of the service.

        Raises:
            ConfigError: `node` does not dial `other` through this network.
        """
        names = (_name_of(node), _name_of(other))
        proxy = self._proxies.get(names)
        if proxy is None:
            raise _not_here(*names)
        return Target(*proxy.address)

    # --- faults --------------------------------------------------------------------

    def drop(self, one: Node | str, other: Node | str) -> None:
        """End the connections between two nodes with a reset.

        Both nodes lose their link (`LinkLost`). They may connect again at once.

        Raises:
            ConfigError: the two nodes do not use this network.
        """
        for _, proxy in self._between(one, other):
            proxy.reset()

    def cut(self, one: Node | str, other: Node | str) -> None:
        """End the connections between two nodes, and refuse new ones.

        Both nodes lose their link (`LinkLost`). Until `restore`, to connect raises
        `NoRoute`, as for a node that does not run.

        Raises:
            ConfigError: the two nodes do not use this network.
        """
        for _, proxy in self._between(one, other):
            proxy.listens = False
            proxy.reset()

    def silence(
        self, one: Node | str, other: Node | str, *, one_way: bool = False
    ) -> None:
        """Let nothing arrive any more, without telling the two nodes.

        A broken cable, or a firewall that discards packets, looks like this. Links stay
        up until keepalive finds them dead. To connect fails after
        ``handshake_timeout``. After `restore`, links that are still up deliver what was
        sent meanwhile.

        Args:
            one_way: only what `one` sends to `other` does not arrive.

        Raises:
            ConfigError: the two nodes do not use this network.
        """
        for way in self._ways(one, other, one_way):
            way.silent = True

    def delay(
        self,
        one: Node | str,
        other: Node | str,
        seconds: float,
        *,
        one_way: bool = False,
    ) -> None:
        """Let everything between two nodes arrive later.

        Args:
            seconds: the delay in each direction, so a round trip takes twice as long.
                0 ends the delay for what is sent from now on.
            one_way: only what `one` sends to `other` is delayed.

        Raises:
            ConfigError: the two nodes do not use this network, or `seconds` is not a
                number of seconds from 0.
        """
        seconds = check_seconds("the delay", seconds)
        for way in self._ways(one, other, one_way):
            way.delay = seconds

    def restore(
        self, one: Node | str | None = None, other: Node | str | None = None
    ) -> None:
        """End all faults, between two nodes or in the whole network.

        Links that were lost do not come back by themselves, except those of
        `Node.keep_connected`.

        Raises:
            ConfigError: the two nodes do not use this network, or only one was given.
        """
        if (one is None) is not (other is None):
            raise ConfigError(
                "restore needs two nodes, or none",
                hint="restore() ends all faults of the network",
            )
        found: Iterable[Proxy] = self._proxies.values()
        if one is not None and other is not None:
            found = [proxy for _, proxy in self._between(one, other)]
        for proxy in found:
            proxy.listens = True
            for way in (proxy.up, proxy.down):
                way.silent = False
                way.delay = 0.0

    # --- the end -------------------------------------------------------------------

    def release(self) -> None:
        """End all faults, and drop the connections that had one.

        So nodes that stop after this wait for nothing that is held back.
        """
        for proxy in self._proxies.values():
            if proxy.up.disturbed or proxy.down.disturbed:
                proxy.reset()
        self.restore()

    async def close(self) -> None:
        """Close all connections, and stop listening. Routes of nodes stay."""
        proxies, self._proxies = self._proxies, {}
        for proxy in proxies.values():
            await proxy.close()

    # --- inside --------------------------------------------------------------------

    def _between(
        self, one: Node | str, other: Node | str
    ) -> Iterator[tuple[bool, Proxy]]:
        """Yield the proxies between two nodes, and whether `one` is the dialer."""
        names = (_name_of(one), _name_of(other))
        found = [
            (names == pair, proxy)
            for pair, proxy in self._proxies.items()
            if pair in (names, names[::-1])
        ]
        if not found:
            raise _not_here(*names)
        yield from found

    def _ways(self, one: Node | str, other: Node | str, one_way: bool) -> Iterator[Way]:
        """Yield the directions from `one` to `other`, and back unless `one_way`."""
        for dials, proxy in self._between(one, other):
            there, back = (proxy.up, proxy.down) if dials else (proxy.down, proxy.up)
            yield there
            if not one_way:
                yield back


def _name_of(node: Node | str) -> str:
    return node.name if isinstance(node, Node) else str(NodeName.parse(node))


def _not_here(one: str, other: str) -> ConfigError:
    return ConfigError(
        f"{one} and {other} do not use this network",
        hint="give it to pair(network=...) or cluster(network=...), or call introduce",
    )
