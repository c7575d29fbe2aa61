"""Links that are kept, and who hears of those that come and go."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any
from unittest import mock

import pytest

from fastnode import (
    CertificateRequired,
    ConfigError,
    FastnodeError,
    Keeper,
    Link,
    LinkClosed,
    LinkLost,
    Node,
    NotAuthorized,
    Peer,
    Route,
)
from fastnode.backoff import Backoff
from helpers.nodes import A, B, forget, introduce, pair, running, start, until
from helpers.pki import manager, odd_certificate
from helpers.proxy import Proxy


class Events:
    """What a node says of its links."""

    def __init__(self, node: Node) -> None:
        self.all: list[tuple[str, Link, FastnodeError | None]] = []
        node.on_link_up(lambda link: self.all.append(("up", link, None)))
        node.on_link_down(lambda link, why: self.all.append(("down", link, why)))

    async def come(self, count: int) -> None:
        """Wait for the first `count` of them."""
        await until(lambda: len(self.all) >= count)

    @property
    def kinds(self) -> list[str]:
        return [kind for kind, *_ in self.all]


@asynccontextmanager
async def kept(
    options: dict[str, Any] | None = None,
) -> AsyncIterator[tuple[Node, Node, Proxy, Keeper]]:
    """alpha keeps a link with beta, through a proxy."""
    async with pair(options, options) as (a, b), Proxy() as proxy:
        forget(a, B)
        await proxy.start(b.acceptors[0].address)
        a.add_route(Route("^beta@", *proxy.address))
        async with a.keep_connected(B) as keeper, asyncio.timeout(20):
            yield a, b, proxy, keeper


def eager() -> mock._patch[object]:
    """Keepers that are made in here never wait for long."""
    make = partial(Backoff, first=0.05, stable=0.0)
    return mock.patch("fastnode.node.keeper.Backoff", make)


# --- keeping ------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["reset", "cut", "half_close"])
async def test_a_lost_link_is_dialed_again(how: str) -> None:
    async with kept() as (_a, b, proxy, keeper):
        seen = set()
        for _ in range(3):
            link = await keeper.connected()
            assert keeper.link is link
            assert link not in seen
            seen.add(link)
            await until(lambda: b.links)
            getattr(proxy, how)()
            await link.wait_closed()
            await until(lambda: not b.links)


async def test_a_link_that_the_other_side_closes_is_dialed_again() -> None:
    async with kept() as (_a, b, _proxy, keeper):
        link = await keeper.connected()
        await until(lambda: b.links)
        await b.links[0].close()
        await until(lambda: keeper.link not in (None, link))
        # Closed here, too: `Keeper.close` is how to end it.
        second = await keeper.connected()
        await second.close()
        await until(lambda: keeper.link not in (None, second))


async def test_a_black_hole_is_left() -> None:
    quick = {"keepalive_interval": 0.1, "handshake_timeout": 1.0}
    async with kept(quick) as (_a, b, proxy, keeper):
        link = await keeper.connected()
        proxy.black_hole = True
        await link.wait_closed()
        await until(lambda: not b.links)
        proxy.black_hole = False
        assert await keeper.connected() is not link


async def test_a_peer_that_is_restarted() -> None:
    async with Proxy() as proxy, running(A) as a:
        b = await start(B)
        await proxy.start(b.acceptors[0].address)
        a.add_route(Route("^beta@", *proxy.address))
        events = Events(a)
        async with a.keep_connected(B) as keeper, asyncio.timeout(20):
            first = await keeper.connected()
            await b.stop()
            await until(lambda: isinstance(keeper.error, FastnodeError))
            async with running(B) as b:
                proxy.retarget(b.acceptors[0].address)
                link = await keeper.connected()
                assert link.peer.instance == b.instance != first.peer.instance
                assert keeper.error is None
                await until(lambda: len(events.all) == 3)
                assert events.kinds == ["up", "down", "up"]


async def test_the_next_route_is_taken() -> None:
    async with kept() as (a, b, proxy, keeper):
        link = await keeper.connected()
        async with Proxy() as other:
            await other.start(b.acceptors[0].address)
            a.add_route(Route("^beta@127", *other.address, weight=50))
            proxy.refuses = True
            proxy.cut()
            await link.wait_closed()
            await keeper.connected()
            assert other.connections == 1
            assert proxy.connections > 1
            await keeper.close()
            await a.stop()


async def test_the_current_certificate_is_shown() -> None:
    shown = manager(A)
    async with pair({"manager": shown}) as (a, b), asyncio.timeout(20):
        async with a.keep_connected(B) as keeper:
            await keeper.connected()
            await until(lambda: b.links)
            old = b.links[0].peer.certificate
            shown.update(odd_certificate(A))
            await b.links[0].close()
            await until(lambda: b.links and b.links[0].peer.certificate != old)


async def test_a_pause_between_two_dials_is_no_close() -> None:
    pause = 0.01
    with mock.patch.object(Backoff, "pause", return_value=pause):
        async with running(A) as a, asyncio.timeout(20):
            # Nobody listens there: every dial fails, a timeout ends every pause.
            a.add_route(Route("^beta@", "127.0.0.1", 9))
            async with a.keep_connected(B) as keeper:
                await until(lambda: keeper.error is not None)
                end = asyncio.get_running_loop().time() + 10 * pause
                while asyncio.get_running_loop().time() < end:
                    assert not keeper.closed
                    await asyncio.sleep(0)


async def test_close_keeps_the_link_and_dials_no_more() -> None:
    async with pair() as (a, _b), asyncio.timeout(20):
        keeper = a.keep_connected(B)
        link = await keeper.connected()
        waiting = keeper.close()
        assert keeper.closed
        await waiting
        assert not link.closed
        await link.close()
        with pytest.raises(LinkClosed):
            await keeper.connected()
        assert keeper.link is None


async def test_two_keepers_of_one_link_are_independent() -> None:
    async with kept() as (a, b, _proxy, keeper):
        other = a.keep_connected(B)
        link = await keeper.connected()
        assert await other.connected() is link
        await until(lambda: b.links)
        await other.close()
        assert not keeper.closed
        await b.links[0].close()
        await until(lambda: keeper.link not in (None, link))


async def test_who_waits_hears_that_it_was_closed() -> None:
    async with running(A, listens=False) as a, asyncio.timeout(20):
        a.add_route(Route("^beta@", "127.0.0.1", 1))
        keeper = a.keep_connected(B)
        waiting = asyncio.ensure_future(keeper.connected())
        await until(lambda: keeper.error is not None)
        await keeper.close()
        with pytest.raises(LinkClosed):
            await waiting


async def test_stop_ends_it() -> None:
    async with pair() as (a, _b), asyncio.timeout(20):
        keeper = a.keep_connected(B)
        await keeper.connected()
        await a.stop()
        assert keeper.closed
        with pytest.raises(LinkClosed):
            a.keep_connected(B)


async def test_what_can_never_work_is_said_at_once() -> None:
    async with running(A, listens=False) as a:
        with pytest.raises(ConfigError):
            a.keep_connected("no name")


async def test_a_refusal_waits_long_and_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    allowed = False

    def authorize(peer: Peer) -> bool:
        return allowed

    async with pair(second={"authorize": authorize}) as (a, b), asyncio.timeout(20):
        backoff = Backoff(first=0.001, most=0.05)
        with caplog.at_level(logging.WARNING, "fastnode.node"):
            with mock.patch("fastnode.node.keeper.Backoff", return_value=backoff):
                keeper = a.keep_connected(B)
            await until(lambda: isinstance(keeper.error, NotAuthorized))
            assert backoff.ceiling == 0.05
            await until(lambda: b.acceptors[0].stats.refused["NotAuthorized"] > 3)
        # News once, not at every attempt.
        said = [r for r in caplog.records if "no link with" in r.getMessage()]
        assert len(said) == 1
        allowed = True
        await keeper.connected()
        assert keeper.error is None


async def test_both_sides_keep_one_link() -> None:
    async with pair() as (a, b), Proxy() as proxy, Proxy() as back:
        for node, peer, name, way in ((a, b, B, proxy), (b, a, A, back)):
            forget(node, name)
            await way.start(peer.acceptors[0].address)
            node.add_route(Route(name, *way.address))
        events = Events(a), Events(b)
        with eager():
            keepers = a.keep_connected(B), b.keep_connected(A)
        async with asyncio.timeout(30), keepers[0], keepers[1]:
            for count in range(1, 21):
                await until(lambda: len(a.links) == len(b.links) == 1)
                assert a.links[0].dialed is not b.links[0].dialed
                assert not a.links[0].closed
                assert not b.links[0].closed
                # One link each time, and not one that came and went.
                expected = ["up", "down"] * (count - 1) + ["up"]
                for each in events:
                    await each.come(2 * count - 1)
                    assert each.kinds == expected
                proxy.reset()
                back.reset()
                for each in events:
                    await each.come(2 * count)


# --- events -------------------------------------------------------------------------


async def test_events_of_both_sides() -> None:
    ups: list[Link] = []
    downs: list[tuple[Link, FastnodeError]] = []
    options: dict[str, Any] = {
        "on_link_up": ups.append,
        "on_link_down": lambda link, why: downs.append((link, why)),
    }
    async with pair(second=options) as (a, b):
        events = Events(a)
        link = await a.connect(B)
        await until(lambda: ups)
        assert events.all == [("up", link, None)]
        assert ups == list(b.links)
        await link.close()
        await until(lambda: downs)
        assert events.kinds == ["up", "down"]
        assert type(events.all[1][2]) is LinkClosed
        assert events.all[1][2].side is link.error.side  # type: ignore[union-attr]
        assert downs[0][0] is ups[0]
        assert type(downs[0][1]) is LinkClosed
        assert "closed" in str(downs[0][1])


async def test_the_reason_is_the_error() -> None:
    async with kept() as (a, _b, proxy, keeper):
        events = Events(a)
        link = await keeper.connected()
        proxy.reset()
        await until(lambda: "down" in events.kinds)
        _, which, why = next(e for e in events.all if e[0] == "down")
        assert which is link
        assert why is link.error
        assert isinstance(why, LinkLost)


async def test_a_succession_is_no_event() -> None:
    async with pair() as (a, b), asyncio.timeout(20):
        events = Events(a), Events(b)
        async with a.keep_connected(B) as keeper:
            link = await keeper.connected()
            await until(lambda: b.links)
            for _ in range(3):
                await a.reconnect(B)
            await b.reconnect(A)
            await until(lambda: len(a.links) == len(b.links) == 1)
            assert keeper.link not in (None, link)
            assert [each.kinds for each in events] == [["up"], ["up"]]
            await keeper.close()
            newest = a.links[0]
        await a.stop()
        await until(lambda: not b.links)
        assert [each.kinds for each in events] == [["up", "down"], ["up", "down"]]
        assert events[0].all[1][1] is newest


async def test_callbacks_that_raise_are_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with pair() as (a, _b):

        @a.on_link_up
        def wrong(link: Link) -> None:
            raise ValueError("on purpose")

        @a.on_link_down
        def wrong_too(link: Link, why: FastnodeError) -> None:
            raise ValueError("on purpose too")

        events = Events(a)
        link = await a.connect(B)
        await link.close()
        await until(lambda: len(events.all) == 2)
        assert "on purpose" in caplog.text
        assert "on purpose too" in caplog.text


async def test_refused_links_are_no_events() -> None:
    none = {"manager": manager(A, anonymous=True), "listens": False}
    async with pair(none) as (a, b):
        events = Events(a), Events(b)
        with pytest.raises(CertificateRequired):
            await a.connect(B)
        await until(lambda: b.acceptors[0].stats.refused)
        assert events[0].all == events[1].all == []


async def test_a_callback_may_use_the_node() -> None:
    async with running(A) as a, running(B) as b, asyncio.timeout(20):
        introduce(b, a)
        got: list[bytes] = []
        b.handler("hello")(lambda m: got.append(m.payload))

        @a.on_link_up
        def greet(link: Link) -> None:
            link.send("hello", b"hi")

        await b.connect(A)
        await until(lambda: got)
