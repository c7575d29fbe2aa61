"""An asyncio.Protocol that frames and parses in Python; either side of a connection."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import cast

from contenders.contender import HEADER, in_batches


class Connection(asyncio.Protocol):
    """Length-prefixed frames.

    Args:
        handle: called with each one-way message; None: the other side, which calls.
        coalesce: join by hand what is sent in a row, or in a loop turn.
    """

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

    # --- callbacks --------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.loop = asyncio.get_running_loop()
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()
        for waiter in self.waiting.values():
            if not waiter.done():
                waiter.set_exception(ConnectionError("the connection is lost"))

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

    # --- receiving ----------------------------------------------------------------

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

    # --- sending --------------------------------------------------------------------

    def call(self, payload: bytes) -> asyncio.Future[bytes]:
        """Send a call; its reply."""
        number = next(self.numbers)
        waiter = self.waiting[number] = self.loop.create_future()
        self.write(HEADER.pack(len(payload), number) + payload)
        return waiter

    async def send_many(self, payload: bytes, count: int) -> None:
        """Send one-way messages."""
        size = len(payload)
        if not self.coalesce:
            for _ in range(count):
                self.transport.write(HEADER.pack(size, 0) + payload)
                if not self.writable.is_set():
                    await self.writable.wait()
            return
        batches = in_batches(size, count)
        for start in batches:
            frames = [
                HEADER.pack(size, 0) + payload
                for _ in range(min(batches.step, count - start))
            ]
            self.transport.write(b"".join(frames))
            if not self.writable.is_set():
                await self.writable.wait()

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
