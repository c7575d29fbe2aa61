"""What waits though its window is open: behind handlers, or for replies to be read."""

from __future__ import annotations

import asyncio
import struct

from fastnode import Message, Node
from fastnode.limits import MAX_UNDER_WAY_BYTES
from helpers import frames
from helpers.nodes import WAIT_SECONDS, A, B, introduce, pair, running, until
from helpers.raw import raw_peer

KIB, MIB = 1 << 10, 1 << 20
#: Handlers of empty messages that one lane may have under way, and one more.
MOST = MAX_UNDER_WAY_BYTES // KIB + 1


async def test_guarantee_9_a_window_of_empty_messages_is_not_all_begun() -> None:
    count = MOST + 5_000
    async with pair() as (a, b):
        begun = 0
        ended: list[bytes] = []
        go_on = asyncio.Event()

        @b.handler("slow")
        async def slow(message: Message) -> None:
            nonlocal begun
            begun += 1
            await go_on.wait()
            ended.append(message.payload)

        @b.handler("plain")
        def plain(message: Message) -> bytes:
            return message.payload

        @b.handler("other")
        async def another(message: Message) -> bytes:
            return message.payload

        link = await a.connect(B)
        for _ in range(count - 5):
            link.send("slow", b"")
        for number in range(5):
            link.send("slow", b"%d" % number)
        await link.drain()
        (other,) = b.links
        await until(lambda: other.stats.messages_received == count)
        await until(lambda: begun == MOST)
        # Others are not behind them, whatever their priority.
        assert await link.call("plain", b"x") == b"x"
        for priority in ("normal", "high"):
            reply = link.call("other", b"y", priority=priority, timeout=WAIT_SECONDS)
            assert await reply == b"y"
        # One that gives up while it waits is not begun.
        for late in (asyncio.ensure_future(link.call("slow", b"late")),):
            await link.ping()
            late.cancel()
            await asyncio.wait([late])
            await link.ping()
        assert begun == MOST
        go_on.set()
        await until(lambda: len(ended) == count)
        assert begun == count
        assert ended[-5:] == [b"0", b"1", b"2", b"3", b"4"]
        assert b"late" not in ended


async def test_what_waits_is_handled_before_a_node_has_stopped() -> None:
    async with pair() as (a, b):
        handled = 0

        @b.handler("slow")
        async def slow(_: Message) -> None:
            nonlocal handled
            await asyncio.sleep(0)
            handled += 1

        link = await a.connect(B)
        for _ in range(MOST + 500):
            link.send("slow", b"")
        await link.close()
        await until(lambda: handled == MOST + 500)


async def test_guarantee_9_bounded_handlers_and_replies_that_nobody_reads() -> None:
    """Handlers whose replies are not read take no further calls, in any order."""
    async with running(B, plaintext=True) as node:
        begun: list[bytes] = []

        @node.handler("big", concurrency=2)
        async def big(message: Message) -> bytes:
            begun.append(message.payload)
            await asyncio.sleep(0)
            return bytes(MIB)

        async with raw_peer(node) as peer:
            peer.writer.write(frames.frame(frames.ENDPOINT, b"big", number=0))
            sent = []
            for number in range(1, 100):
                sent.append(b"%d" % number)
                peer.writer.write(frames.call(0, number, sent[-1]))
            (link,) = node.links
            await until(lambda: link.stats.calls_received == 99)
            await until(lambda: link.stats.queued_bytes > MIB)
            for _ in range(100):
                await asyncio.sleep(0)
            assert link.stats.queued_bytes <= 5 * MIB
            assert len(begun) < 40
            peer.writer.write(frames.frame(frames.CANCEL, struct.pack(">I", 99)))
            read = 0
            while read < 98 * MIB:
                read += await peer.reply_part()
            assert begun == sent[:-1]


