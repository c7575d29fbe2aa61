"""`fastnode.testing.Network`: faults between nodes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from fastnode import (
    CallTimeout,
    ConfigError,
    HandshakeTimeout,
    LinkLost,
    Message,
    NetworkOptions,
    Node,
    NodeOptions,
    NoRoute,
)
from fastnode.discovery import StaticDiscovery
from fastnode.testing import Network, authority, cluster, pair
from helpers.nodes import WAIT_SECONDS, running, until

#: A delay that a test waits for.
DELAY = 0.05
#: What nobody waits for.
FOREVER = 86400.0
PATIENT = NodeOptions(shutdown_timeout=FOREVER, leave_grace=FOREVER)


@asynccontextmanager
async def network_of(
    options: NodeOptions | None = None,
) -> AsyncIterator[tuple[Node, Node, Network]]:
    """A pair whose second node echoes."""
    network = Network()
    async with pair(network=network, options=options) as (a, b):
        b.handler("echo")(lambda message: message.payload)
        yield a, b, network


async def echoes(node: Node, other: Node, timeout: float = WAIT_SECONDS) -> bool:
    return await node.call(other.name, "echo", b"hi", timeout=timeout) == b"hi"


async def test_a_drop_ends_links_once() -> None:
    async with network_of() as (a, b, network):
        link = await a.connect(b.name)
        await until(lambda: b.links)
        (back,) = b.links
        call = asyncio.ensure_future(link.call("never", b""))

        @b.handler("never")
        async def never(message: Message) -> None:
            await asyncio.Event().wait()

        network.drop(a, b)
        with pytest.raises(LinkLost):
            await call
        await until(lambda: back.closed)
        assert isinstance(back.error, LinkLost)
        assert await echoes(a, b)


async def test_a_cut_refuses_until_it_is_restored() -> None:
    async with network_of() as (a, b, network):
        link = await a.connect(b.name)
        network.cut(b.name, a.name)
        await link.wait_closed()
        assert isinstance(link.error, LinkLost)
        for node, other in ((a, b), (b, a)):
            with pytest.raises(NoRoute):
                await node.connect(other.name)
        network.restore(a, b)
        assert await echoes(a, b)
        network.cut(a, b)
        network.cut(a, b)
        await until(lambda: not a.links)
        network.restore()
        network.restore()
        assert await echoes(a, b)


async def test_a_kept_link_comes_back_after_a_cut() -> None:
    async with network_of() as (a, b, network):
        keeper = a.keep_connected(b.name)
        link = await keeper.connected()
        network.cut(a, b)
        await link.wait_closed()
        network.restore()
        assert await keeper.connected() is not link


async def test_silence_holds_back_what_is_sent() -> None:
    got: list[bytes] = []
    async with network_of() as (a, b, network):
        b.handler("note")(lambda message: got.append(message.payload))
        link = await a.connect(b.name)
        network.silence(a, b)
        with pytest.raises(CallTimeout):
            await echoes(a, b, timeout=0.05)
        for number in range(10):
            link.send("note", b"%d" % number)
        assert (got, link.closed) == ([], False)
        network.restore()
        await until(lambda: len(got) == 10)
        assert got == [b"%d" % number for number in range(10)]
        assert a.links == (link,)


@pytest.mark.parametrize("dials", [0, 1])
async def test_silence_in_one_direction(dials: int) -> None:
    """What is silenced depends on who sends, and not on who has dialed."""
    got: list[bytes] = []
    async with network_of() as (a, b, network):
        a.handler("note")(lambda message: got.append(message.payload))
        nodes = (a, b)
        await nodes[dials].connect(nodes[1 - dials].name)
        await until(lambda: a.links and b.links)
        network.silence(a, b, one_way=True)
        waits = asyncio.ensure_future(a.links[0].call("echo", b"hi"))
        b.links[0].send("note", b"from b")
        await until(lambda: got)
        assert not waits.done()
        network.restore()
        assert await waits == b"hi"


async def test_a_dial_through_silence_takes_until_the_handshake_timeout() -> None:
    options = NodeOptions(network=NetworkOptions(handshake_timeout=0.2))
    async with network_of(options) as (a, b, network):
        network.silence(a, b)
        with pytest.raises(HandshakeTimeout):
            await a.connect(b.name)
        network.restore()
        assert await echoes(a, b)


async def test_keepalive_finds_a_silent_link_dead() -> None:
    options = NodeOptions(network=NetworkOptions(keepalive_interval=0.05))
    async with network_of(options) as (a, b, network):
        link = await a.connect(b.name)
        network.silence(a, b)
        async with asyncio.timeout(WAIT_SECONDS):
            await link.wait_closed()
        assert isinstance(link.error, LinkLost)


@pytest.mark.parametrize("one_way", [True, False])
async def test_a_delay_lengthens_the_round_trip(one_way: bool) -> None:
    async with network_of() as (a, b, network):
        link = await a.connect(b.name)
        network.delay(a, b, DELAY, one_way=one_way)
        # Timers of uvloop are rounded to milliseconds.
        assert await link.ping() >= DELAY * (1 if one_way else 2) - 0.005
        network.delay(a, b, FOREVER)
        network.restore()
        assert await echoes(a, b)


async def test_a_fault_leaves_other_nodes_alone() -> None:
    network = Network()
    async with cluster(3, network=network) as (a, b, c):
        for node in (a, b, c):
            node.handler("echo")(lambda message: message.payload)
        network.cut(a, b)
        network.silence(b, c)
        assert await echoes(a, c)
        assert await echoes(c, a)
        network.restore(b, a)
        assert await echoes(a, b)
        with pytest.raises(CallTimeout):
            await echoes(b, c, timeout=0.05)


@pytest.mark.parametrize("fault", ["silence", "delay", "cut", "one_way"])
async def test_the_end_waits_for_nothing_that_is_held_back(fault: str) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        async with network_of(PATIENT) as (a, b, network):
            link = await a.connect(b.name)
            await until(lambda: b.links)
            if fault == "delay":
                network.delay(a, b, FOREVER)
            elif fault == "one_way":
                network.silence(b, a, one_way=True)
            else:
                getattr(network, fault)(a, b)
            with pytest.raises((CallTimeout, LinkLost)):
                await link.call("echo", b"", timeout=0.05)


async def test_faults_between_a_service_and_its_instances() -> None:
    """A service dials targets and not routes, so its discovery names the network's."""
    network = Network()
    names = ("orders@127.0.0.1", "billing@a.example", "billing@b.example")
    async with cluster(names, network=network) as (orders, *instances):
        for each in instances:
            each.handler("who")(lambda _, name=each.name: name.encode())
        targets = [network.target(orders, each) for each in instances]
        found = StaticDiscovery({"billing": targets})
        billing = orders.service("billing", discovery=found)
        await billing.wait_ready(2, timeout=WAIT_SECONDS)
        first, second = (each.name for each in instances)
        network.cut(orders, first)
        await until(lambda: orders.stats.dials_unreached)
        states = {each.address: each.state for each in billing.instances}
        assert states[(targets[1].host, targets[1].port)] == "ready"
        for _ in range(8):
            reply = await billing.call("who", b"", timeout=WAIT_SECONDS)
            assert reply == second.encode()
        network.restore()
        await billing.wait_ready(2, timeout=WAIT_SECONDS)
        with pytest.raises(ConfigError, match="do not use this network"):
            network.target("nobody@127.0.0.1", first)


