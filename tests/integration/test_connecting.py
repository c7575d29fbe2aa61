"""Acceptors, routes, resolvers, simultaneous dials, restarts."""

from __future__ import annotations

import asyncio
import errno
import logging
import random
import socket
import sys
from contextlib import AsyncExitStack, ExitStack, suppress
from typing import Any

import pytest

from fastnode import (
    AcceptorOptions,
    ConfigError,
    HandshakeError,
    HandshakeTimeout,
    Link,
    LinkLost,
    Node,
    NoRoute,
    Refusal,
    Route,
    Side,
    UnknownAuthority,
)
from helpers.nodes import (
    WAIT_SECONDS,
    A,
    B,
    introduce,
    pair,
    refusing,
    running,
    start,
    until,
)
from helpers.pki import certificate, manager
from helpers.proxy import Proxy


def free_ports(count: int) -> int:
    """The first of some ports in a row that are free.

    They are below those that systems give to who asks for any, so that nobody takes
    them until they are used.
    """
    for _ in range(50):
        port = random.randrange(15_100, 32_000)
        with ExitStack() as stack, suppress(OSError):
            for each in range(port, port + count):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", each))
            return port
    raise AssertionError("no free ports")


# --- acceptors ----------------------------------------------------------------------


async def test_ports_are_tried_upward() -> None:
    port = free_ports(3)
    options = [AcceptorOptions(port=port, port_range=3)]
    async with AsyncExitStack() as stack:
        nodes = [
            await stack.enter_async_context(
                running(f"n{i}@127.0.0.1", acceptors=options)
            )
            for i in range(3)
        ]
        found = [node.acceptors[0].address[1] for node in nodes]
        assert found == [port, port + 1, port + 2]
        with pytest.raises(ConfigError, match=f"{port} to {port + 2}") as caught:
            await start("n9@127.0.0.1", acceptors=options)
        assert "port_range" in (caught.value.hint or "")


async def test_several_acceptors_and_their_certificates() -> None:
    other = manager(B, shows=certificate(B, "Other CA"), trusts="Other CA")
    acceptors = [AcceptorOptions(port=0), AcceptorOptions(port=0, cert_manager=other)]
    async with running(B, acceptors=acceptors) as b:
        first, second = b.acceptors
        assert first.address != second.address
        outsider = manager(A, shows=certificate(A, "Other CA"), trusts="Other CA")
        async with running(A, manager=outsider, listens=False) as a:
            a.add_route(Route("beta", *first.address))
            with pytest.raises(UnknownAuthority):
                await a.connect(B)
            a.remove_route("beta")
            a.add_route(Route("beta", *second.address))
            assert (await a.connect(B)).peer.verified
        assert other.frozen


async def test_a_host_that_is_not_ours() -> None:
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1"):
        await start("x@192.0.2.1", acceptors=[AcceptorOptions(port=0)],
                    manager=manager(A))  # fmt: skip


async def test_ipv6() -> None:
    async with running("six@::1") as six, running(A) as a:
        introduce(a, six)
        link = await a.connect("six@::1")
        assert link.peer.verified


async def test_localhost_means_all_its_addresses() -> None:
    async with running("l@localhost") as node:
        port = node.acceptors[0].address[1]
        for _, _, _, _, address in socket.getaddrinfo(
            "localhost", port, type=socket.SOCK_STREAM
        ):
            family = socket.AF_INET6 if ":" in str(address[0]) else socket.AF_INET
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.connect(address)


