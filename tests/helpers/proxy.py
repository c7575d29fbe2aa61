"""A TCP proxy that does to a connection what networks do."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterable
from types import TracebackType
from typing import Self

__all__ = ["Proxy"]


class Proxy:
    """Passes bytes on, until it is told otherwise.

    Attributes:
        piece: the most bytes passed on at once; 0: as they come.
        corrupt: flip a bit of everything from now on.
        black_hole: swallow everything from now on.
        writers: the connections, both ends of each.
    """

    def __init__(self) -> None:
        self.piece = 0
        self.corrupt = False
        self.black_hole = False
        self.address = ("", 0)
        self._target = ("", 0)
        self._server: asyncio.Server | None = None
        self.writers: list[asyncio.StreamWriter] = []
        self._stalled: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._server is not None:
            self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def start(self, target: tuple[str, int]) -> None:
        """Listen, and connect to `target` for whoever connects."""
        self._target = target
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = self._server.sockets[0].getsockname()[:2]

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.writers.append(writer)
        try:
            there_reader, there_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        self.writers.append(there_writer)
        for one, other in ((reader, there_writer), (there_reader, writer)):
            task = asyncio.ensure_future(self._pass(one, other))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            while data := await reader.read(self.piece or 65536):
                if self.black_hole or writer in self._stalled:
                    continue
                if self.corrupt:
                    data = bytes([data[0]]) + bytes(b ^ 1 for b in data[1:])
                writer.write(data)
                await writer.drain()
            if writer.can_write_eof() and not writer.is_closing():
                writer.write_eof()
        except (ConnectionError, OSError, RuntimeError):
            writer.transport.abort()

    def half_close(self) -> None:
        """Send a FIN in both directions."""
        for writer in self.writers:
            writer.write_eof()

    def stall(self, writers: Iterable[asyncio.StreamWriter]) -> None:
        """Swallow everything on these connections from now on."""
        self._stalled.update(writers)

    def _take(
        self, writers: Iterable[asyncio.StreamWriter] | None
    ) -> list[asyncio.StreamWriter]:
        taken = list(self.writers if writers is None else writers)
        self.writers = [w for w in self.writers if w not in taken]
        return taken

    def cut(self, writers: Iterable[asyncio.StreamWriter] | None = None) -> None:
        """Close these connections, or all."""
        for writer in self._take(writers):
            writer.close()

    def reset(self, writers: Iterable[asyncio.StreamWriter] | None = None) -> None:
        """End these connections, or all, with a RST."""
        for writer in self._take(writers):
            sock = writer.get_extra_info("socket")
            linger = struct.pack("ii", 1, 0)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
