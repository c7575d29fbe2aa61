"""What a contender has to do."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from struct import Struct
from typing import ClassVar

#: Frame of the contenders that need one of their own: length of the payload, and a
#: number that is 0 for a one-way message and else comes back with the echo.
HEADER = Struct(">II")

HOST = "127.0.0.1"


class Contender(ABC):
    """One way to send messages over mutual TLS; an instance is one side of it."""

    name: ClassVar[str]
    #: One line for the table's legend.
    about: ClassVar[str]

    def __init__(self, trust: Path) -> None:
        self.trust = trust

    @staticmethod
    @abstractmethod
    def new_loop() -> asyncio.AbstractEventLoop:
        """The event loop it runs on, on both sides."""

    @abstractmethod
    async def serve(self) -> int:
        """Start a server that counts one-way messages and echoes calls; its port."""

    @abstractmethod
    async def connect(self, port: int, number: int = 0) -> None:
        """Connect to the server, as client `number`."""

    @abstractmethod
    async def send_many(self, payload: bytes, count: int) -> None:
        """Send `count` one-way messages; they need not have left on return."""

    @abstractmethod
    async def call(self, payload: bytes) -> bytes:
        """Have a payload echoed. Its answer follows the handling of all before it."""

    @abstractmethod
    async def disconnect(self) -> None:
        """End the connection that `connect` made, in order."""

    @abstractmethod
    async def close(self) -> None:
        """End everything that `serve` or `connect` made."""


class Counter:
    """The handler of one-way messages: one Python call for each."""

    def __init__(self) -> None:
        self.messages = 0

    def handle(self, payload: bytes) -> None:
        """A message has come."""
        self.messages += 1


def in_batches(size: int) -> Callable[[int], range]:
    """Numbers of messages that make up about 64 KiB: what a caller sends in a row."""
    step = max(1, (64 << 10) // (size + HEADER.size))
    return lambda count: range(0, count, step)
