"""`await node.send()` waits where `link.send()` raises: for room, in order."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from fastnode import (
    CallTimeout,
    Link,
    LinkLost,
    Message,
    MessageTooLarge,
    Node,
    SendQueueFull,
)
from helpers.nodes import WAIT_SECONDS, B, pair, until

KIB, MIB = 1 << 10, 1 << 20
SENDERS = 60


def numbered(number: int, size: int = 256 * KIB) -> bytes:
    return number.to_bytes(4) + bytes(size - 4)


@asynccontextmanager
async def slow_pair() -> AsyncIterator[tuple[Node, Node, asyncio.Event, list[int]]]:
    """Alpha queues at most 2 MiB; beta takes little until the event is set, and lists
    what it got."""
    go, got = asyncio.Event(), list[int]()
    first = {"max_queued": 2 * MIB, "high_water": MIB, "max_message_size": 4 * MIB}
    async with pair(first, {"window": 128 * KIB}) as (a, b):

        @b.handler("e", concurrency=1)
        async def take(message: Message) -> None:
            await go.wait()
            got.append(int.from_bytes(message.payload[:4]))

        await a.connect(B)
        yield a, b, go, got
        go.set()


async def fill(a: Node) -> list[asyncio.Task[None]]:
    """More senders than there is room for; they are numbered."""
    sends = [
        asyncio.ensure_future(a.send(B, "e", numbered(n), confirm=n % 3 == 0))
        for n in range(SENDERS)
    ]
    await until(lambda: a.queued_bytes > MIB)
    await a.links[0].ping()
    assert not any(each.done() for each in sends[20:])
    return sends


async def test_all_wait_and_come_in_order() -> None:
    async with slow_pair() as (a, _, go, got):
        sends = await fill(a)
        (link,) = a.links
        with pytest.raises(SendQueueFull):
            link.send("e", numbered(0, 2 * MIB))
        assert a.queued_bytes <= 2 * MIB + 64 * KIB
        go.set()
        outcomes = await asyncio.gather(*sends, return_exceptions=True)
        assert Counter(map(type, outcomes)) == {type(None): SENDERS}
        await until(lambda: len(got) == SENDERS)
        assert got == list(range(SENDERS))
        assert link.stats.messages_sent == SENDERS


async def test_a_small_one_does_not_pass_a_large_one() -> None:
    async with slow_pair() as (a, _, go, got):
        sends = [
            asyncio.ensure_future(a.send(B, "e", numbered(n, size)))
            for n, size in enumerate([2 * MIB - KIB, 3 * MIB, KIB, 4 * MIB, 0 + KIB])
        ]
        await until(lambda: a.queued_bytes > MIB)
        await a.links[0].ping()
        # The first one may have left. Nothing may have passed the second one.
        assert not any(each.done() for each in sends[1:])
        go.set()
        await asyncio.gather(*sends)
        await until(lambda: len(got) == 5)
        assert got == list(range(5))


async def test_what_never_fits_is_said_at_once() -> None:
    async with slow_pair() as (a, _, go, _got):
        for confirm in (False, True):
            with pytest.raises(MessageTooLarge) as caught:
                await a.send(B, "e", bytes(4 * MIB + 1), confirm=confirm)
            assert getattr(caught.value.peer, "name", None) == B
        sends = await fill(a)
        late = asyncio.ensure_future(a.send(B, "e", bytes(4 * MIB + 1)))
        go.set()
        with pytest.raises(MessageTooLarge):
            await late
        await asyncio.gather(*sends)


async def test_a_lost_link_ends_the_wait_of_all() -> None:
    async with slow_pair() as (a, _, _go, _got):
        sends = await fill(a)
        (link,) = a.links
        next(iter(a._links)).abort()
        outcomes = await asyncio.gather(*sends, return_exceptions=True)
        # Of those that were queued some may have drained.
        assert {type(each) for each in outcomes[20:]} == {LinkLost}
        # Those that waited for room were not queued, so they can be sent again.
        queued = link.stats.messages_sent
        assert queued < 20
        assert {getattr(each, "begun", None) for each in outcomes[queued:]} == {"no"}
        assert "no" not in {getattr(each, "begun", None) for each in outcomes[:queued]}
        # Nothing is left of the line.
        assert not a._sending._lines
        assert a.queued_bytes == 0


async def test_who_gives_up_holds_up_nobody() -> None:
    async with slow_pair() as (a, _, go, got):
        sends = await fill(a)
        first = next(n for n in range(SENDERS) if not sends[n].done() and n % 3)
        for number in (first, SENDERS - 10, SENDERS - 1):
            sends[number].cancel()
        with pytest.raises(CallTimeout, match="was not taken"):
            await a.send(B, "e", numbered(SENDERS), timeout=0.01)
        go.set()
        await asyncio.wait(sends)
        await a.send(B, "e", numbered(SENDERS + 1), confirm=True)
        assert SENDERS not in got
        assert SENDERS - 10 not in got
        assert SENDERS - 1 not in got
        assert got == sorted(got)
        assert not a._sending._lines


async def test_priority_has_a_line_of_its_own() -> None:
    async with slow_pair() as (a, b, go, _got):
        urgent: list[bytes] = []
        b.handler("urgent")(lambda m: urgent.append(m.payload))
        sends = await fill(a)
        # It need not wait for those before it, but for room it has to.
        last = asyncio.ensure_future(a.send(B, "urgent", b"!", priority="high"))
        await until(lambda: urgent)
        assert not sends[-1].done()
        go.set()
        await asyncio.gather(*sends, last)


async def test_a_line_outlasts_the_link() -> None:
    async with slow_pair() as (a, b, go, got):
        sends = await fill(a)
        reconnecting = asyncio.ensure_future(a.reconnect(B, timeout=WAIT_SECONDS))
        await until(lambda: len(b.links) == 2)
        late = asyncio.ensure_future(a.send(B, "e", numbered(SENDERS)))
        await asyncio.sleep(0)
        go.set()
        await asyncio.gather(*sends, late, reconnecting)
        await until(lambda: len(got) == SENDERS + 1)
        assert got == list(range(SENDERS + 1))


async def test_the_room_of_the_node_is_waited_for() -> None:
    go, got = asyncio.Event(), list[int]()
    first = {"max_node_queued": 2 * MIB, "high_water": MIB}
    async with pair(first, {"window": 128 * KIB}) as (a, b):

        @b.handler("e", concurrency=1)
        async def take(message: Message) -> None:
            await go.wait()
            got.append(int.from_bytes(message.payload[:4]))

        await a.connect(B)
        sends = await fill(a)
        assert a.queued_bytes <= 2 * MIB + 64 * KIB
        go.set()
        await asyncio.gather(*sends)
        await until(lambda: len(got) == SENDERS)
        assert got == list(range(SENDERS))


async def test_a_message_that_was_never_queued_has_not_begun(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Even if the link is lost while other links keep the node's budget used up: then
    the wait itself fails, with the error of the link."""

    async def lost(link: Link, size: int) -> None:
        raise LinkLost("the link was lost")

    async with slow_pair() as (a, _, _go, _got):
        (link,) = a.links
        with pytest.raises(SendQueueFull):
            for _ in range(60):
                link.send("e", numbered(0))
        monkeypatch.setattr("fastnode.node.sending.room", lost)
        with pytest.raises(LinkLost) as caught:
            await a.send(B, "e", numbered(0))
        assert caught.value.begun == "no"
