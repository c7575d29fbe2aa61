"""Peers that ask and do not read: what they can make a node hold is bounded."""

from __future__ import annotations

import logging
import struct

import pytest

from fastnode import Message, ProtocolError
from fastnode.limits import BULK_WINDOW_BYTES
from helpers import frames
from helpers.nodes import B, running, until
from helpers.raw import raw_peer

KIB, MIB = 1 << 10, 1 << 20


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
            # The one that is being sent, the high mark, and the one that went over it.
            assert link.stats.queued_bytes <= 3 * MIB
            assert len(handled) < 40
            # A cancelled one is not handled at all.
            peer.writer.write(frames.frame(frames.CANCEL, struct.pack(">I", 199)))
            replies = 0
            while replies < 198 * MIB:
                replies += await peer.reply_part()
            await until(lambda: len(handled) == len(sent) - 1)
            sent.remove(b"c199")
            assert handled == sent


async def test_guarantee_9_a_large_reply_that_nobody_reads_holds_up_no_small_call() -> (
    None
):
    async with running(B, plaintext=True) as node:
        handled: list[int] = []

        @node.handler("big")
        def big(message: Message) -> bytes:
            handled.append(8 * MIB)
            return bytes(8 * MIB)

        node.handler("echo")(lambda message: message.payload)
        async with raw_peer(node) as peer:
            peer.writer.write(
                frames.frame(frames.ENDPOINT, b"big", number=0)
                + frames.frame(frames.ENDPOINT, b"echo", number=1)
                + frames.call(0, 1, b"")
            )
            # Without any credit for more: it stands still in the middle of the first.
            large = 0
            for number in range(2, 22):
                peer.writer.write(frames.call(1, number, b"%d" % number))
                while True:
                    kind, flags, lane, body = await peer.whole_frame()
                    if kind == frames.REPLY and not flags & frames.MORE:
                        break
                    assert kind == frames.REPLY or lane == frames.BULK_REPLIES
                    large += 8 + len(body)
                assert body == struct.pack(">I", number) + b"%d" % number
            assert large <= BULK_WINDOW_BYTES + 64 * KIB
            assert handled == [8 * MIB]
            # A second one is the one that goes over the mark: the third is not made.
            (link,) = node.links
            for number in range(22, 30):
                peer.writer.write(frames.call(0, number, b""))
            await until(lambda: link.stats.calls_received == 29)
            assert len(handled) == 2
            assert link.stats.queued_bytes <= 17 * MIB


async def test_guarantee_9_pings_whose_answers_nobody_reads(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with running(B, plaintext=True) as node:
        node.handler("big")(lambda message: bytes(60 * KIB))
        async with raw_peer(node) as peer:
            (link,) = node.links
            peer.writer.write(
                frames.frame(frames.ENDPOINT, b"big")
                + b"".join(frames.call(0, number, b"") for number in range(1, 1000))
            )
            await until(lambda: link.stats.queued_bytes > MIB)
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
                kind, *_ = await peer.whole_frame()
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
                kind, _, _, body = await peer.whole_frame()
                assert kind == frames.REPLY
                answered.append(struct.unpack(">I", body[:4])[0])
            assert answered == [1, 2, 4]
            assert handled == [b"1", b"2", b"4"]
