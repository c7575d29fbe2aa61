"""Peers that ask and do not read: what they can make a node hold is bounded."""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from fastnode import Message, Node, ProtocolError
from helpers import frames
from helpers.nodes import WAIT_SECONDS, A, B, running, until

KIB, MIB = 1 << 10, 1 << 20


class RawPeer:
    """A dialer in plain Python that reads only when it is told to."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.reader = reader
        self.writer = writer

    async def frame(self) -> tuple[int, int, int, bytes]:
        """Kind, flags, number, body of the next frame."""
        async with asyncio.timeout(WAIT_SECONDS):
            head = await self.reader.readexactly(8)
            kind, flags, number, size = struct.unpack(">BBHI", head)
            return kind, flags, number, await self.reader.readexactly(size)


@asynccontextmanager
async def raw_peer(node: Node) -> AsyncIterator[RawPeer]:
    """A link of alpha, in plaintext, that is up."""
    # A small limit: asyncio reads ahead no more than twice as much.
    reader, writer = await asyncio.open_connection(
        *node.acceptors[0].address, limit=4 * KIB
    )
    peer = RawPeer(reader, writer)
    try:
        writer.write(frames.hello(A, window=1 << 30))
        kind, *_ = await peer.frame()
        assert kind == frames.HELLO
        writer.write(frames.frame(frames.ACCEPT))
        await until(lambda: node.links)
        yield peer
    finally:
        writer.transport.abort()


async def test_guarantee_9_replies_that_nobody_reads() -> None:
    async with running(B, plaintext=True) as node:
        handled: list[bytes] = []

        @node.handler("big")
        def big(message: Message) -> bytes:
            handled.append(message.payload)
            return bytes(MIB)

        @node.handler("note")
        def note(message: Message) -> None:
            handled.append(message.payload)

        async with raw_peer(node) as peer:
            peer.writer.write(
                frames.frame(frames.ENDPOINT, b"big", number=0)
                + frames.frame(frames.ENDPOINT, b"note", number=1)
            )
            sent = []
            for number in range(1, 200):
                sent += [b"c%d" % number, b"m%d" % number]
                peer.writer.write(
                    frames.call(0, number, sent[-2]) + frames.message(1, sent[-1])
                )
            (link,) = node.links
            await until(lambda: link.stats.calls_received == 199)
            # The socket's buffers, the high mark, and the one that went over it.
            assert link.stats.queued_bytes <= 3 * MIB
            assert len(handled) < 40
            # A cancelled one is not handled at all.
            peer.writer.write(frames.frame(frames.CANCEL, struct.pack(">I", 199)))
            replies = 0
            while replies < 198 * MIB:
                kind, _, _, body = await peer.frame()
                if kind == frames.REPLY:
                    replies += len(body) - 12
                elif kind == frames.CONTINUE:
                    replies += len(body)
            await until(lambda: len(handled) == len(sent) - 1)
            sent.remove(b"c199")
            assert handled == sent


async def test_guarantee_9_pings_whose_answers_nobody_reads(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with running(B, plaintext=True) as node:
        node.handler("big")(lambda message: bytes(32 * MIB))
        async with raw_peer(node) as peer:
            (link,) = node.links
            peer.writer.write(
                frames.frame(frames.ENDPOINT, b"big") + frames.call(0, 1, b"")
            )
            await until(lambda: link.stats.queued_bytes)
            with caplog.at_level(logging.INFO):
                peer.writer.write(frames.frame(frames.PING, bytes(8)) * 10_000)
                await until(lambda: link.error)
            assert isinstance(link.error, ProtocolError)
            assert "pings" in str(link.error)
            assert link.error.hint


async def test_pings_that_are_read_have_no_bound() -> None:
    async with running(B, plaintext=True) as node, raw_peer(node) as peer:
        for _ in range(20):
            peer.writer.write(frames.frame(frames.PING, bytes(8)) * 500)
            for _ in range(500):
                kind, *_ = await peer.frame()
                assert kind == frames.PONG


async def test_a_cancel_that_overtakes_its_call() -> None:
    async with running(B, plaintext=True) as node:
        handled: list[bytes] = []
        node.handler("e")(lambda message: handled.append(message.payload))
        async with raw_peer(node) as peer:
            peer.writer.write(
                frames.frame(frames.ENDPOINT, b"e")
                + frames.call(0, 1, b"1")
                + frames.frame(frames.CANCEL, struct.pack(">I", 3))
                # Long over: nothing is remembered of it.
                + frames.frame(frames.CANCEL, struct.pack(">I", 1))
                + frames.call(0, 2, b"2")
                + frames.call(0, 3, b"3")
                + frames.call(0, 4, b"4")
            )
            answered: list[int] = []
            while len(answered) < 3:
                kind, _, _, body = await peer.frame()
                assert kind == frames.REPLY
                answered.append(struct.unpack(">I", body[:4])[0])
            assert answered == [1, 2, 4]
            assert handled == [b"1", b"2", b"4"]