@pytest.mark.skipif(sys.platform != "linux", reason="needs two loopback addresses")
async def test_any_port_that_all_addresses_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the first address got may be taken at the second one."""
    taken: list[int] = []

    class Busy(socket.socket):
        def bind(self, address: Any) -> None:
            if address[0] == "127.0.0.2" and len(taken) < 3:
                taken.append(address[1])
                raise OSError(errno.EADDRINUSE, "Address already in use")
            super().bind(address)

    async def two(*_: object, **__: object) -> list[Any]:
        inet = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        return [(*inet, ("127.0.0.1", 0)), (*inet, ("127.0.0.2", 0))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", two, raising=False)
    monkeypatch.setattr("fastnode.node.port.socket.socket", Busy)
    async with running(B) as b:
        assert len(taken) == 3
        # Any port: by chance one that was refused before.
        port = b.acceptors[0].address[1]
        for host in ("127.0.0.1", "127.0.0.2"):
            socket.create_connection((host, port)).close()


async def test_a_node_that_only_dials() -> None:
    async with pair(first={"listens": False}) as (a, b):
        assert a.acceptors == ()
        await a.connect(B)
        await until(lambda: b.links)
        a.handler("e")(lambda m: b"reached")
        assert await b.call(A, "e", b"") == b"reached"


async def test_silent_connections_take_no_handshake() -> None:
    few = [AcceptorOptions(port=0, max_handshakes=2)]
    async with pair(
        second={
            "acceptors": few,
        }
    ) as (a, b):
        silent = [socket.create_connection(b.acceptors[0].address) for _ in range(4)]
        try:
            assert (await a.connect(B)).peer.name == B
            assert b.acceptors[0].stats.connections == 5
            # Nobody had to make room.
            assert not b.acceptors[0].stats.refused
        finally:
            for each in silent:
                each.close()


async def test_a_silent_peer_is_timed_out_on_both_sides() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with running(A, handshake_timeout=0.5, listens=False) as a:
            a.add_route(Route("beta", *silent.getsockname()))
            with pytest.raises(HandshakeTimeout) as caught:
                await a.connect(B)
            assert isinstance(caught.value, TimeoutError)
    async with running(B, handshake_timeout=0.2) as b:
        with socket.create_connection(b.acceptors[0].address):
            await until(lambda: b.acceptors[0].stats.failed["HandshakeTimeout"] == 1)


# --- routes ---------------------------------------------------------------------------


async def test_the_next_route_is_tried_when_one_fails() -> None:
    with refusing() as nobody:
        async with pair() as (a, b):
            a.add_route(Route("beta@", *nobody, weight=300))
            assert [r.weight for r in a.routes(B)] == [300, 100]
            assert (await a.connect(B)).peer.address == b.acceptors[0].address


async def test_all_routes_fail() -> None:
    with refusing() as one, refusing() as two:
        async with running(A, listens=False) as a:
            a.add_route(Route("beta", *one))
            a.add_route(Route("@", *two))
            with pytest.raises(NoRoute) as caught:
                await a.connect(B)
            assert str(one[1]) in str(caught.value)
            assert str(two[1]) in str(caught.value)
            assert isinstance(caught.value, ConnectionError)
            assert caught.value.hint
            assert "Connection refused" in str(caught.value)
            assert "Errno" not in str(caught.value)
            # Nobody refused anybody: there was nobody.
            assert a.dial_stats.refused == a.dial_stats.failed == {}


async def test_a_refusal_outweighs_an_unreachable_route() -> None:
    with refusing() as nobody:
        async with running(B) as b:
            stranger = manager(A, shows=certificate(A, "Other CA"))
            async with running(A, manager=stranger, listens=False) as a:
                a.add_route(Route("beta", *nobody, weight=300))
                a.add_route(Route("@", *b.acceptors[0].address))
                with pytest.raises(UnknownAuthority) as caught:
                    await a.connect(B)
                assert "also tried" in caught.value.__notes__[0]


async def test_without_a_route_the_name_says_where(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with running(B) as b, running(A, listens=False) as a:
        # In place of 15000, which may be taken here.
        port = b.acceptors[0].address[1]
        monkeypatch.setattr("fastnode.node.targets.DEFAULT_PORT", port)
        assert (await a.connect(B)).peer.address == ("127.0.0.1", port)


async def test_resolver_is_asked_only_without_a_route() -> None:
    asked: list[str] = []
    with refusing() as nobody:
        async with running(B) as b:

            def resolve(name: str) -> list[tuple[str, int]]:
                asked.append(name)
                return [nobody, b.acceptors[0].address]

            async def resolve_later(name: str) -> list[tuple[str, int]]:
                return resolve(name)

            for resolver in (resolve, resolve_later):
                async with running(A, resolver=resolver, listens=False) as a:
                    await a.connect(B)
                    assert asked.pop() == B
            async with running(A, resolver=resolve, listens=False) as a:
                introduce(a, b)
                await a.connect(B)
                assert asked == []


async def test_resolvers_that_fail_or_know_nothing() -> None:
    def broken(name: str) -> list[tuple[str, int]]:
        raise KeyError(name)

    for resolver, words in ((broken, "KeyError"), (lambda name: [], "no address")):
        async with running(A, resolver=resolver, listens=False) as a:
            with pytest.raises(NoRoute, match=words):
                await a.connect(B)


async def test_a_resolver_that_never_answers_is_bounded() -> None:
    async def never(name: str) -> list[tuple[str, int]]:
        await asyncio.Event().wait()
        raise AssertionError

    async with running(A, resolver=never, listens=False, handshake_timeout=0.2) as a:
        async with asyncio.timeout(WAIT_SECONDS):
            with pytest.raises(
                NoRoute, match=r"resolver did not say.* 0\.2 s"
            ) as caught:
                await a.connect(B)
        assert caught.value.side is Side.LOCAL
        assert caught.value.peer == B
        assert "add a route" in str(caught.value)


async def test_a_resolver_s_own_timeout_is_its_own() -> None:
    async def slow(name: str) -> list[tuple[str, int]]:
        raise TimeoutError("the registry is silent")

    async with running(A, resolver=slow, listens=False) as a:
        with pytest.raises(NoRoute, match=r"failed.*the registry is silent"):
            await a.connect(B)


async def test_an_unknown_host() -> None:
    async with running(A, listens=False) as a:
        with pytest.raises(NoRoute, match=r"nowhere\.invalid"):
            await a.connect("beta@nowhere.invalid")


async def test_cancelled_connect_leaves_others_waiting() -> None:
    async with pair() as (a, _b):
        one = asyncio.ensure_future(a.connect(B))
        other = asyncio.ensure_future(a.connect(B))
        await asyncio.sleep(0)
        one.cancel()
        with pytest.raises(asyncio.CancelledError):
            await one
        assert (await other).peer.name == B


async def test_many_connects_make_one_link() -> None:
    async with pair() as (a, b):
        links = await asyncio.gather(*(a.connect(B) for _ in range(20)))
        assert len(set(links)) == 1
        await until(lambda: b.links)
        assert b.acceptors[0].stats.connections == 1


# --- two nodes, one link --------------------------------------------------------------


async def settle(a: Node, b: Node) -> tuple[Link, Link]:
    """The one link, from both ends, once nothing moves any more."""
    await until(lambda: len(a.links) == len(b.links) == 1)
    a.default_handler(lambda m: b"from " + a.name.encode())
    b.default_handler(lambda m: b"from " + b.name.encode())
    # Calls both ways see that the two ends belong together.
    assert (
        await a.links[0].call("e", b"", timeout=WAIT_SECONDS)
        == b"from " + b.name.encode()
    )
    assert (
        await b.links[0].call("e", b"", timeout=WAIT_SECONDS)
        == b"from " + a.name.encode()
    )
    assert (len(a.links), len(b.links)) == (1, 1)
    assert a.links[0].dialed != b.links[0].dialed
    return a.links[0], b.links[0]


@pytest.mark.parametrize("turns", range(6))
async def test_simultaneous_connects_end_with_one_link(
    turns: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    refusals: list[Refusal] = []
    hears = {"on_refused": refusals.append}
    async with pair(hears, hears) as (a, b):

        async def late(node: Node, name: str) -> Link:
            for _ in range(turns):
                await asyncio.sleep(0)
            return await node.connect(name)

        for one, other in (
            (a.connect(B), late(b, A)),
            (late(a, B), b.connect(A)),
        ):
            async with asyncio.timeout(WAIT_SECONDS):
                first, second = await asyncio.gather(one, other)
            ends = await settle(a, b)
            assert {first, second} == set(ends)
            assert not first.closed
            await first.close()
            await until(lambda: not a.links and not b.links)
        # It is the most normal thing that two nodes dial each other at once.
        assert caplog.text == ""
        assert refusals == []
        for node in (a, b):
            assert not node.dial_stats.refused
            assert not node.acceptors[0].stats.refused


async def test_five_nodes_connect_to_each_other_all_at_once() -> None:
    async with AsyncExitStack() as stack:
        nodes = [
            await stack.enter_async_context(running(f"n{i}@127.0.0.1"))
            for i in range(5)
        ]
        for node in nodes:
            for other in nodes:
                if node is not other:
                    introduce(node, other)
        connects = [
            node.connect(other.name)
            for node in nodes
            for other in nodes
            if node is not other
        ]
        async with asyncio.timeout(WAIT_SECONDS):
            links = await asyncio.gather(*connects)
        assert not any(link.closed for link in links)
        await until(lambda: all(len(node.links) == 4 for node in nodes))


async def test_a_restarted_peer_takes_its_name_over(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("fastnode.node.links.CHECK_SECONDS", 0.2)
    async with running(A) as a, Proxy() as proxy:
        await proxy.start(a.acceptors[0].address)
        first = await start(B, listens=False)
        first.add_route(Route("^alpha@", *proxy.address))
        await first.connect(A)
        await until(lambda: a.links)
        seen = a.links[0]
        # As after a power cut: nothing more comes of the old instance.
        proxy.stall(proxy.writers)
        async with running(B, listens=False) as second:
            introduce(second, a)
            await second.connect(A)
            await until(lambda: seen.closed)
            await until(lambda: len(a.links) == 1)
            assert a.links[0].peer.instance == second.instance
            assert isinstance(seen.error, LinkLost)
            assert "another instance" in str(seen.error)
        await first.stop(timeout=0.1)
    (said,) = [each for each in caplog.messages if "restarted" in each]
    assert first.instance in said
    assert "what to do: " in said


async def test_stopping_while_dialing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with running(A) as a:
            a.add_route(Route("beta", *silent.getsockname()))
            dial = asyncio.ensure_future(a.connect(B))
            await asyncio.sleep(0.01)
            await a.stop()
            with pytest.raises((HandshakeError, ConnectionError)):
                await dial