async def test_nodes_of_the_test_itself() -> None:
    """A service starts its own node; the test introduces it, again after a restart."""
    ca = authority("test CA")
    names = ("alpha@127.0.0.1", "beta@127.0.0.1")
    async with Network() as network:
        async with running(names[0], manager=ca.manager(names[0])) as a:
            for _ in range(2):
                async with running(names[1], manager=ca.manager(names[1])) as b:
                    b.handler("echo")(lambda message: message.payload)
                    await network.introduce(a, b)
                    assert await echoes(a, b)
                    assert len(a.routes(b.name)) == 1
                    network.drop(a, b)
                    await until(lambda: not a.links)
        with pytest.raises(ConfigError, match="do not use this network"):
            network.cut("gamma@127.0.0.1", a)


async def test_what_cannot_be_introduced() -> None:
    async with Network() as network, pair() as (a, b):
        with pytest.raises(ConfigError, match="route"):
            await network.introduce(a, b)
        async with running("c@127.0.0.1", listens=False) as c:
            with pytest.raises(ConfigError, match="no acceptor"):
                await network.introduce(a, c)


async def test_wrong_use() -> None:
    async with network_of() as (a, b, network):
        wrong: Any
        for wrong in (-1, "1", None, True, float("nan"), float("inf")):
            with pytest.raises(ConfigError, match="the delay is"):
                network.delay(a, b, wrong)
        with pytest.raises(ConfigError, match="two nodes, or none"):
            network.restore(a)
