"""A TCP proxy that does to a connection what networks do."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

__all__ = ["Proxy", "Way"]

#: Chunks on their way in one direction, before no more are read.
MOST_UNDER_WAY = 64


@dataclass
class Way:
    """What happens in one direction, from now on.

    Attributes:
        delay: seconds that every byte takes.
        bandwidth: bytes a second; 0: no limit.
        black_hole: swallow everything.
        corrupt: flip a bit of everything.
    """

    delay: float = 0.0
    bandwidth: int = 0
    black_hole: bool = False
    corrupt: bool = False


class Proxy:
    """Passes bytes on, until it is told otherwise.

    Attributes:
        piece: the most bytes passed on at once; 0: as they come.
        up, down: from who dials the proxy, and to it.
        writers: the connections, both ends of each: who dialed, and whom it dialed.
        connections: how many it has taken.
        refuses: close what connects from now on.
    """

    def __init__(self) -> None:
        self.piece = 0
        self.up, self.down = Way(), Way()
        self.connections = 0
        self.refuses = False
        self.address = ("", 0)
        self._target = ("", 0)
        self._server: asyncio.Server | None = None
        self._closed = False
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
        self._closed = True
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

    def retarget(self, target: tuple[str, int]) -> None:
        """Connect to another one from now on."""
        self._target = target

    @property
    def corrupt(self) -> bool:
        """Flip a bit of everything, in both directions."""
        return self.up.corrupt and self.down.corrupt

    @corrupt.setter
    def corrupt(self, value: bool) -> None:
        self.up.corrupt = self.down.corrupt = value

    @property
    def black_hole(self) -> bool:
        """Swallow everything, in both directions."""
        return self.up.black_hole and self.down.black_hole

    @black_hole.setter
    def black_hole(self, value: bool) -> None:
        self.up.black_hole = self.down.black_hole = value

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.connections += 1
        if self.refuses or self._closed:
            writer.transport.abort()
            return
        self.writers.append(writer)
        try:
            there_reader, there_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        if self._closed:
            writer.transport.abort()
            there_writer.transport.abort()
            return
        self.writers.append(there_writer)
        self._begin(reader, there_writer, self.up)
        self._begin(there_reader, writer, self.down)

    def _begin(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: Way
    ) -> None:
        # What is due when; b"" is the end.
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(MOST_UNDER_WAY)
        for work in (
            self._read(reader, writer, way, queue),
            self._write(writer, queue),
        ):
            task = asyncio.ensure_future(work)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _read(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        way: Way,
        queue: asyncio.Queue[tuple[float, bytes]],
    ) -> None:
        clock = asyncio.get_running_loop().time
        due = 0.0
        try:
            while data := await reader.read(self.piece or 65536):
                if way.black_hole or writer in self._stalled:
                    continue
                if way.corrupt:
                    data = bytes([data[0]]) + bytes(b ^ 1 for b in data[1:])
                due = max(due, clock() + way.delay)
                if way.bandwidth:
                    due += len(data) / way.bandwidth
                await queue.put((due, data))
            if not (way.black_hole or writer in self._stalled):
                await queue.put((due, b""))
        except OSError:
            writer.transport.abort()

    async def _write(
        self, writer: asyncio.StreamWriter, queue: asyncio.Queue[tuple[float, bytes]]
    ) -> None:
        clock = asyncio.get_running_loop().time
        with suppress(OSError, RuntimeError):
            while True:
                due, data = await queue.get()
                if due > clock():
                    await asyncio.sleep(due - clock())
                if not data:
                    break
                if not writer.is_closing():
                    writer.write(data)
                    await writer.drain()
            if writer.can_write_eof() and not writer.is_closing():
                writer.write_eof()
            return
        writer.transport.abort()

    def half_close(self) -> None:
        """Send a FIN in both directions."""
        for writer in self.writers:
            if not writer.is_closing():
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
            if sock is not None:
                with suppress(OSError):  # it may be gone already
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()

    def reset_one(self, index: int) -> None:
        """A RST to one end of all connections; the other end hears nothing any more.

        Args:
            index: 0: to who dialed; 1: to whom it dialed.
        """
        self.stall(self.writers)
        self.reset(self.writers[index::2])
