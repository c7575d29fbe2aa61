"""What a contender has to do."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from pathlib import Path
from struct import Struct

from contents import Counter

#: Frame of the contenders that need one of their own: length of the payload, and a
#: number that is 0 for a one-way message and else comes back with the echo.
HEADER = Struct(">II")

HOST = "127.0.0.1"


class Contender(ABC):
    """One way to send messages over mutual TLS; an instance is one side of a link."""

    def __init__(self, trust: Path) -> None:
        self.trust = trust

    @classmethod
    def missing(cls) -> str | None:
        """Why it cannot take part, though its packages are there; None: it can."""
        return None

    @staticmethod
    @abstractmethod
    def new_loop() -> asyncio.AbstractEventLoop:
        """The event loop it runs on, on both sides."""

    @abstractmethod
    async def serve(self, counter: Counter) -> int:
        """Start a server that counts one-way messages and echoes calls; its port."""

    @abstractmethod
    async def connect(self, port: int, number: int = 0) -> None:
        """Connect to the server, as client `number`."""

    @abstractmethod
    async def send_many(self, payload: bytes, count: int) -> None:
        """Send `count` one-way messages; they need not have left on return."""

    @abstractmethod
    async def call(self, payload: bytes) -> bytes:
        """Have a payload echoed."""

    async def call_with_metadata(self, payload: bytes) -> bytes:
        """Have a payload echoed by a handler that reads `METADATA` from the call.

        Raises:
            SystemExit: this contender has no metadata.
        """
        raise SystemExit(f"{type(self).__name__} has no metadata")

    async def one_way(self, payload: bytes, count: int) -> None:
        """Send messages; all have been handled on return."""
        await self.send_many(payload, count)
        # Its answer follows the handling of all before it.
        await self.call(b"")

    async def calls(
        self, payload: bytes, count: int, outstanding: int, *, metadata: bool = False
    ) -> list[float]:
        """Make calls, so many at a time, each awaited; their times, seconds."""
        times: list[float] = []
        call = self.call_with_metadata if metadata else self.call

        async def caller(share: int) -> None:
            for _ in range(share):
                began = time.perf_counter()
                reply = await call(payload)
                times.append(time.perf_counter() - began)
                if reply != payload:
                    raise SystemExit("a call was answered with something else")

        share, more = divmod(count, outstanding)
        await asyncio.gather(
            *(caller(share + (number < more)) for number in range(outstanding))
        )
        return times

    @abstractmethod
    async def disconnect(self) -> None:
        """End the connection that `connect` made, in order."""

    @abstractmethod
    async def close(self) -> None:
        """End everything that `serve` or `connect` made."""


def in_batches(size: int, count: int) -> range:
    """Where batches of about 64 KiB begin: what a caller sends in a row."""
    return range(0, count, max(1, (64 << 10) // (size + HEADER.size)))
