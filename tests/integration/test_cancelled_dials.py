"""A dial goes on when its callers give up, at any moment of a handshake. Only the dial
of a keeper that is closed ends with it, unless somebody else waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from fastnode import CallTimeout, HandshakeError, Link, Node, Route
from fastnode.link.machine import State
from helpers.nodes import A, B, all_at_once, running, until
from helpers.proxy import Proxy

#: Seconds that every byte takes, in each direction: a handshake takes five times that.
DELAY = 0.2
#: In the middle of it.
PATIENCE = 0.5


@asynccontextmanager
async def far_pair() -> AsyncIterator[tuple[Node, Node, Proxy]]:
    """Alpha, which dials, and beta, a long way off."""
    async with running(A, listens=False) as a, running(B) as b, Proxy() as proxy:
        await proxy.start(b.acceptors[0].address)
        proxy.up.delay = proxy.down.delay = DELAY
        a.add_route(Route("^beta@", *proxy.address))
        b.handler("e")(lambda message: b"")
        yield a, b, proxy


async def nothing_is_left(a: Node, b: Node) -> None:
    """Neither side has a link, or a connection that may become one."""
    stats = b.acceptors[0].stats
    await until(lambda: stats.failed.total() + stats.refused.total() + stats.links)
    assert stats.links == 0
    assert stats.failed == {"HandshakeError": 1}
    await until(lambda: not tuple(a._links) and not tuple(b._links))
    assert a.dial_stats.links == 0
    assert a._dialer._tasks == set()
    assert not a._dialer._shared
    assert not a._links.dials


async def one_link_comes_up(a: Node, b: Node, proxy: Proxy) -> None:
    """The dial has found its end without a caller, by one connection."""
    await until(lambda: a.links and b.links)
    await until(lambda: not a._dialer._tasks)
    assert proxy.connections == 1
    assert not a._dialer._shared
    assert not a._dialer._unawaited
    assert not a._links.dials
    assert await a.connect(B) is a.links[0]


async def test_dials_that_take_long() -> None:
    await all_at_once(
        lambda dial, *case: dial(*case),
        (a_link_that_is_up_stays, False),
        (a_link_that_is_up_stays, True),
        (cancelled_in_the_middle_of_a_handshake, State.TLS),
        (cancelled_in_the_middle_of_a_handshake, State.ACCEPTED),
        (the_next_dial_after_a_closed_keeper_is_a_new_one,),
        (the_next_caller_finds_the_same_dial,),
        (every_wait_that_ends_leaves_its_dial,),
        (others_go_on_waiting,),
    )


async def cancelled_in_the_middle_of_a_handshake(state: State) -> None:
    async with far_pair() as (a, b, proxy):
        dial = asyncio.ensure_future(a.connect(B))
        await until(lambda: [link.state for link in b._links] == [state])
        dial.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dial
        assert not a.links
        await one_link_comes_up(a, b, proxy)


async def with_timeout(a: Node) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE):
            await a.connect(B)


async def with_call(a: Node) -> None:
    with suppress(CallTimeout):
        await a.call(B, "e", b"", timeout=PATIENCE)


async def with_send(a: Node) -> None:
    with suppress(CallTimeout):
        await a.send(B, "e", b"", timeout=PATIENCE)


async def with_reconnect(a: Node) -> None:
    with suppress(CallTimeout):
        await a.reconnect(B, timeout=PATIENCE)


async def with_many(a: Node) -> None:
    await asyncio.gather(*(with_timeout(a) for _ in range(5)), with_call(a))


async def every_wait_that_ends_leaves_its_dial() -> None:
    await all_at_once(
        leaves, (with_timeout,), (with_call,), (with_send,), (with_reconnect,),
        (with_many,),
    )  # fmt: skip


async def leaves(wait: Callable[[Node], Awaitable[None]]) -> None:
    async with far_pair() as (a, b, proxy):
        await wait(a)
        assert a.links == ()
        await one_link_comes_up(a, b, proxy)


async def test_a_keeper_that_is_closed_gives_its_dial_up() -> None:
    async with far_pair() as (a, b, _):
        async with a.keep_connected(B):
            await until(lambda: [link.state for link in b._links] == [State.TLS])
        assert a.links == ()
        await nothing_is_left(a, b)


async def others_go_on_waiting() -> None:
    async with far_pair() as (a, b, proxy):
        keeper = a.keep_connected(B)
        kept = asyncio.ensure_future(keeper.connected())
        await until(lambda: [link.state for link in b._links] == [State.TLS])
        await with_timeout(a)
        assert (await kept).peer.name == B
        assert proxy.connections == 1
        await keeper.close()


async def the_next_caller_finds_the_same_dial() -> None:
    async with far_pair() as (a, b, proxy):
        dial = asyncio.ensure_future(a.connect(B))
        await until(lambda: [link.state for link in b._links] == [State.TLS])
        dial.cancel()
        await asyncio.sleep(0)
        link = await a.connect(B)
        assert await link.ping() < 10
        assert proxy.connections == 1
        assert dial.cancelled()


async def the_next_dial_after_a_closed_keeper_is_a_new_one() -> None:
    async with far_pair() as (a, b, proxy):
        keeper = a.keep_connected(B)
        await until(lambda: [link.state for link in b._links] == [State.TLS])
        keeper.close()
        # Whoever connects before the one that was given up has ended is not cancelled.
        await asyncio.sleep(0)
        link = await a.connect(B)
        assert await link.ping() < 10
        assert proxy.connections == 2
        assert len(a.links) == len(b.links) == 1
        await until(lambda: b.acceptors[0].stats.failed == {"HandshakeError": 1})


async def a_link_that_is_up_stays(all_dials: bool) -> None:
    async with far_pair() as (a, _, _):
        dial = asyncio.ensure_future(a.connect(B))

        @a.on_link_up
        def too_late(link: Link) -> None:
            if all_dials:
                a._dialer.cancel()
            dial.cancel()

        with pytest.raises(asyncio.CancelledError):
            await dial
        (link,) = a.links
        assert await link.ping() < 10
        assert await a.connect(B) is link
        assert a.dial_stats.failed.total() + a.dial_stats.refused.total() == 0
        await until(lambda: not a._dialer._tasks)


async def never(name: str) -> list[tuple[str, int]]:
    await asyncio.Event().wait()
    raise AssertionError


async def test_a_resolver_is_given_up_too() -> None:
    async with running(A, listens=False, resolver=never) as a:
        async with a.keep_connected(B):
            await until(lambda: a._links.dials)
            await asyncio.sleep(0)
        await until(lambda: not a._dialer._tasks)


async def test_a_link_that_comes_in_does_not_keep_a_dial_alive() -> None:
    async with running(A, listens=False, resolver=never) as a:
        dial = asyncio.ensure_future(a.connect(B))
        await until(lambda: a._links.dials)
        await asyncio.sleep(0)
        # Both in one turn, and the link never comes up.
        a._links.dials[B].supersede()
        a._dialer.cancel()
        # An error, for nobody cancelled the task that waits.
        with pytest.raises(HandshakeError, match="was cancelled"):
            await dial
        assert not a._dialer._tasks
