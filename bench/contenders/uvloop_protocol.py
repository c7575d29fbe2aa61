"""An asyncio.Protocol on uvloop over uvloop's own TLS, parsed in Python."""

from __future__ import annotations

import asyncio
import itertools
import ssl
from collections.abc import Callable
from functools import partial
from typing import cast

import uvloop

import trust as certificates
from contenders.contender import HEADER, HOST, Contender, Counter, in_batches


class UvloopProtocol(Contender):
    name = "uvloop, a write per message"
    about = "Protocol, transport.write of each message; uvloop"

    coalesce = False
    server: asyncio.Server | None = None
    context: ssl.SSLContext | None = None

    @staticmethod
    def new_loop() -> asyncio.AbstractEventLoop:
        return uvloop.new_event_loop()

    async def serve(self) -> int:
        counter = Counter()
        self.server = await asyncio.get_running_loop().create_server(
            partial(Connection, counter.handle, self.coalesce),
            HOST,
            0,
            ssl=certificates.context(self.trust, certificates.SERVER, server=True),
        )
        port: int = self.server.sockets[0].getsockname()[1]
        return port

    async def connect(self, port: int, number: int = 0) -> None:
        if self.context is None:
            self.context = certificates.context(
                self.trust, certificates.client_name(number), server=False
            )
        _, protocol = await asyncio.get_running_loop().create_connection(
            partial(Connection, None, self.coalesce),
            HOST,
            port,
            ssl=self.context,
            server_hostname=HOST,
        )
        self.connection = protocol

    async def send_many(self, payload: bytes, count: int) -> None:
        connection = self.connection
        for _ in range(count):
            connection.transport.write(HEADER.pack(len(payload), 0) + payload)
            if not connection.writable.is_set():
                await connection.writable.wait()

    async def call(self, payload: bytes) -> bytes:
        return await self.connection.call(payload)

    async def disconnect(self) -> None:
        self.connection.transport.close()
        await self.connection.lost.wait()

    async def close(self) -> None:
        if self.server is not None:
            self.server.close()
        elif not self.connection.lost.is_set():
            await self.disconnect()


class UvloopCoalesced(UvloopProtocol):
    name = "uvloop, coalesced"
    about = "the same, with all messages of 64 KiB or a loop turn joined by hand"

    coalesce = True

    async def send_many(self, payload: bytes, count: int) -> None:
        connection = self.connection
        batches = in_batches(len(payload))(count)
        for start in batches:
            frames = [
                HEADER.pack(len(payload), 0) + payload
                for _ in range(min(batches.step, count - start))
            ]
            connection.transport.write(b"".join(frames))
            if not connection.writable.is_set():
                await connection.writable.wait()


class Connection(asyncio.Protocol):
    """Either side of a connection."""

    transport: asyncio.Transport

    def __init__(self, handle: Callable[[bytes], None] | None, coalesce: bool) -> None:
        self.handle = handle
        self.coalesce = coalesce
        self.rest = bytearray()
        self.outgoing: list[bytes] = []
        self.numbers = itertools.count(1)
        self.waiting: dict[int, asyncio.Future[bytes]] = {}
        self.writable = asyncio.Event()
        self.writable.set()
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.loop = asyncio.get_running_loop()
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def data_received(self, data: bytes) -> None:
        at = self.complete(data) if self.rest else 0
        end = len(data)
        while end - at >= HEADER.size:
            size, number = HEADER.unpack_from(data, at)
            after = at + HEADER.size + size
            if after > end:
                break
            self.received(data[at + HEADER.size : after], number)
            at = after
        self.rest += memoryview(data)[at:]

    def complete(self, data: bytes) -> int:
        """Add to the frame that came in parts; how much of `data` it took."""
        rest, at = self.rest, 0
        if len(rest) < HEADER.size:
            at = HEADER.size - len(rest)
            rest += data[:at]
            if len(rest) < HEADER.size:
                return len(data)
        size: int
        size, number = HEADER.unpack_from(rest)
        missing = HEADER.size + size - len(rest)
        rest += memoryview(data)[at : at + missing]
        if len(data) - at < missing:
            return len(data)
        with memoryview(rest) as view:
            payload = bytes(view[HEADER.size :])
        rest.clear()
        self.received(payload, number)
        return at + missing

    def received(self, payload: bytes, number: int) -> None:
        """A frame has come."""
        if self.handle is None:
            self.waiting.pop(number).set_result(payload)
        elif number:
            self.write(HEADER.pack(len(payload), number) + payload)
        else:
            self.handle(payload)

    def call(self, payload: bytes) -> asyncio.Future[bytes]:
        """Send a call; its reply."""
        number = next(self.numbers)
        waiter = self.waiting[number] = self.loop.create_future()
        self.write(HEADER.pack(len(payload), number) + payload)
        return waiter

    def write(self, frame: bytes) -> None:
        """Write a frame now, or together with the others of this loop turn."""
        if not self.coalesce:
            self.transport.write(frame)
            return
        if not self.outgoing:
            self.loop.call_soon(self.flush)
        self.outgoing.append(frame)

    def flush(self) -> None:
        """The loop turn is over."""
        self.transport.write(b"".join(self.outgoing))
        self.outgoing.clear()
