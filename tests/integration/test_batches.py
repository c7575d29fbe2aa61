"""Batch endpoints, between nodes."""

from __future__ import annotations

import asyncio
import logging

import pytest

from fastnode import CallTimeout, ConfigError, Message, Node, RemoteError
from fastnode.limits import MAX_BATCH_BYTES, MAX_BATCH_MESSAGES
from helpers.nodes import A, B, introduce, pair, running, until

COUNT = 5000


@pytest.mark.parametrize("size", [0, 64, 3000])
async def test_guarantee_8_a_plain_handler_is_given_all_in_order(size: int) -> None:
    async with pair() as (a, b):
        sizes: list[int] = []
        got: list[bytes] = []

        @b.handler("e", batch=True)
        def handle(messages: list[Message]) -> None:
            sizes.append(len(messages))
            got.extend(m.payload for m in messages)

        sent = [b"%d" % number + bytes(size) for number in range(COUNT)]
        link = await a.connect(B)
        for payload in sent:
            link.send("e", payload)
            await link.drain()
        await link.send_confirmed("e", b"last", timeout=20)
        assert got == [*sent, b"last"]
        assert max(sizes) > 1
        assert max(sizes) <= MAX_BATCH_MESSAGES
        assert link.stats.messages_sent == b.links[0].stats.messages_received


async def test_guarantee_9_an_async_batch_handler_slows_its_senders() -> None:
    async with pair(second={"window": 128 << 10}) as (a, b):
        permits = asyncio.Semaphore(0)
        under_way = most = 0
        got: list[bytes] = []

        @b.handler("e", batch=True)
        async def handle(messages: list[Message]) -> None:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            await permits.acquire()
            got.extend(m.payload for m in messages)
            under_way -= 1

        link = await a.connect(B)
        sent = [b"%d" % number + bytes(1000) for number in range(1000)]
        for payload in sent:
            link.send("e", payload)
        await link.ping()
        # Of 1 MB, no more than the window left: the rest waits where it was sent.
        await until(lambda: 0 < link.stats.queued_bytes < 950_000)
        assert got == []
        assert link.stats.queued_bytes > 500_000
        while len(got) < len(sent):
            permits.release()
            await asyncio.sleep(0)
        assert got == sent
        assert most == 1


async def test_confirmed_when_handed_over() -> None:
    async with pair() as (a, b):
        gate = asyncio.Event()
        begun: list[list[bytes]] = []

        @b.handler("plain", batch=True)
        def plain(messages: list[Message]) -> None:
            begun.append([m.payload for m in messages])

        @b.handler("raises", batch=True)
        def raises(messages: list[Message]) -> None:
            raise KeyError("why")

        @b.handler("slow", batch=True)
        async def slow(messages: list[Message]) -> None:
            begun.append([m.payload for m in messages])
            await gate.wait()

        link = await a.connect(B)
        sends = [link.send_confirmed("plain", b"%d" % n, timeout=20) for n in range(50)]
        await asyncio.gather(*sends)
        assert [p for each in begun for p in each] == [b"%d" % n for n in range(50)]
        with pytest.raises(RemoteError, match=r"KeyError.*why"):
            await link.send_confirmed("raises", b"")
        begun.clear()
        await link.send_confirmed("slow", b"1", timeout=20)
        # The next waits for its turn; given up, it is not handed over any more.
        second = asyncio.ensure_future(link.send_confirmed("slow", b"2", timeout=20))
        with pytest.raises(CallTimeout):
            await link.send_confirmed("slow", b"3", timeout=0.05)
        link.send("slow", b"4")
        await link.ping()
        assert not second.done()
        gate.set()
        await second
        await until(lambda: len(begun) == 2)
        assert begun == [[b"1"], [b"2", b"4"]]


async def test_a_call_is_refused_and_says_what_to_do() -> None:
    async with pair() as (a, b):

        @b.handler("e", batch=True)
        def handle(messages: list[Message]) -> None:
            raise AssertionError("not for calls")

        with pytest.raises(RemoteError, match=r"takes batches.*confirm=True") as caught:
            await a.call(B, "e", b"")
        assert caught.value.type_name == "ConfigError"


async def test_the_bound_holds_over_all_links() -> None:
    async with (
        running(B) as b,
        running(A) as a,
        running("gamma@127.0.0.1") as c,
    ):
        gates: list[asyncio.Event] = []
        got: list[tuple[str, bytes]] = []

        @b.handler("e", batch=True, concurrency=1)
        async def handle(messages: list[Message]) -> None:
            gates.append(asyncio.Event())
            await gates[-1].wait()
            got.extend((m.sender.name, m.payload) for m in messages)

        for node in (a, c):
            introduce(node, b)
        first, second = await a.connect(B), await c.connect(B)
        for link in (first, second):
            for number in range(3):
                link.send("e", b"%d" % number)
                await link.ping()
        # The first link has one under way; each waits for what came before it.
        for opened in range(1, 5):
            await until(lambda opened=opened: len(gates) == opened)  # type: ignore[misc]
            gates[-1].set()
        await until(lambda: len(got) == 6)
        for node in (a, c):
            payloads = [payload for name, payload in got if name == node.name]
            assert payloads == [b"0", b"1", b"2"]