async def test_guarantee_9_unread_replies_take_no_room_from_other_links() -> None:
    async with (
        running(B, plaintext=True, max_node_queued=2 * MIB) as node,
        running("gamma@127.0.0.1", plaintext=True, listens=False) as other,
    ):
        replied = 0

        @node.handler("big")
        async def big(_: Message) -> bytes:
            nonlocal replied
            await asyncio.sleep(0)
            replied += 1
            return bytes(MIB)

        got: list[int] = []
        other.handler("take")(lambda m: got.append(len(m.payload)))
        introduce(other, node)
        link = await other.connect(B)
        await link.ping()
        (back,) = node.links
        async with raw_peer(node) as peer:
            peer.writer.write(
                frames.frame(frames.ENDPOINT, b"big", number=0)
                + b"".join(frames.call(0, number, b"") for number in range(1, 21))
            )
            await until(lambda: replied == 20)
            await until(lambda: sum(x.stats.queued_bytes for x in node.links) > 8 * MIB)
            assert node.queued_bytes == 0
            back.send("take", bytes(MIB))
            back.send("take", bytes(MIB // 2))
            await until(lambda: len(got) == 2)


async def test_handlers_that_call_each_other_pass_the_backlog() -> None:
    count = MOST + 500
    async with pair() as (a, b):
        answered = 0

        def register(node: Node, other: str) -> None:
            @node.handler("outer")
            async def outer(_: Message) -> None:
                nonlocal answered
                await node.call(other, "inner", b"", timeout=WAIT_SECONDS)
                answered += 1

            @node.handler("inner")
            async def inner(_: Message) -> None:
                await asyncio.sleep(0)

        register(a, B)
        register(b, A)
        await a.connect(B)
        await until(lambda: b.links)
        for link in (*a.links, *b.links):
            for _ in range(count):
                link.send("outer", b"")
        await until(lambda: answered == 2 * count)


async def test_guarantee_8_what_was_put_off_comes_before_the_next_link() -> None:
    count = MOST + 100
    async with pair() as (a, b):
        begun: list[int] = []
        go_on = asyncio.Event()

        @b.handler("slow")
        async def slow(message: Message) -> None:
            begun.append(int(message.payload))
            await go_on.wait()

        link = await a.connect(B)
        for number in range(count):
            link.send("slow", b"%d" % number)
        await link.drain()
        await until(lambda: len(begun) == MOST - 1 or len(begun) > MOST // 2)
        renewed = asyncio.ensure_future(a.reconnect(B))
        await until(lambda: link.closed or a.links[-1] is not link or renewed.done())
        for number in range(count, count + 20):
            await a.send(B, "slow", b"%d" % number)
        for _ in range(50):
            await asyncio.sleep(0)
        go_on.set()
        await renewed
        await until(lambda: len(begun) == count + 20)
        assert begun == sorted(begun)


async def test_guarantee_8_nothing_passes_what_is_stalled() -> None:
    async with running(B, plaintext=True) as node:
        begun: list[bytes] = []
        go_on = asyncio.Event()

        @node.handler("one", concurrency=1)
        async def one(message: Message) -> None:
            begun.append(message.payload)
            await go_on.wait()

        node.handler("big")(lambda m: bytes(2 * MIB))
        async with raw_peer(node) as peer:
            peer.writer.write(
                frames.frame(frames.ENDPOINT, b"one", number=0)
                + frames.frame(frames.ENDPOINT, b"big", number=1)
                + frames.message(0, b"0")
                + frames.call(0, 1, b"1")
                + frames.message(0, b"2")
                + b"".join(frames.call(1, number, b"") for number in (2, 3, 4))
            )
            (link,) = node.links
            await until(lambda: link.stats.queued_bytes > 2 * MIB)
            go_on.set()
            for _ in range(20):
                await asyncio.sleep(0)
            peer.writer.write(frames.message(0, b"3"))
            await until(lambda: link.stats.messages_received == 3)
            assert begun == [b"0"]
            read = 0
            while read < 6 * MIB:
                read += await peer.reply_part()
            await until(lambda: len(begun) == 4)
            assert begun == [b"0", b"1", b"2", b"3"]


async def test_guarantee_9_a_peer_that_stands_still_stops_no_sender_to_others() -> None:
    options = {"max_queued": 3 * MIB, "max_node_queued": 4 * MIB}
    async with (
        running(A, plaintext=True, listens=False, **options) as a,
        running(B, plaintext=True) as still,
        running("gamma@127.0.0.1", plaintext=True) as other,
    ):
        go_on = asyncio.Event()
        got = 0

        @still.handler("take")
        async def wait(_: Message) -> None:
            await go_on.wait()

        @other.handler("take")
        def take(_: Message) -> None:
            nonlocal got
            got += 1

        for node in (still, other):
            introduce(a, node)
        link = await a.connect(B)
        while a.queued_bytes < 2.4 * MIB:
            link.send("take", bytes(32 * KIB))
            await asyncio.sleep(0)
        senders = (a.send(str(other.name), "take", bytes(32 * KIB)) for _ in range(100))
        async with asyncio.timeout(WAIT_SECONDS):
            await asyncio.gather(*senders)
        await until(lambda: got == 100)
        go_on.set()
