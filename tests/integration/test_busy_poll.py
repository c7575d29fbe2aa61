"""A loop does not sleep while a reply is expected, where that is worth it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest

from fastnode import FastnodeError, Message, Node
from fastnode.limits import BUSY_POLL_CALLS
from fastnode.link.busy_poll import BusyPoll
from fastnode.link.clock import tell_time
from helpers.nodes import WAIT_SECONDS, A, B, introduce, pair, running, until

#: Seconds. With the clock stopped, no reply is late before the test says so.
LIMIT = 0.01
LATE = 2 * LIMIT
#: After it nothing rests any more.
LONG = 5.0

C = "gamma@127.0.0.1"


def polling(node: Node) -> BusyPoll:
    return node._context.settings.poll


@contextmanager
def stopped_clock() -> Iterator[Callable[[float], None]]:
    """The clock of links stands; what this gives moves it on by some seconds."""
    now = time.monotonic()

    def go_on(seconds: float) -> None:
        nonlocal now
        now += seconds
        tell_time(now)

    go_on(0)
    try:
        yield go_on
    finally:
        tell_time(-1.0)


@asynccontextmanager
async def two() -> AsyncIterator[tuple[Node, Node, asyncio.Event]]:
    """Nodes whose beta has an endpoint that replies at once, and one that waits for
    an event."""
    async with pair({"busy_poll": LIMIT}) as (a, b):
        event = asyncio.Event()
        serve(b, event)
        yield a, b, event


@asynccontextmanager
async def three() -> AsyncIterator[tuple[Node, asyncio.Event]]:
    """The first of them, which knows a third one: gamma, the same as beta."""
    async with two() as (a, _, event), running(C) as c:
        serve(c, event)
        introduce(a, c)
        yield a, event


def serve(node: Node, event: asyncio.Event) -> None:
    @node.handler("echo")
    def echo(message: Message) -> bytes:
        return message.payload

    @node.handler("late")
    async def late(message: Message) -> bytes:
        await event.wait()
        return message.payload


@contextmanager
def crowded() -> Iterator[None]:
    """One processor for this thread and another process, which never sleeps."""
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(mine)})
    try:
        with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as hog:
            try:
                yield
            finally:
                hog.kill()
    finally:
        os.sched_setaffinity(0, mine)


async def stands(poll: BusyPoll) -> bool:
    """Whether nothing is polled for."""
    # A turn that was scheduled comes to nothing.
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    before = poll.turns
    for _ in range(5):
        await asyncio.sleep(0)
    return poll.turns == before


async def test_awake_until_the_reply_is_there() -> None:
    with stopped_clock():
        async with two() as (a, b, event):
            link, poll = await a.connect(B), polling(a)
            assert poll.turns == 0
            assert await link.call("echo", b"x") == b"x"
            first = poll.turns
            assert first > 0
            assert await stands(poll)
            await link.send_confirmed("echo", b"x")
            second = poll.turns
            assert second > first
            await link.ping()
            assert poll.turns > second
            assert await stands(poll)
            waiting = asyncio.ensure_future(link.call("late", b"y"))
            assert not await stands(poll)
            # Whatever else there is to do on the loop has its turn.
            await link.ping()
            await asyncio.sleep(0.001)
            assert not await stands(poll)
            event.set()
            assert await waiting == b"y"
            assert await stands(poll)
            # Who replies waits for nothing.
            assert polling(b).turns == 0
            assert poll.yielded == 0


async def test_sleeps_where_that_is_asked_for() -> None:
    async with pair({"busy_poll": 0}) as (a, b):
        serve(b, asyncio.Event())
        link = await a.connect(B)
        assert await link.call("echo", b"x") == b"x"
        assert polling(a).turns == 0


async def test_a_late_reply_is_not_polled_for_nor_the_next_ones() -> None:
    with stopped_clock() as go_on:
        async with two() as (a, _, event):
            link, poll = await a.connect(B), polling(a)
            late = asyncio.ensure_future(link.call("late", b""))
            await until(lambda: poll.turns > 0)
            go_on(LATE)
            assert await stands(poll)
            event.set()
            await late
            before = poll.turns
            # It rests, from when the reply came.
            for _ in range(3):
                await link.call("echo", b"")
            assert poll.turns == before
            go_on(LONG)
            await link.call("echo", b"")
            assert poll.turns > before


async def test_a_call_that_takes_for_ever_keeps_no_other_from_it() -> None:
    with stopped_clock() as go_on:
        async with two() as (a, _, event):
            link, poll = await a.connect(B), polling(a)
            late = asyncio.ensure_future(link.call("late", b""))
            await until(lambda: poll.turns > 0)
            go_on(LATE)
            assert await stands(poll)
            before = poll.turns
            # That it is late is found now.
            await link.call("echo", b"")
            assert poll.turns == before
            go_on(LONG)
            for _ in range(2):
                await link.call("echo", b"")
                assert poll.turns > before
                before = poll.turns
            event.set()
            await late


async def test_a_late_reply_on_one_link_is_nothing_to_what_another_expects() -> None:
    with stopped_clock() as go_on:
        async with three() as (a, event):
            link, other, poll = await a.connect(B), await a.connect(C), polling(a)
            # Its link has no other call that would find it late.
            late = asyncio.ensure_future(link.call("late", b""))
            await until(lambda: poll.turns > 0)
            go_on(LATE)
            for _ in range(2):
                before = poll.turns
                await other.call("echo", b"")
                assert poll.turns > before
                assert await stands(poll)
            event.set()
            await late


async def test_late_replies_of_one_peer_are_nothing_to_another() -> None:
    with stopped_clock() as go_on:
        async with three() as (a, event):
            link, other, poll = await a.connect(B), await a.connect(C), polling(a)
            late = asyncio.ensure_future(link.call("late", b""))
            await until(lambda: poll.turns > 0)
            go_on(LATE)
            event.set()
            await late
            before = poll.turns
            await link.call("echo", b"")
            assert poll.turns == before
            await other.call("echo", b"")
            assert poll.turns > before


async def test_one_turn_for_all_links() -> None:
    with stopped_clock():
        async with three() as (a, event):
            calls = [
                asyncio.ensure_future((await a.connect(each)).call("late", b""))
                for each in (B, C)
            ]
            poll = polling(a)
            assert not await stands(poll)
            before = poll.turns
            for _ in range(10):
                await asyncio.sleep(0)
            assert 9 <= poll.turns - before <= 11
            event.set()
            await asyncio.gather(*calls)
            assert await stands(poll)


async def test_many_calls_under_way_are_not_polled_for() -> None:
    with stopped_clock() as go_on:
        async with two() as (a, _, event):
            link, poll = await a.connect(B), polling(a)
            calls = [
                asyncio.ensure_future(link.call("late", b""))
                for _ in range(BUSY_POLL_CALLS + 1)
            ]
            await until(lambda: poll.turns > 0)
            go_on(LATE)
            calls[0].cancel()
            await asyncio.wait(calls[:1])
            go_on(LONG)
            before = poll.turns
            # One more than there may be.
            await link.call("echo", b"")
            assert poll.turns == before
            calls[1].cancel()
            await asyncio.wait(calls[1:2])
            await link.call("echo", b"")
            assert poll.turns > before
            event.set()
            await asyncio.gather(*calls[2:])


@pytest.mark.parametrize("how", ["cancelled", "closed", "timed out", "raised"])
async def test_a_call_that_ends_without_a_reply_is_not_waited_for(how: str) -> None:
    with stopped_clock():
        async with two() as (a, b, _):

            @b.handler("raises")
            async def raises(_: Message) -> None:
                await asyncio.sleep(0)
                raise ValueError

            link, poll = await a.connect(B), polling(a)
            endpoint = "raises" if how == "raised" else "late"
            timeout = 0.05 if how == "timed out" else None
            call = asyncio.ensure_future(link.call(endpoint, b"", timeout=timeout))
            await until(lambda: poll.turns > 0)
            if how == "cancelled":
                call.cancel()
            elif how == "closed":
                await link.close(timeout=0.05)
            await asyncio.wait([call])
            assert call.cancelled() or isinstance(call.exception(), FastnodeError)
            assert await stands(poll)
            before = poll.turns
            if how != "closed":
                # It was not too late: the next one is polled for.
                await link.call("echo", b"")
                assert poll.turns > before


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="cannot choose a processor"
)
async def test_rests_where_another_process_wants_the_processor() -> None:
    async with two() as (a, _, _):
        link, poll = await a.connect(B), polling(a)
        with crowded():
            async with asyncio.timeout(WAIT_SECONDS):
                while not poll.yielded:
                    await link.call("echo", b"")
        assert await stands(poll)
        with stopped_clock() as go_on:
            before = poll.turns
            tell_time(0.0)
            await link.call("echo", b"")
            assert poll.turns == before
            go_on(LONG)
            await link.call("echo", b"")
            assert poll.turns > before


async def test_the_side_that_was_dialed_polls_too() -> None:
    with stopped_clock():
        async with two() as (a, b, _):
            serve(a, asyncio.Event())
            await a.connect(B)
            (link,) = b.links
            assert link.peer.name == A
            assert polling(b).limit > 0
            assert await link.call("echo", b"x") == b"x"
            assert polling(b).turns > 0
