"""Workers of one group: nodes of one name side by side, in one process here.

`test_instances.py` has instances of one name that are in no group.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from fastnode import (
    AcceptorOptions,
    Link,
    LinkClosed,
    LinkLost,
    NetworkOptions,
    Node,
    NodeOptions,
    Route,
    start_node,
)
from fastnode.errors import FastnodeError
from fastnode.limits import GROUP_BYTES
from helpers.nodes import A, B, forget, introduce, running, until
from helpers.pki import manager
from helpers.proxy import Proxy


@asynccontextmanager
async def siblings(group: bytes | None = None) -> AsyncIterator[tuple[Node, Node]]:
    """Two workers of beta. Each says which it is."""
    options = NodeOptions(
        cert_manager=manager(B),
        network=NetworkOptions(acceptors=[AcceptorOptions(port=0)]),
        shutdown_timeout=5.0,
        group=group or os.urandom(GROUP_BYTES),
    )
    async with await start_node(B, options) as one, await start_node(B, options) as two:
        for node, name in ((one, b"one"), (two, b"two")):
            node.handler("who")(says(name))
        yield one, two


def says(name: bytes) -> Callable[[object], bytes]:
    return lambda message: name


class Events:
    """What a node is told of its links."""

    def __init__(self, node: Node) -> None:
        self.up: list[Link] = []
        self.down: list[FastnodeError] = []
        node.on_link_up(self.up.append)
        node.on_link_down(lambda link, error: self.down.append(error))


async def test_each_may_dial_the_same_peer() -> None:
    async with running(A) as a, siblings() as (one, two):
        events = Events(a)
        a.handler("echo")(lambda message: message.payload)
        introduce(one, a)
        introduce(two, a)
        # In turns, for as long as links that push each other out would take to show.
        for _ in range(5):
            for node in (one, two):
                assert await node.call(A, "echo", b"x", timeout=5.0) == b"x"
        assert len(a.links) == len(events.up) == 2
        assert not events.down
        # To the peer they are one name, and the first of them has it.
        assert await a.call(B, "who", b"") == b"one"


async def test_each_may_keep_the_same_peer() -> None:
    async with running(A) as a, siblings() as (one, two):
        events = Events(a)
        introduce(one, a)
        introduce(two, a)
        async with one.keep_connected(A) as first, two.keep_connected(A) as second:
            links = [await first.connected(), await second.connected()]
            await until(lambda: len(a.links) == 2)
            for node in (one, two):
                await node.send(A, "nothing", b"", confirm=False)
            assert [first.link, second.link] == links
        assert len(events.up) == 2
        assert not events.down


async def test_the_next_takes_the_name() -> None:
    async with running(A) as a, siblings() as (one, two):
        introduce(a, one)
        introduce(two, a)
        async with a.keep_connected(B) as kept:
            await kept.connected()
            await two.connect(A)
            await until(lambda: len(a.links) == 2)
            events = Events(a)
            assert await a.call(B, "who", b"") == b"one"
            await one.stop()
            assert await a.call(B, "who", b"", timeout=5.0) == b"two"
            assert kept.link is a.links[0]
        # Nobody had to dial.
        assert not events.up
        assert [type(error) for error in events.down] == [LinkClosed]
        # And that one is not the last word either.
        await two.stop()
        await until(lambda: not a.links)
        with pytest.raises(ConnectionError):
            await a.connect(B)


async def test_a_sibling_may_go_first() -> None:
    async with running(A) as a, siblings() as (one, two):
        introduce(a, one)
        introduce(two, a)
        link = await a.connect(B)
        await two.connect(A)
        await until(lambda: len(a.links) == 2)
        await two.stop()
        await until(lambda: a.links == (link,))
        assert await a.connect(B) is link
        assert await a.call(B, "who", b"") == b"one"


async def test_a_worker_that_dials_again_replaces_its_own_link_only() -> None:
    async with running(A) as a, siblings() as (one, two):
        introduce(one, a)
        introduce(two, a)
        first = await one.connect(A)
        await two.connect(A)
        await until(lambda: len(a.links) == 2)
        events = Events(a)
        # It has lost its link, and nobody told the peer.
        for protocol in list(two._links):
            assert protocol.peer is not None
            two._links._unname(protocol, protocol.peer)
        await two.connect(A)
        await until(lambda: events.down)
        assert [type(error) for error in events.down] == [LinkLost]
        assert len(a.links) == 2
        assert not first.closed
        assert await a.call(B, "who", b"") == b"one"


async def test_a_new_group_ends_the_links_of_the_old_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fastnode.node.links.CHECK_SECONDS", 0.2)
    async with running(A) as a, siblings() as (one, two), Proxy() as proxy:
        await proxy.start(a.acceptors[0].address)
        for node in (one, two):
            node.add_route(Route("^alpha@", *proxy.address))
            await node.connect(A)
        await until(lambda: len(a.links) == 2)
        events = Events(a)
        # As after a power cut: nothing more comes of the old group.
        proxy.stall(proxy.writers)
        async with siblings() as (three, four):
            introduce(three, a)
            introduce(four, a)
            await three.connect(A)
            await four.connect(A)
            await until(lambda: len(events.down) == 2 and len(a.links) == 2)
            assert {type(error) for error in events.down} == {LinkLost}
            alive = {link.peer.instance for link in a.links}
            assert alive == {three.instance, four.instance}
        proxy.cut()


@pytest.mark.parametrize("own", [A, "zeta@127.0.0.1"])
async def test_dials_that_meet_different_workers(own: str) -> None:
    """Ours reaches one worker while another dials us, whoever's name sorts first."""
    async with running(own) as a, siblings() as (one, two):
        events = Events(a)
        introduce(a, one)
        introduce(two, a)
        for _ in range(5):
            await asyncio.gather(a.connect(B), two.connect(own))
            assert await a.call(B, "who", b"", timeout=5.0) in (b"one", b"two")
        await until(lambda: two.instance in {link.peer.instance for link in a.links})
        assert not events.down


async def test_an_acceptor_s_reconnect_that_meets_another_worker() -> None:
    async with running(A) as a, siblings() as (one, two):
        introduce(a, one)
        await a.connect(B)
        forget(a, B)
        a.add_route(Route("^beta@", *two.acceptors[0].address))
        await until(lambda: one.links)
        # The link that this worker had is over, and the peer has one with the other.
        with pytest.raises(LinkClosed):
            await one.reconnect(A, timeout=5.0)
        assert [link.peer.instance for link in a.links] == [two.instance]
        assert await a.call(B, "who", b"", timeout=5.0) == b"two"


async def test_reconnect_that_meets_another_worker() -> None:
    async with running(A) as a, siblings() as (one, two):
        began, go_on = asyncio.Event(), asyncio.Event()

        @one.handler("slow")
        async def slow(message: object) -> bytes:
            began.set()
            await go_on.wait()
            return b"done"

        introduce(a, one)
        old = await a.connect(B)
        call = asyncio.create_task(old.call("slow", b""))
        await began.wait()
        forget(a, B)
        a.add_route(Route("^beta@", *two.acceptors[0].address))
        replacing = asyncio.create_task(a.reconnect(B))
        await until(lambda: old.closed or len(a.links) == 2)
        # What is sent from now on takes the new link; the call is answered on the old.
        await until(lambda: a.links and a._links.find(B) is not old)
        assert await a.call(B, "who", b"", timeout=5.0) == b"two"
        go_on.set()
        assert await call == b"done"
        await replacing
        await until(lambda: len(a.links) == 1)
        assert not one.links
        assert len(two.links) == 1
