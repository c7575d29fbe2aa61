"""The time that is left of a call travels with it."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator

import pytest

from fastnode import CallTimeout, Message, Node
from fastnode.wire.call_error import DEADLINE_OVER
from helpers import frames
from helpers.nodes import WAIT_SECONDS, A, B, introduce, pair, running, until
from helpers.raw import raw_peer

C = "gamma@127.0.0.1"
#: What the clocks of two loops, and a busy machine, may differ by.
SLACK = 5.0


@pytest.fixture
async def nodes() -> AsyncIterator[tuple[Node, Node]]:
    async with pair() as both:
        yield both


def tell_time_left(node: Node) -> None:
    """Register endpoints that reply with the time that is left."""

    def text(message: Message) -> bytes:
        if message.deadline is None:
            assert message.time_left is None
            return b"none"
        left = message.time_left
        assert left is not None
        now = asyncio.get_running_loop().time()
        assert abs(message.deadline - now - left) < SLACK
        return b"%f" % left

    @node.handler("plain")
    def plain(message: Message) -> bytes:
        return text(message)

    @node.handler("async")
    async def asynchronous(message: Message) -> bytes:
        await asyncio.sleep(0)
        return text(message)

    @node.handler("bounded", concurrency=1)
    async def bounded(message: Message) -> bytes:
        return text(message)


@pytest.mark.parametrize("endpoint", ["plain", "async", "bounded"])
async def test_a_handler_sees_the_time_that_is_left(
    nodes: tuple[Node, Node], endpoint: str
) -> None:
    a, b = nodes
    tell_time_left(b)
    link = await a.connect(B)
    for payload in (b"", bytes(100_000)):
        for _ in range(3):
            left = float(await link.call(endpoint, payload, timeout=1000))
            assert 1000 - SLACK < left <= 1000.01
            assert await link.call(endpoint, payload) == b"none"
    left = float(await a.call(B, endpoint, b"", timeout=500))
    assert 500 - SLACK < left <= 500.01
    left = float((await a.request(B, endpoint, b"", timeout=50)).payload)
    assert 50 - SLACK < left <= 50.01


async def test_the_time_is_taken_when_the_frame_leaves(
    nodes: tuple[Node, Node],
) -> None:
    a, b = nodes
    tell_time_left(b)
    link = await a.connect(B)
    await link.call("plain", b"")
    # What the queue takes is not left any more.
    loop = asyncio.get_running_loop()
    calls = [
        asyncio.create_task(link.call("plain", b"", timeout=1000)) for _ in range(40)
    ]
    await asyncio.sleep(0)
    began = loop.time()
    while loop.time() < began + 0.3:
        pass
    lefts = [float(await call) for call in calls]
    # Half of them left at once, the rest after the loop was blocked.
    assert max(lefts) > 999.8
    assert min(lefts) <= 999.75


async def test_over_three_nodes() -> None:
    async with pair() as (a, b), running(C) as c:
        introduce(b, c)
        tell_time_left(c)
        seen: list[float | None] = []

        @b.handler("relay")
        async def relay(message: Message) -> bytes:
            seen.append(message.time_left)
            how = message.payload
            if how == b"inherit":
                return await b.call(C, "async", b"")
            if how == b"shorter":
                return await b.call(C, "async", b"", timeout=10)
            if how == b"longer":
                return (await b.request(C, "async", b"", timeout=9000)).payload
            if how == b"held link":
                return await (await b.connect(C)).call("async", b"")
            if how == b"opt out":
                return await b.call(C, "async", b"", inherit_deadline=False)
            await b.send(C, "async", b"")
            task = asyncio.create_task(b.call(C, "async", b""))
            return await task

        link = await a.connect(B)
        for how, least, most in (
            (b"inherit", 1000 - 2 * SLACK, 1000.01),
            (b"shorter", 10 - SLACK, 10.01),
            (b"longer", 1000 - 2 * SLACK, 1000.01),
            (b"held link", 1000 - 2 * SLACK, 1000.01),
            (b"a task of its own", 1000 - 2 * SLACK, 1000.01),
        ):
            assert least < float(await link.call("relay", how, timeout=1000)) <= most
        assert await link.call("relay", b"opt out", timeout=1000) == b"none"
        # Without a deadline there is nothing to inherit.
        assert await link.call("relay", b"inherit") == b"none"
        assert seen[-1] is None


async def test_a_task_that_outlives_its_handler_inherits_nothing() -> None:
    async with pair() as (a, b), running(C) as c:
        introduce(b, c)
        tell_time_left(c)
        ended = asyncio.Event()
        left: list[asyncio.Task[bytes]] = []

        async def later() -> bytes:
            await ended.wait()
            return await b.call(C, "async", b"")

        @b.handler("leaves a task")
        async def leaves(message: Message) -> None:
            left.append(asyncio.create_task(later()))

        await a.call(B, "leaves a task", b"", timeout=100)
        ended.set()
        assert await left[0] == b"none"


async def test_a_nested_call_times_out_with_its_handler() -> None:
    async with pair() as (a, b), running(C) as c:
        introduce(b, c)
        errors: list[CallTimeout] = []
        cancelled = asyncio.Event()

        @c.handler("stuck")
        async def stuck(message: Message) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

        @b.handler("relay")
        async def relay(message: Message) -> bytes:
            try:
                await b.call(C, "stuck", b"")
            except CallTimeout as error:
                errors.append(error)
                # There is no time for another one.
                try:
                    await b.call(C, "stuck", b"")
                except CallTimeout as second:
                    errors.append(second)
            return b""

        await b.connect(C)
        link = await a.connect(B)
        # The caller waits a little longer than it says, so that the handler ends.
        with pytest.raises(CallTimeout):
            await link.call("relay", b"", timeout=0.2)
        await asyncio.wait_for(cancelled.wait(), WAIT_SECONDS)
        # Its own caller gave up at the same time, so it may have been cancelled before
        # the first error or in the second call.
        assert [error.begun for error in errors] in ([], ["maybe"], ["maybe", "no"])


@pytest.mark.parametrize("confirm", [False, True])
async def test_a_call_whose_time_is_over_is_not_begun(
    nodes: tuple[Node, Node], confirm: bool
) -> None:
    a, b = nodes
    begun: list[bytes] = []
    release = asyncio.Event()

    @b.handler("bounded", concurrency=1)
    async def bounded(message: Message) -> bytes:
        begun.append(message.payload)
        await release.wait()
        return message.payload

    link = await a.connect(B)
    use = link.send_confirmed if confirm else link.call
    first = asyncio.create_task(link.call("bounded", b"first"))
    await until(lambda: begun == [b"first"])
    for _ in range(2):
        with pytest.raises(CallTimeout) as caught:
            await use("bounded", b"late", timeout=0.05)
        assert caught.value.code == "deadline_exceeded"
    release.set()
    assert await first == b"first"
    assert await link.call("bounded", b"last", timeout=WAIT_SECONDS) == b"last"
    assert begun == [b"first", b"last"]
    # Both sides have counted it.
    (other,) = b.links
    assert other.stats.calls_expired == 2
    await until(lambda: link.stats.calls_expired_at_peer == 2)


@pytest.mark.parametrize("kind", [frames.CALL, frames.CONFIRM])
@pytest.mark.parametrize("endpoint", ["plain", "async", "bounded", "batch"])
async def test_a_handler_does_not_begin_without_time(endpoint: str, kind: int) -> None:
    """The caller says nothing more: the time in the frame alone decides."""
    if (endpoint, kind) == ("batch", frames.CALL):
        pytest.skip("a batch endpoint takes no calls")
    async with running(B, plaintext=True) as node:
        begun: list[bytes] = []

        @node.handler("plain")
        def plain(message: Message) -> None:
            begun.append(message.payload)

        @node.handler("async")
        async def asynchronous(message: Message) -> None:
            begun.append(message.payload)

        @node.handler("bounded", concurrency=1)
        async def bounded(message: Message) -> None:
            begun.append(message.payload)

        @node.handler("batch", batch=True)
        def batch(messages: list[Message]) -> None:
            begun.extend(message.payload for message in messages)

        def asked(number: int, microseconds: int) -> bytes:
            block = frames.field(frames.DEADLINE, struct.pack(">Q", microseconds))
            call = struct.pack(">I", number)
            return frames.extended(kind, call, block, b"%d" % number)

        async with raw_peer(node, frames.feature(frames.EXTENSIONS)) as peer:
            (link,) = node.links
            peer.writer.write(frames.endpoint(0, endpoint.encode()))
            peer.writer.write(asked(1, 0) + asked(2, 1000 * 1_000_000))
            error = await peer.until(frames.ERROR)
            assert error[:6] == struct.pack(">IH", 1, DEADLINE_OVER)
            assert await peer.until(frames.REPLY) == struct.pack(">I", 2)
            assert begun == [b"2"]
            assert link.stats.calls_expired == 1


async def test_time_out_of_a_running_handler_cancels_it(
    nodes: tuple[Node, Node],
) -> None:
    a, b = nodes
    cancelled = asyncio.Event()

    @b.handler("stuck")
    async def stuck(message: Message) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    link = await a.connect(B)
    with pytest.raises(CallTimeout) as caught:
        await link.call("stuck", b"", timeout=0.05)
    assert caught.value.begun == "maybe"
    await asyncio.wait_for(cancelled.wait(), WAIT_SECONDS)
    (other,) = b.links
    assert other.stats.calls_expired == 0


async def test_one_way_messages_have_no_deadline(nodes: tuple[Node, Node]) -> None:
    a, b = nodes
    seen: list[float | None] = []

    @b.handler("plain")
    def plain(message: Message) -> None:
        seen.append(message.deadline)

    @a.handler("relay")
    async def relay(message: Message) -> None:
        await a.send(B, "plain", b"")
        await a.send(B, "plain", b"", confirm=True)

    await b.call(A, "relay", b"", timeout=100)
    await a.send(B, "plain", b"", timeout=100)
    await until(lambda: len(seen) == 3)
    # A confirmed message inherits one; one that is not confirmed does not.
    assert [each is None for each in seen] == [True, False, True]
