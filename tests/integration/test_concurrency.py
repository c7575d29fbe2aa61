"""Handlers of which only so many are under way at once."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

from fastnode import CallTimeout, ConfigError, LinkClosed, Message, Node
from helpers.nodes import WAIT_SECONDS, A, B, introduce, pair, running, until

KIB = 1 << 10
SMALL: dict[str, Any] = {"window": 128 * KIB}


class Gate:
    """An asynchronous handler that waits until it is let go."""

    def __init__(self) -> None:
        self.begun: list[bytes] = []
        self.running = 0
        self.most = 0
        self.permits = asyncio.Semaphore(0)

    async def __call__(self, message: Message) -> bytes:
        self.begun.append(message.payload)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.permits.acquire()
        finally:
            self.running -= 1
        return message.payload

    def let_go(self, count: int) -> None:
        for _ in range(count):
            self.permits.release()


@pytest.mark.parametrize("wrong", [0, -1, 1.5, "2", True, 1_000_001])
async def test_a_bound_that_cannot_be(wrong: object) -> None:
    async with running(B) as node:
        with pytest.raises(ConfigError, match="concurrency"):
            node.handler("e", concurrency=wrong)(Gate())  # type: ignore[call-overload]


async def test_so_many_at_once_and_in_order() -> None:
    async with pair() as (a, b):
        gate = Gate()
        b.handler("gate", concurrency=3)(gate)
        link = await a.connect(B)
        sent = [b"%d" % i for i in range(50)]
        calls = []
        for number, payload in enumerate(sent):
            if number % 2:
                link.send("gate", payload)
            else:
                calls.append(asyncio.ensure_future(link.call("gate", payload)))
                await asyncio.sleep(0)  # a call is queued when its task runs
        await until(lambda: link.stats.queued_bytes == 0)
        await until(lambda: len(gate.begun) == 3)
        await link.ping()
        assert len(gate.begun) == 3
        gate.let_go(1)
        await until(lambda: len(gate.begun) == 4)
        await link.ping()
        assert len(gate.begun) == 4
        gate.let_go(len(sent))
        assert await asyncio.gather(*calls) == sent[::2]
        await until(lambda: len(gate.begun) == len(sent))
        assert gate.begun == sent
        assert gate.most == 3


async def test_the_bound_is_for_all_links_of_the_node() -> None:
    async with AsyncExitStack() as stack:
        b = await stack.enter_async_context(running(B))
        gate = Gate()
        b.handler("gate", concurrency=2)(gate)
        calls = []
        for name in ("one@127.0.0.1", "two@127.0.0.1", "three@127.0.0.1"):
            node = await stack.enter_async_context(running(name))
            introduce(node, b)
            link = await node.connect(B)
            calls += [asyncio.ensure_future(link.call("gate", b"x")) for _ in range(4)]
        await until(lambda: len(gate.begun) == 2)
        gate.let_go(12)
        assert len(await asyncio.gather(*calls)) == 12
        assert gate.most == 2


async def test_guarantee_9_a_full_endpoint_slows_its_senders_and_nothing_else() -> None:
    async with pair({}, SMALL) as (a, b):
        gate = Gate()
        b.handler("gate", concurrency=1)(gate)
        b.handler("echo")(lambda m: m.payload)
        a.handler("echo")(lambda m: m.payload)
        link = await a.connect(B)
        # Less than the window: what else there is has credit left.
        for _ in range(40):
            link.send("gate", bytes(KIB))
        assert await link.call("echo", b"passes", timeout=WAIT_SECONDS) == b"passes"
        assert gate.begun == [bytes(KIB)]
        # More than the window: the sender waits.
        for _ in range(1000):
            link.send("gate", bytes(KIB))
        await until(lambda: link.stats.credit_bytes == 0)
        await link.ping()
        assert link.stats.queued_bytes > 800 * KIB
        # Replies and the other direction pass.
        (back,) = b.links
        assert await back.call("echo", b"back", timeout=WAIT_SECONDS) == b"back"
        gate.let_go(2000)
        await until(lambda: len(gate.begun) == 1040)
        assert gate.most == 1
        assert link.stats.queued_bytes == 0


async def test_a_call_that_is_cancelled_while_it_waits_never_begins() -> None:
    async with pair() as (a, b):
        gate = Gate()
        b.handler("gate", concurrency=1)(gate)
        link = await a.connect(B)
        first = asyncio.ensure_future(link.call("gate", b"first"))
        await until(lambda: gate.begun)
        with pytest.raises(CallTimeout):
            await link.call("gate", b"second", timeout=0.05)
        third = asyncio.ensure_future(link.call("gate", b"third"))
        await link.ping()
        gate.let_go(2)
        assert [await first, await third] == [b"first", b"third"]
        assert gate.begun == [b"first", b"third"]


async def test_one_that_is_cancelled_under_way_makes_room() -> None:
    async with pair() as (a, b):
        gate = Gate()
        b.handler("gate", concurrency=1)(gate)
        link = await a.connect(B)
        for _ in range(3):
            with pytest.raises(CallTimeout):
                await link.call("gate", b"x", timeout=0.05)
        await until(lambda: gate.running == 0)
        gate.let_go(1)
        assert await link.call("gate", b"last", timeout=WAIT_SECONDS) == b"last"


async def test_what_waits_for_a_lost_link_is_given_up() -> None:
    async with pair() as (a, b), running("third@127.0.0.1") as c:
        introduce(c, b)
        gate = Gate()
        b.handler("gate", concurrency=1)(gate)
        link = await a.connect(B)
        other = await c.connect(B)
        for i in range(10):
            link.send("gate", b"a%d" % i)
        await until(lambda: gate.begun)
        call = asyncio.ensure_future(other.call("gate", b"c"))
        await until(lambda: sum(each.stats.calls_received for each in b.links))
        for protocol in a._links:
            protocol.abort()
        await until(lambda: len(b.links) == 1)
        # Its handler that runs goes on; the next is the other link's.
        gate.let_go(2)
        assert await call == b"c"
        assert gate.begun == [b"a0", b"c"]


async def test_close_waits_for_what_waits() -> None:
    async with pair() as (a, b):
        gate = Gate()
        b.handler("gate", concurrency=1)(gate)
        link = await a.connect(B)
        for i in range(10):
            link.send("gate", b"%d" % i)
        await until(lambda: gate.begun)
        closing = asyncio.ensure_future(link.close(timeout=WAIT_SECONDS))
        gate.let_go(10)
        await closing
        assert type(link.error) is LinkClosed
        assert len(gate.begun) == 10


async def test_order_holds_while_the_link_is_replaced() -> None:
    async with pair({}, SMALL) as (a, b):
        got: list[int] = []

        @b.handler("slow", concurrency=1)
        async def slow(message: Message) -> None:
            await asyncio.sleep(0)
            got.append(int(message.payload))

        count = 2000
        await a.connect(B)
        for number in range(count):
            await a.send(B, "slow", b"%d" % number)
            if number % 500 == 250:
                await a.reconnect(B, timeout=WAIT_SECONDS)
        await until(lambda: len(got) == count)
        assert got == list(range(count))


async def test_bounded_handlers_that_call_each_other() -> None:
    async with pair() as (a, b):

        def register(node: Node, other: str) -> None:
            @node.handler("work", concurrency=1)
            async def work(message: Message) -> bytes:
                return await node.call(other, "leaf", message.payload)

            @node.handler("leaf", concurrency=1)
            async def leaf(message: Message) -> bytes:
                await asyncio.sleep(0)
                return message.payload

        register(a, B)
        register(b, A)
        numbers = [b"%d" % i for i in range(200)]
        calls = [a.call(B, "work", n, timeout=WAIT_SECONDS) for n in numbers]
        calls += [b.call(A, "work", n, timeout=WAIT_SECONDS) for n in numbers]
        assert await asyncio.gather(*calls) == numbers * 2
