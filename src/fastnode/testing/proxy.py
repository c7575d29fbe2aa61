"""A TCP proxy that does to connections what networks do to them.

A `Proxy` listens on a port of its own. For each connection that it accepts, it connects
to its target, and passes bytes on in both directions. Each direction has two tasks and
a queue between them. One task reads. The other one writes when the bytes are due. So a
delay does not reduce the throughput.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Coroutine, Iterable
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Protocol, Self

from fastnode.peer import Address

__all__ = ["Proxy", "Way"]

#: Chunks on their way in one direction, before no more are read.
MOST_UNDER_WAY: Final = 64
#: Connections that wait to be accepted, more than a test makes at once.
BACKLOG: Final = 128


class Way:
    """What happens to the bytes in one direction from now on.

    Attributes:
        delay: seconds that every byte takes.
        bandwidth: bytes per second. 0: no limit.
        black_hole: read and discard everything. What was discarded never arrives.
        corrupt: flip a bit of every byte but the first of each chunk.
    """

    def __init__(self) -> None:
        self.delay = 0.0
        self.bandwidth = 0
        self.black_hole = False
        self.corrupt = False
        self._open = asyncio.Event()
        self._open.set()

    @property
    def silent(self) -> bool:
        """Whether bytes are held back. They arrive when this becomes False.

        A network that loses packets behaves like this, because TCP sends them again.
        """
        return not self._open.is_set()

    @silent.setter
    def silent(self, value: bool) -> None:
        if value:
            self._open.clear()
        else:
            self._open.set()

    @property
    def disturbed(self) -> bool:
        """Whether bytes arrive late or not at all."""
        return bool(self.delay or self.bandwidth or self.black_hole or self.silent)

    async def open(self) -> None:
        """Wait until bytes are not held back."""
        await self._open.wait()


class Proxy:
    """Passes bytes on until a test tells it otherwise. ``async with`` closes it.

    Attributes:
        piece: the most bytes that are passed on at once. 0: as they come.
        up: the direction from the dialer to the target.
        down: the direction from the target to the dialer.
        writers: the connections that it holds, both ends of each. The end of the dialer
            comes first, and then the end of the target.
        connections: how many connections it has accepted.
        refuses: accept new connections, and end them at once with a RST.
        address: where it listens.
    """

    def __init__(self) -> None:
        self.piece = 0
        self.up, self.down = Way(), Way()
        self.connections = 0
        self.refuses = False
        self.address: Address = ("", 0)
        self._target: Address = ("", 0)
        # Holds the port while nobody listens on it. See `_bound`.
        self._holder: socket.socket | None = None
        self._listener: socket.socket | None = None
        self._closed = False
        self.writers: list[asyncio.StreamWriter] = []
        self._stalled: set[asyncio.StreamWriter] = set()
        # Connections whose task has not begun. It may be cancelled before.
        self._accepted: set[socket.socket] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def start(self, target: Address) -> None:
        """Listen on a free port of 127.0.0.1, and connect dialers to `target`."""
        self._target = target
        self._holder = _bound(("127.0.0.1", 0))
        host, port = self._holder.getsockname()[:2]
        self.address = (host, port)
        self.listens = True

    async def close(self) -> None:
        """Close the listening socket and all connections."""
        self._closed = True
        self.listens = False
        if self._holder is not None:
            self._holder.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for connection in self._accepted:
            connection.close()
        self._accepted.clear()

    @property
    def listens(self) -> bool:
        """Whether connections are accepted. If not, the system refuses them."""
        return self._listener is not None

    @listens.setter
    def listens(self, value: bool) -> None:
        loop = asyncio.get_running_loop()
        if value and self._listener is None:
            listener = _bound(self.address)
            listener.listen(BACKLOG)
            loop.add_reader(listener, self._accept, listener)
            self._listener = listener
        elif not value and self._listener is not None:
            loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def retarget(self, target: Address) -> None:
        """Connect dialers to another target from now on."""
        self._target = target

    # --- both directions -----------------------------------------------------------

    @property
    def corrupt(self) -> bool:
        """Flip a bit of everything, in both directions."""
        return self.up.corrupt and self.down.corrupt

    @corrupt.setter
    def corrupt(self, value: bool) -> None:
        self.up.corrupt = self.down.corrupt = value

    @property
    def black_hole(self) -> bool:
        """Read and discard everything, in both directions."""
        return self.up.black_hole and self.down.black_hole

    @black_hole.setter
    def black_hole(self, value: bool) -> None:
        self.up.black_hole = self.down.black_hole = value

    # --- passing bytes on ----------------------------------------------------------

    def _accept(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except OSError:  # the dialer has given up
            return
        connection.setblocking(False)
        self.connections += 1
        if self.refuses:
            _reset(connection)
            connection.close()
            return
        self._accepted.add(connection)
        self._run(self._serve(connection))

    async def _serve(self, connection: socket.socket) -> None:
        self._accepted.discard(connection)
        reader, writer = await asyncio.open_connection(sock=connection)
        self.writers.append(writer)
        try:
            there_reader, there_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        if self._closed or writer not in self.writers:  # it has ended meanwhile
            writer.transport.abort()
            there_writer.transport.abort()
            return
        self.writers.append(there_writer)
        self._begin(reader, there_writer, self.up)
        self._begin(there_reader, writer, self.down)

    def _begin(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: Way
    ) -> None:
        # Bytes, and when they are due. No bytes mean that the sender has closed.
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(MOST_UNDER_WAY)
        self._run(self._read(reader, writer, way, queue))
        self._run(self._write(writer, way, queue))

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
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
            # A reset overtakes nothing: while bytes are held back, so is this end.
            await way.open()
            writer.transport.abort()

    async def _write(
        self,
        writer: asyncio.StreamWriter,
        way: Way,
        queue: asyncio.Queue[tuple[float, bytes]],
    ) -> None:
        clock = asyncio.get_running_loop().time
        with suppress(OSError, RuntimeError):
            while True:
                due, data = await queue.get()
                if due > clock():
                    await asyncio.sleep(due - clock())
                await way.open()
                if not data:
                    break
                if not writer.is_closing():
                    writer.write(data)
                    await writer.drain()
            if writer.can_write_eof() and not writer.is_closing():
                writer.write_eof()
            return
        writer.transport.abort()

    # --- ending connections --------------------------------------------------------

    def half_close(self) -> None:
        """Send a FIN in both directions."""
        for writer in self.writers:
            if not writer.is_closing():
                writer.write_eof()

    def stall(self, writers: Iterable[asyncio.StreamWriter]) -> None:
        """Read and discard everything on these connections from now on."""
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
            if sock is not None:
                with suppress(OSError):  # it may be gone already
                    _reset(sock)
            writer.transport.abort()

    def reset_one(self, index: int) -> None:
        """Send a RST to one end of all connections. The other end hears nothing more.

        Args:
            index: 0 is the end of the dialer, 1 is the end of the target.
        """
        self.stall(self.writers)
        self.reset(self.writers[index::2])


class _SetsOptions(Protocol):
    """A socket, or what a transport shows of one."""

    def setsockopt(self, level: int, option: int, value: bytes, /) -> None:
        """Set an option."""


def _reset(sock: _SetsOptions) -> None:
    """Let the end of a connection send a RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _bound(address: Address) -> socket.socket:
    """Return a socket that is bound to an address, and shares it with others of ours.

    One of two sockets listens, and the other holds the port. So when the first one is
    closed, the system refuses connections, and no other program gets the port.
    """
    sock = socket.socket()
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(address)
    except BaseException:
        sock.close()
        raise
    return sock
