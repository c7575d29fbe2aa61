"""What is over leaves nothing: no object, no cycle, no waiting future."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections import Counter
from collections.abc import Callable

import pytest

from fastnode import (
    FastnodeError,
    HandshakeError,
    LinkClosed,
    LinkLost,
    Message,
    Node,
    Route,
)
from helpers.collector import without_collector
from helpers.nodes import WAIT_SECONDS, B, forget, pair, running, until
from helpers.pki import manager
from helpers.proxy import Proxy

#: What a link consists of.
PARTS = frozenset(
    {
        *("LinkProtocol", "Link", "Outbox", "CallTable", "Keepalive", "Connection"),
        *("Handshake", "Dispatcher", "Handlers", "Batches", "DeliveryQueue"),
        *(
            "Succession",
            "Decoder",
            "Encoder",
            "DirectEngine",
            "MemoryBioEngine",
            "SSLObject",
        ),
        *("Dial", "Successor", "TransportProtocol"),
    }
)
ROUNDS = 1000


def parts() -> Counter[str]:
    """How many of each are alive."""
    names = Counter(type(each).__name__ for each in gc.get_objects())
    return Counter({name: names[name] for name in PARTS if names[name]})


async def freed(before: Counter[str]) -> None:
    """Wait until only those of before are left, without the collector."""
    try:
        await until(lambda: parts() <= before)
    except TimeoutError:
        raise AssertionError(parts() - before) from None


async def close(node: Node, proxy: Proxy) -> None:
    await node.links[0].close()


async def lose(node: Node, proxy: Proxy) -> None:
    link = node.links[0]
    call = asyncio.ensure_future(link.call("never", b""))
    await until(lambda: link.stats.bytes_sent)
    proxy.reset()
    # Not raised here: its traceback would hold this frame, and with it the link.
    await asyncio.wait([call])
    assert type(call.exception()) is LinkLost


async def hand_over(node: Node, proxy: Proxy) -> None:
    await node.reconnect(B)
    await node.links[0].close()


@pytest.mark.parametrize("end", [close, lose, hand_over])
async def test_a_link_that_is_gone_is_freed_without_the_collector(
    end: Callable[[Node, Proxy], object],
) -> None:
    async with pair() as (a, b), Proxy() as proxy:
        forget(a, B)
        await proxy.start(b.acceptors[0].address)
        a.add_route(Route("^beta@", *proxy.address))

        @b.handler("never")
        async def never(message: Message) -> bytes:
            await asyncio.Event().wait()
            raise AssertionError

        with without_collector():
            before = parts()
            for _ in range(2):
                await a.connect(B)
                await until(lambda: b.links)
                assert parts() - before
                await end(a, proxy)  # type: ignore[misc]
                await until(lambda: not b.links)
            await freed(before)


async def test_a_link_is_freed_when_its_last_handler_ends() -> None:
    async with pair() as (a, b):
        ends = [asyncio.Event(), asyncio.Event()]

        @b.handler("slow")
        async def slow(message: Message) -> None:
            await ends[int(message.payload)].wait()

        with without_collector():
            before = parts()
            link = await a.connect(B)
            link.send("slow", b"0")
            link.send("slow", b"1")
            await until(lambda: b.links and b.links[0].stats.messages_received == 2)
            b._context.links.in_use()[0].abort()
            del link
            await until(lambda: not a.links and not b.links)
            ends[0].set()
            await until(lambda: [p.running for p in b._context.links] == [1])
            ends[1].set()
            await freed(before)
        assert not list(b._context.links)


async def test_a_task_that_a_handler_left_does_not_keep_its_link() -> None:
    """Its context refers to the handler, and that to nothing of the link."""
    async with pair() as (a, b):
        end, left = asyncio.Event(), []

        @b.handler("leaves")
        async def leaves(message: Message) -> bytes:
            left.append(asyncio.ensure_future(end.wait()))
            return b""

        with without_collector():
            before = parts()
            link = await a.connect(B)
            await link.call("leaves", b"", timeout=WAIT_SECONDS)
            await link.close()
            del link
            await until(lambda: not a.links and not b.links)
            await freed(before)
        end.set()
        await asyncio.gather(*left)


async def test_refused_links_are_freed_without_the_collector(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # Records that are kept hold the error, and its traceback the engine.
    caplog.set_level(logging.CRITICAL, "fastnode")
    async with pair(second={"authorize": lambda peer: False}) as (a, b):
        stranger = manager(B, trusts="Other CA")
        async with running("gamma@127.0.0.1", manager=stranger) as c:
            c.add_route(Route("^beta@", *b.acceptors[0].address))
            with without_collector():
                before = parts()
                for node in (a, c):
                    connecting = asyncio.ensure_future(node.connect(B))
                    await asyncio.wait([connecting])
                    assert isinstance(connecting.exception(), HandshakeError)
                    del connecting
                await freed(before)


async def test_dials_that_fail_are_freed_without_the_collector() -> None:
    async with running("gamma@127.0.0.1", listens=False) as c:
        c.add_route(Route("^beta@", "127.0.0.1", 1))
        c.add_route(Route("^beta", "127.0.0.1", 2))
        with without_collector():
            before = parts()
            for _ in range(3):
                with pytest.raises(ConnectionError):
                    await c.connect(B)
            await freed(before)


async def test_traffic_makes_no_cycles() -> None:
    async with pair() as (a, b):
        b.handler("plain")(lambda m: m.payload)

        @b.handler("async")
        async def handle(message: Message) -> bytes:
            return message.payload

        @b.handler("raises")
        def raises(message: Message) -> bytes:
            raise ValueError("on purpose")

        async def rounds(count: int) -> None:
            for _ in range(count):
                assert await a.call(B, "plain", b"x") == b"x"
                assert await a.call(B, "async", b"x", timeout=WAIT_SECONDS) == b"x"
                with pytest.raises(FastnodeError):
                    await a.call(B, "raises", b"")
                await a.send(B, "async", b"x")

        await rounds(10)
        with without_collector():
            objects = len(gc.get_objects())
            await rounds(ROUNDS)
            # What an event loop holds at the moment (asyncio keeps up to 100 cancelled
            # timers, and what is theirs), and no more with each round.
            assert len(gc.get_objects()) - objects < ROUNDS // 4
            assert gc.collect() < ROUNDS // 10


async def test_cancelling_leaves_no_trace() -> None:
    async with pair() as (a, b):
        running_there = 0

        @b.handler("never")
        async def never(message: Message) -> bytes:
            nonlocal running_there
            running_there += 1
            try:
                await asyncio.Event().wait()
            finally:
                running_there -= 1
            raise AssertionError

        link = await a.connect(B)

        async def rounds(count: int) -> None:
            for _ in range(count):
                waits: list[asyncio.Future[object]] = [
                    asyncio.ensure_future(link.call("never", b"", timeout=60)),
                    asyncio.ensure_future(a.call(B, "never", b"", timeout=60)),
                    asyncio.ensure_future(link.wait_closed()),
                    asyncio.ensure_future(a.connect("gamma@127.0.0.1")),
                    asyncio.ensure_future(a.reconnect("delta@127.0.0.1")),
                ]
                await until(lambda: running_there == 2)
                for each in waits:
                    each.cancel()
                await asyncio.wait(waits)
                await until(lambda: running_there == 0)

        def alive() -> int:
            # Cycles of the standard library's are not ours: each round has some.
            gc.collect()
            return len(gc.get_objects())

        tasks = len(asyncio.all_tasks())
        await rounds(5)
        await until(lambda: len(asyncio.all_tasks()) == tasks)
        before = alive()
        await rounds(20)
        await until(lambda: len(asyncio.all_tasks()) == tasks)
        assert alive() - before < 100
        assert await link.ping() < 10
        assert not link.closed


async def test_cancelled_drains_and_pings_leave_no_trace() -> None:
    async with pair() as (a, b):
        gate = asyncio.Event()

        @b.handler("slow")
        async def slow(message: Message) -> None:
            await gate.wait()

        link = await a.connect(B)
        for _ in range(4000):
            link.send("slow", bytes(1024))
        waits = [asyncio.ensure_future(link.drain()) for _ in range(5)]
        waits += [asyncio.ensure_future(link.drain())]
        pings = [asyncio.ensure_future(link.ping()) for _ in range(5)]
        await asyncio.sleep(0)
        for each in [*waits[:5], *pings]:
            each.cancel()
        gate.set()
        async with asyncio.timeout(WAIT_SECONDS):
            await waits[5]
            assert await link.ping() < 10
            await link.close()
        assert type(link.error) is LinkClosed
