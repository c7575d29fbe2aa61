"""Large replies: they hold up nothing, and nothing holds them up."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from fastnode import Link, LinkLost, Message, Node, Route
from fastnode.limits import RECEIVE_BUFFER_BYTES
from helpers import frames
from helpers.nodes import WAIT_SECONDS, B, forget, pair, running, until
from helpers.proxy import Proxy
from helpers.raw import raw_peer

KIB, MIB = 1 << 10, 1 << 20
SMALL: dict[str, Any] = {"window": 128 * KIB}


def serve(node: Node) -> None:
    """Endpoints for large replies, small ones, and messages."""
    node.handler("large")(lambda m: bytes(int(m.payload)))
    node.handler("echo")(lambda m: m.payload)
    node.handler("sink")(lambda m: None)


@asynccontextmanager
async def slow_line(
    speed: int, **options: Any
) -> AsyncIterator[tuple[Node, Link, Proxy]]:
    """alpha, and its link over which beta sends `speed` bytes a second."""
    async with pair(options) as (a, b), Proxy() as proxy:
        serve(b)
        await proxy.start(b.acceptors[0].address)
        forget(a, B)
        a.add_route(Route("^beta@", *proxy.address))
        proxy.down.bandwidth = speed
        yield a, await a.connect(B), proxy


async def test_guarantee_9_a_large_reply_on_a_slow_line_holds_up_nothing() -> None:
    """It takes longer than a silent peer has; all that is small passes it."""
    async with slow_line(4 * MIB, keepalive_interval=1.0) as (_, link, _):
        size = 20 * MIB
        large = asyncio.ensure_future(link.call("large", b"%d" % size))
        rounds = 0
        async with asyncio.timeout(WAIT_SECONDS):
            before = link.stats.bytes_received
            await until(lambda: link.stats.bytes_received > before + 256 * KIB)
            # Twice the window: credit for it comes back beside the reply.
            for _ in range(40):
                link.send("sink", bytes(60_000))
            await link.send_confirmed("sink", b"")
            assert not large.done()
            while not large.done():
                await link.ping()
                assert await link.call("echo", b"%d" % rounds) == b"%d" % rounds
                rounds += 1
            assert await large == bytes(size)
        # Each waits for a part of a second's bytes, not for the reply.
        assert rounds > 5
        assert not link.closed


async def test_small_replies_pass_a_large_one() -> None:
    async with pair(SMALL, {}) as (a, b):
        serve(b)
        link = await a.connect(B)
        large = asyncio.ensure_future(link.call("large", b"%d" % (60 * MIB)))
        await until(lambda: link.stats.bytes_received > MIB)
        for number in range(20):
            await link.ping()
            assert await link.call("echo", b"%d" % number) == b"%d" % number
        assert not large.done()
        assert len(await large) == 60 * MIB


async def test_guarantee_9_slow_handlers_hold_up_no_large_reply() -> None:
    """Whoever handles nothing, and grants nothing to messages, still takes replies."""
    async with pair(SMALL, SMALL) as (a, b):
        go = asyncio.Event()

        @a.handler("slow")
        async def slow(message: Message) -> None:
            await go.wait()

        serve(b)
        link = await a.connect(B)
        await until(lambda: b.links)
        (back,) = b.links
        for _ in range(300):
            back.send("slow", bytes(KIB))
            back.send("slow", bytes(KIB), priority="high")
        back.send("slow", bytes(MIB))
        await until(lambda: back.stats.credit_bytes == 0)
        for _ in range(3):
            reply = await link.call("large", b"%d" % (4 * MIB), timeout=WAIT_SECONDS)
            assert len(reply) == 4 * MIB
        assert back.stats.queued_bytes > 0
        go.set()
        await until(lambda: back.stats.queued_bytes == 0)


async def test_large_replies_and_large_messages_both_get_through() -> None:
    async with pair(SMALL, SMALL) as (a, b):
        serve(b)
        got: list[int] = []
        a.handler("sink")(lambda m: got.append(len(m.payload)))
        link = await a.connect(B)
        await until(lambda: b.links)
        (back,) = b.links
        async with asyncio.timeout(WAIT_SECONDS):
            calls = [link.call("large", b"%d" % MIB) for _ in range(20)]
            for _ in range(20):
                back.send("sink", bytes(MIB))
                back.send("sink", bytes(60_000))
            assert {len(reply) for reply in await asyncio.gather(*calls)} == {MIB}
            await until(lambda: len(got) == 40)
        assert sorted(got) == [60_000] * 20 + [MIB] * 20


@pytest.mark.parametrize("size", [60_000, 200_000, 3 * MIB])
async def test_nodes_that_ask_each_other_for_much_never_deadlock(size: int) -> None:
    """More than a node holds for a peer that does not read: calls are parked on both
    sides, which grant nothing but replies."""
    async with pair(SMALL, SMALL) as (a, b):
        serve(a)
        serve(b)
        link = await a.connect(B)
        await until(lambda: b.links)
        (back,) = b.links
        calls = [
            each.call("large", b"%d" % size, timeout=WAIT_SECONDS)
            for _ in range(30)
            for each in (link, back)
        ]
        for reply in await asyncio.gather(*calls):
            assert len(reply) == size


async def test_others_have_a_turn_while_much_is_read() -> None:
    """uvloop reads up to 32 times in a row what fills the buffer."""
    async with pair({"window": 16 * MIB}, {}) as (a, b):
        got = [0]

        @a.handler("sink")
        def sink(message: Message) -> None:
            got[0] += 1

        link = await a.connect(B)
        await until(lambda: b.links)
        (back,) = b.links
        for _ in range(200):
            back.send("sink", bytes(60_000))
        most = 0
        before = link.stats.bytes_received
        async with asyncio.timeout(WAIT_SECONDS):
            while got[0] < 200:
                await asyncio.sleep(0)
                now = link.stats.bytes_received
                most = max(most, now - before)
                before = now
        assert most <= 2 * RECEIVE_BUFFER_BYTES


async def test_close_delivers_large_replies() -> None:
    async with pair(SMALL, SMALL) as (a, b):
        serve(b)
        link = await a.connect(B)
        calls = [
            asyncio.ensure_future(link.call("large", b"%d" % (2 * MIB)))
            for _ in range(4)
        ]
        await until(lambda: b.links)
        (back,) = b.links
        await until(lambda: back.stats.calls_received == 4)
        await back.close(timeout=WAIT_SECONDS)
        assert [len(await call) for call in calls] == [2 * MIB] * 4


async def test_replies_of_a_link_that_is_lost() -> None:
    async with slow_line(4 * MIB) as (_, link, proxy):
        large = asyncio.ensure_future(link.call("large", b"%d" % (20 * MIB)))
        await until(lambda: link.stats.bytes_received > MIB)
        proxy.reset()
        with pytest.raises(LinkLost):
            await large


async def test_a_reply_comes_whole_over_a_link_that_is_replaced() -> None:
    async with slow_line(4 * MIB) as (a, link, _):
        large = asyncio.ensure_future(link.call("large", b"%d" % (4 * MIB)))
        await until(lambda: link.stats.bytes_received > 256 * KIB)
        assert not large.done()
        await a.reconnect(B, timeout=WAIT_SECONDS)
        newer = await a.connect(B)
        assert newer is not link
        assert await newer.call("echo", b"x") == b"x"
        assert len(await large) == 4 * MIB


async def test_guarantee_9_announcing_a_reply_takes_no_memory() -> None:
    total = 1 << 30
    async with (
        running(B, plaintext=True, max_message_size=total) as node,
        raw_peer(node) as peer,
    ):
        gc.collect()
        before = resident()
        body = bytes(4) + total.to_bytes(8) + bytes(1000)
        peer.writer.write(frames.frame(frames.REPLY, body, flags=frames.MORE))
        peer.writer.write(frames.frame(frames.PING, bytes(8)))
        assert await peer.until(frames.PONG) == bytes(8)
        assert resident() - before < 8 * MIB


def resident() -> int:
    """Bytes of this process that are in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
