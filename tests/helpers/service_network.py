"""A simulated network for services: instances in this process, links in memory.

`MemoryNetwork` fills `fastnode.service.members.ServiceNode`. Its links are real ones,
without TLS and without sockets, so that a thousand instances are cheap.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from typing import Any

from fastnode import Link, NetworkOptions, NoRoute, Peer
from fastnode.buffers.pool import BufferPool
from fastnode.discovery import Target
from fastnode.dispatch.endpoint import EndpointRegistry
from fastnode.errors import FastnodeError, Side
from fastnode.link.machine import State
from fastnode.link.protocol import LinkProtocol
from fastnode.link.settings import LinkSettings
from fastnode.link.transport_protocol import TransportProtocol
from fastnode.names import NodeName
from fastnode.tls.plaintext import PlaintextEngine
from helpers.memory import MemoryTransport

__all__ = ["MemoryNetwork", "NamedTargets", "targets"]

#: What all links of a node read into.
BUFFER_BYTES = 64 << 10


def targets(numbers: Iterable[int], weight: int = 100) -> list[Target]:
    """Targets with these numbers. Each stands for one address."""
    return [Target(f"host{number}", 15000, weight) for number in numbers]


class NamedTargets:
    """A discovery that names what the test says."""

    def __init__(self, first: Sequence[Target]) -> None:
        self._targets = first
        self._news = asyncio.Event()

    def name(self, named: Sequence[Target]) -> None:
        """Name other targets from now on."""
        self._targets = named
        self._news.set()

    async def watch(self, service: str) -> AsyncIterator[Sequence[Target]]:
        while True:
            self._news.clear()
            yield self._targets
            await self._news.wait()


class _Transport(MemoryTransport):
    """Hands what is written to the other side in the next turn of the loop."""

    def __init__(self) -> None:
        super().__init__()
        self.other: _Transport | None = None

    def write(self, data: bytes) -> None:
        if not self.written:
            asyncio.get_running_loop().call_soon(self._deliver)
        super().write(data)

    def _deliver(self) -> None:
        data, at = self.take(), 0
        assert self.other is not None
        while at < len(data) and not self.other.aborted:
            buffer = memoryview(self.other.protocol.get_buffer(-1))
            size = min(len(buffer), len(data) - at)
            buffer[:size] = data[at : at + size]
            self.other.protocol.buffer_updated(size)
            at += size

    def write_eof(self) -> None:
        if not self.eof:
            super().write_eof()
            asyncio.get_running_loop().call_soon(self._hang_up)

    def abort(self) -> None:
        if not self.aborted:
            super().abort()
            asyncio.get_running_loop().call_soon(self._hang_up)
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    def _hang_up(self) -> None:
        assert self.other is not None
        if not self.other.aborted and not self.other.protocol.eof_received():
            self.other.abort()  # as the transports of asyncio


class _Owner:
    """A `LinkOwner` that admits everybody."""

    alpn = None

    def __init__(self, network: MemoryNetwork) -> None:
        self._network = network

    def may_introduce(self, protocol: LinkProtocol) -> bool:
        return True

    async def admit(self, protocol: LinkProtocol) -> Peer:
        hello = protocol.peer_hello
        return Peer(str(hello.name), protocol.address, instance=hello.instance.hex())

    def explain(self, protocol: LinkProtocol, error: Exception) -> FastnodeError:
        raise error

    def link_up(self, protocol: LinkProtocol) -> None:
        """Nothing to do: the dial returns the link."""

    def link_closing(self, protocol: LinkProtocol) -> None:
        self._network.gone(protocol)

    def link_ended(
        self, protocol: LinkProtocol, was: State, error: FastnodeError
    ) -> None:
        self._network.gone(protocol)


class MemoryNetwork:
    """A `ServiceNode` whose dials lead to instances in memory.

    Attributes:
        registry: has the endpoints of all instances.
        down: hosts that cannot be reached.
        silent: hosts that do not answer.
        instance_at: which instance is at a host, if it is not that of the host.
        links: those that are up, by instance.
        held: how many places use the links with an instance.
        dialing: dials that are under way, and the most there were at once.
    """

    name = "gateway@10.0.0.1"
    instance = "00" * 16

    def __init__(self) -> None:
        self.registry = EndpointRegistry()
        self.down: set[str] = set()
        self.silent: set[str] = set()
        self.instance_at: dict[str, str] = {}
        self.links: dict[tuple[str, str], Link] = {}
        self.held: Counter[tuple[str, str]] = Counter()
        self.dials: Counter[str] = Counter()
        self.dialing = 0
        self.most_dialing = 0
        self.tasks: set[asyncio.Task[Any]] = set()
        self._callbacks: list[Callable[[], None]] = []
        self._pool = BufferPool()
        self._buffer = bytearray(BUFFER_BYTES)

    def begin(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    async def dial(self, target: Target, *, additional: bool) -> Link:
        self.dials[target.host] += 1
        self.dialing += 1
        self.most_dialing = max(self.most_dialing, self.dialing)
        try:
            return await self._dial(target)
        finally:
            self.dialing -= 1

    async def _dial(self, target: Target) -> Link:
        host = self.instance_at.get(target.host, target.host)
        await asyncio.sleep(0)
        if target.host in self.silent:
            await asyncio.get_running_loop().create_future()
        if target.host in self.down:
            raise NoRoute(f"{target.host} is down", side=Side.REMOTE)
        instance = host.encode().ljust(16, b".")
        known = self.links.get((f"shop@{host}", instance.hex()))
        if known is not None and not known.closed:
            return known
        sides = [
            self._protocol(self.name, bytes(16), dialer=True),
            self._protocol(f"shop@{host}", instance, dialer=False),
        ]
        transports = [_Transport(), _Transport()]
        transports[0].other, transports[1].other = transports[1], transports[0]
        for side, transport in zip(sides, transports, strict=True):
            transport.set_protocol(TransportProtocol(side.connection))
            transport.protocol.connection_made(transport)
        link = await sides[0].established
        self.links[link.peer.name, link.peer.instance] = link
        self._tell()
        return link

    def _protocol(self, name: str, instance: bytes, *, dialer: bool) -> LinkProtocol:
        options = NetworkOptions(busy_poll=0, keepalive_interval=3600)
        return LinkProtocol(
            PlaintextEngine(),
            _Owner(self),
            LinkSettings.of(options, NodeName.parse(name), instance),
            EndpointRegistry() if dialer else self.registry,
            self._pool,
            self._buffer,
            dialer=dialer,
        )

    def gone(self, protocol: LinkProtocol) -> None:
        """A link takes no new messages."""
        link = protocol.link
        if link is None:
            return
        key = (link.peer.name, link.peer.instance)
        if self.links.get(key) is link:
            del self.links[key]
            self._tell()

    def link_with(self, name: str, instance: str) -> Link | None:
        return self.links.get((name, instance))

    def workers_of(self, link: Link) -> int:
        return 1

    def hold(self, name: str, instance: str) -> None:
        self.held[name, instance] += 1

    def release(self, name: str, instance: str) -> None:
        self.held[name, instance] -= 1
        assert self.held[name, instance] >= 0
        if self.held[name, instance] == 0:
            del self.held[name, instance]
            if (link := self.links.get((name, instance))) is not None:
                self.begin(link.close(0.1))

    def watch(self, callback: Callable[[], None]) -> None:
        self._callbacks.append(callback)

    def unwatch(self) -> None:
        self._callbacks.clear()

    def _tell(self) -> None:
        for callback in self._callbacks:
            callback()