async def test_handlers_that_confirm_to_each_other_do_not_wait_forever() -> None:
    async with pair() as (a, b):
        done: list[str] = []

        def serve(node: str, own: Node, other: str) -> None:
            @own.handler("e", batch=True)
            async def handle(messages: list[Message]) -> None:
                left = min(m.payload[0] for m in messages)
                if left:
                    await own.send(
                        other, "e", bytes([left - 1]), confirm=True, timeout=20
                    )
                done.append(node)

        serve("a", a, B)
        serve("b", b, A)
        await a.send(B, "e", bytes([6]), confirm=True, timeout=20)
        await until(lambda: len(done) == 7)


async def test_errors_are_counted_and_do_not_fill_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with pair() as (a, b):
        b.handler("one")(lambda message: {}[message.payload])

        @b.handler("many", batch=True)
        def many(messages: list[Message]) -> None:
            raise ValueError(len(messages))

        @b.handler("later", batch=True)
        async def later(messages: list[Message]) -> None:
            raise OSError("later")

        @b.default_handler
        def other(message: Message) -> None:
            raise LookupError(message.endpoint)

        link = await a.connect(B)
        with caplog.at_level(logging.ERROR, "fastnode.link"):
            for number in range(200):
                link.send("one", b"x")
                link.send(f"invented {number}", b"")
            link.send("many", b"")
            link.send("later", b"")
            await link.ping()
            await until(lambda: b.links[0].stats.handler_errors == 402)
        texts = [record.getMessage() for record in caplog.records]
        # One of each, and seconds may have passed.
        assert 4 <= len(texts) < 40
        for name in ("'one'", "'many'", "'later'", "'invented 0'"):
            assert sum(f"the handler of {name}" in text for text in texts) >= 1
        assert {r.exc_info[0] for r in caplog.records if r.exc_info} == {
            KeyError, ValueError, OSError, LookupError,
        }  # fmt: skip


async def test_what_is_gathered_is_handled_before_an_orderly_end() -> None:
    async with pair() as (a, b):
        got: list[bytes] = []
        begun = asyncio.Event()

        @b.handler("e", batch=True)
        async def handle(messages: list[Message]) -> None:
            begun.set()
            await asyncio.sleep(0)
            got.extend(m.payload for m in messages)

        link = await a.connect(B)
        link.send("e", b"first")
        await begun.wait()
        sent = [b"%d" % number for number in range(COUNT)]
        for payload in sent:
            link.send("e", payload)
        await link.close(timeout=20)
        assert got == [b"first", *sent]


async def test_batches_keep_their_order_when_a_link_is_replaced() -> None:
    async with pair() as (a, b):
        got: list[bytes] = []
        under_way = 0

        @b.handler("e", batch=True)
        async def handle(messages: list[Message]) -> None:
            nonlocal under_way
            under_way += 1
            assert under_way == 1
            await asyncio.sleep(0.001)
            got.extend(m.payload for m in messages)
            under_way -= 1

        await a.connect(B)
        replacing = None
        sent = [b"%d" % number for number in range(2000)]
        for number, payload in enumerate(sent):
            await a.send(B, "e", payload)
            if number % 100 == 0:
                await asyncio.sleep(0)
            if number == 1000:
                replacing = asyncio.ensure_future(a.reconnect(B))
        assert replacing is not None
        await replacing
        await until(lambda: len(got) == len(sent))
        assert got == sent
        assert b.links[0].stats.handler_errors == 0


async def test_one_message_may_be_larger_than_a_batch() -> None:
    async with pair() as (a, b):
        got: list[list[int]] = []

        @b.handler("e", batch=True)
        def handle(messages: list[Message]) -> None:
            got.append([len(m.payload) for m in messages])

        await a.send(B, "e", bytes(5 * MAX_BATCH_BYTES), confirm=True, timeout=20)
        assert got == [[5 * MAX_BATCH_BYTES]]


async def test_what_cannot_be_registered() -> None:
    async with running(A) as a:
        with pytest.raises(ConfigError, match="concurrency"):
            a.handler("e", batch=True, concurrency=0)(lambda messages: None)
        a.handler("e", batch=True, concurrency=2)(lambda messages: None)
        with pytest.raises(ConfigError, match="has a handler already"):
            a.handler("e")(lambda message: None)
