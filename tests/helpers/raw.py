"""One end of a link in plain Python, for peers that a node would never be."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastnode import Node
from fastnode.wire.hello import Hello
from helpers import frames
from helpers.nodes import WAIT_SECONDS, A, until

__all__ = ["Raw", "raw_peer"]


class Raw:
    """Reads and writes frames over a stream, whatever it runs on."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.reader, self.writer = reader, writer

    def send(self, kind: int, body: bytes = b"", number: int = 0) -> None:
        """Send a frame."""
        self.writer.write(frames.frame(kind, body, number=number))

    async def whole_frame(self) -> tuple[int, int, int, bytes]:
        """Kind, flags, number and body of the next frame."""
        async with asyncio.timeout(WAIT_SECONDS):
            head = await self.reader.readexactly(8)
            kind, flags, number, size = struct.unpack(">BBHI", head)
            return kind, flags, number, await self.reader.readexactly(size)

    async def frame(self) -> tuple[int, bytes]:
        """Kind and body of the next frame."""
        kind, _, _, body = await self.whole_frame()
        return kind, body

    async def until(self, wanted: int) -> bytes:
        """The body of the next frame of that kind."""
        while True:
            kind, body = await self.frame()
            if kind == wanted:
                return body

    async def reply_part(self) -> int:
        """Bytes of a large reply in the next frame, for which as many are granted."""
        kind, flags, number, body = await self.whole_frame()
        if kind == frames.REPLY and flags & frames.MORE:
            size = len(body) - 12
        elif kind == frames.CONTINUE and number == frames.BULK_REPLIES:
            size = len(body)
        else:
            return 0
        credit = struct.pack(">I", 8 + len(body))
        self.send(frames.CREDIT, credit, frames.BULK_REPLIES)
        return size

    async def hello(self) -> Hello:
        """The HELLO, which is the next frame."""
        kind, body = await self.frame()
        assert kind == frames.HELLO
        return Hello.decode(body)

    async def rest(self) -> bytes:
        """All that still comes."""
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            async with asyncio.timeout(WAIT_SECONDS):
                return await self.reader.read()
        return b""

    def close(self) -> None:
        """Cut the connection."""
        self.writer.transport.abort()


@asynccontextmanager
async def raw_peer(node: Node, features: bytes = b"") -> AsyncIterator[Raw]:
    """A link of alpha, in plaintext, that is up. It reads only when it is told to.

    Args:
        features: of its HELLO.
    """
    # A small limit: asyncio reads ahead no more than twice as much.
    reader, writer = await asyncio.open_connection(
        *node.acceptors[0].address, limit=4 << 10
    )
    peer = Raw(reader, writer)
    try:
        writer.write(frames.hello(A, window=1 << 30, features=features))
        kind, _ = await peer.frame()
        assert kind == frames.HELLO
        writer.write(frames.frame(frames.ACCEPT))
        await until(lambda: node.links)
        yield peer
    finally:
        peer.close()
