"""Two links in memory, without TLS, without sockets: what a message costs by itself."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

from fastnode import NetworkOptions
from fastnode.buffers.pool import BufferPool
from fastnode.dispatch.endpoint import EndpointRegistry
from fastnode.link.link import Link
from fastnode.link.protocol import LinkProtocol
from fastnode.link.settings import LinkSettings
from fastnode.link.transport_protocol import TransportProtocol
from fastnode.names import NodeName
from fastnode.peer import Peer
from fastnode.tls.plaintext import PlaintextEngine
from fastnode.wire.hello import INSTANCE_BYTES

if TYPE_CHECKING:
    from fastnode.errors import FastnodeError
    from fastnode.link.machine import State

BUFFER_BYTES = 256 << 10


class Welcoming:
    """A `LinkOwner` that admits everybody."""

    alpn = None

    def may_introduce(self, protocol: LinkProtocol) -> bool:
        return True

    async def admit(self, protocol: LinkProtocol) -> Peer:
        return Peer(str(protocol.peer_hello.name), protocol.address)

    def explain(self, protocol: LinkProtocol, error: Exception) -> FastnodeError:
        raise error

    def link_up(self, protocol: LinkProtocol) -> None:
        pass

    def link_closing(self, protocol: LinkProtocol) -> None:
        pass

    def link_ended(
        self, protocol: LinkProtocol, was: State, error: FastnodeError
    ) -> None:
        pass


class MemoryTransport(asyncio.Transport):
    """Hands what is written to the other side in the next loop turn."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self.loop = loop
        self.written = bytearray()
        self.other: MemoryTransport | None = None
        #: The protocol of the other side. The link there may change it.
        self.receiver: Any = None
        self.closed = False

    def write(self, data: Any) -> None:
        if not self.written:
            self.loop.call_soon(self.deliver)
        self.written += data

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def deliver(self) -> None:
        """A loop turn is over."""
        data, self.written = self.written, bytearray()
        at = 0
        while at < len(data):
            receiver = self.receiver
            buffer = memoryview(receiver.get_buffer(-1))
            size = min(len(buffer), len(data) - at)
            buffer[:size] = data[at : at + size]
            receiver.buffer_updated(size)
            at += size

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else default

    def set_protocol(self, protocol: Any) -> None:
        assert self.other is not None
        self.other.receiver = protocol

    def set_write_buffer_limits(
        self, high: int | None = None, low: int | None = None
    ) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return len(self.written)

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def can_write_eof(self) -> bool:
        return False

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True


class LinkPair:
    """A link that dialed and one that accepted; handlers go into `registry`.

    Made by `connected`, inside of a loop.
    """

    def __init__(self) -> None:
        self.registry = EndpointRegistry()
        self._pool = BufferPool()
        self._dialer = self._protocol("client@127.0.0.1", dialer=True)
        self._acceptor = self._protocol("server@127.0.0.1", dialer=False)

    def _protocol(self, name: str, *, dialer: bool) -> LinkProtocol:
        return LinkProtocol(
            PlaintextEngine(),
            Welcoming(),
            # Nobody else has to run for a reply here.
            LinkSettings.of(
                NetworkOptions(busy_poll=0),
                NodeName.parse(name),
                os.urandom(INSTANCE_BYTES),
            ),
            EndpointRegistry() if dialer else self.registry,
            self._pool,
            bytearray(BUFFER_BYTES),
            dialer=dialer,
        )

    async def connected(self) -> Link:
        """Bring both up; the link of the side that sends."""
        loop = asyncio.get_running_loop()
        sides = [self._dialer, self._acceptor]
        transports = [MemoryTransport(loop) for _ in sides]
        transports[0].other, transports[1].other = transports[1], transports[0]
        for side, transport in zip(sides, transports, strict=True):
            protocol = TransportProtocol(side.connection)
            transport.set_protocol(protocol)
            protocol.connection_made(transport)
        await self._acceptor.established
        return await self._dialer.established

    def close(self) -> None:
        """Both transports are lost."""
        for side in (self._dialer, self._acceptor):
            side.connection_lost(None)
