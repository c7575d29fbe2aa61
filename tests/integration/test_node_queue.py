"""What all links of a node may queue together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from fastnode import (
    ConfigError,
    Link,
    LinkLost,
    Message,
    NetworkOptions,
    Node,
    SendQueueFull,
)
from helpers.nodes import A, introduce, running, until

KIB, MIB = 1 << 10, 1 << 20
NAMES = [f"peer{i}@127.0.0.1" for i in range(3)]


@asynccontextmanager
async def star(ceiling: int) -> AsyncIterator[tuple[Node, list[Link], asyncio.Event]]:
    """A node and links to three peers that handle nothing until an event is set."""
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(
            running(A, max_node_queued=ceiling, high_water=MIB)
        )
        go = asyncio.Event()

        async def wait(message: Message) -> None:
            await go.wait()

        links = []
        for name in NAMES:
            node = await stack.enter_async_context(running(name, window=128 * KIB))
            node.handler("e")(wait)
            introduce(a, node)
            links.append(await a.connect(name))
        yield a, links, go
        go.set()


def test_the_ceiling_is_not_below_one_link_s_mark() -> None:
    with pytest.raises(ConfigError, match="max_node_queued"):
        NetworkOptions(max_node_queued=MIB - 1)


async def test_guarantee_9_a_ceiling_over_all_links() -> None:
    ceiling = 4 * MIB
    async with star(ceiling) as (a, links, go):
        sent = 0
        with pytest.raises(SendQueueFull, match="node") as caught:
            for number in range(10_000):
                links[number % 3].send("e", bytes(10 * KIB))
                sent += 1
        assert "max_node_queued" in str(caught.value)
        assert ceiling - 64 * KIB < a.queued_bytes <= ceiling + KIB
        before = [link.stats for link in links]
        for link in links:
            with pytest.raises(SendQueueFull):
                await link.call("e", bytes(64 * KIB))
            with pytest.raises(SendQueueFull):
                link.send("e", bytes(64 * KIB))
        assert [link.stats for link in links] == before
        # Calls and messages in the other direction, and pings, are not concerned.
        await links[0].ping()
        drains = [asyncio.ensure_future(link.drain()) for link in links]
        send = asyncio.ensure_future(a.send(NAMES[0], "e", b"last"))
        await links[0].ping()
        assert not any(each.done() for each in (*drains, send))
        go.set()
        await asyncio.gather(*drains, send)
        await until(lambda: a.queued_bytes == 0)
        assert sum(link.stats.messages_sent for link in links) == sent + 1


async def test_many_senders_wait_and_none_is_refused() -> None:
    async with star(2 * MIB) as (a, _, go):
        sends = [
            asyncio.ensure_future(a.send(NAMES[i % 3], "e", bytes(20 * KIB)))
            for i in range(400)
        ]
        await until(lambda: a.queued_bytes > MIB)
        go.set()
        await asyncio.gather(*sends)
        assert a.queued_bytes <= 2 * MIB
        await until(lambda: a.queued_bytes == 0)


async def test_what_a_lost_link_had_queued_counts_no_more() -> None:
    async with star(4 * MIB) as (a, links, _):
        lost, *others = links
        while a.queued_bytes <= 3 * MIB:
            lost.send("e", bytes(10 * KIB))
        waits = [asyncio.ensure_future(link.drain()) for link in (lost, *others)]
        await others[0].ping()
        assert not any(each.done() for each in waits)
        next(p for p in a._links if p.link is lost).abort()
        with pytest.raises(LinkLost):
            await waits[0]
        await asyncio.gather(*waits[1:])
        assert a.queued_bytes == 0
