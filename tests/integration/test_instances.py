"""Several instances under one node name: which links stay, and dials by address."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from fastnode import (
    AcceptorOptions,
    Link,
    LinkLost,
    Node,
    Peer,
    PeerNameMismatch,
    Route,
    Side,
)
from fastnode.errors import DialedItself, DuplicateLink
from fastnode.link.machine import State
from fastnode.link.protocol import LinkProtocol
from fastnode.names import NodeName
from fastnode.node.membership import Membership
from helpers.nodes import WAIT_SECONDS, A, B, introduce, running, start, until
from helpers.pki import authority, manager
from helpers.proxy import Proxy

BETA = Membership.of("beta")


@asynccontextmanager
async def several(
    count: int, name: str = B, **options: Any
) -> AsyncIterator[list[Node]]:
    """Nodes of one name. Each says which it is."""
    async with AsyncExitStack() as stack:
        nodes = []
        for number in range(count):
            node = await stack.enter_async_context(running(name, **options))
            node.handler("who")(lambda _, said=b"%d" % number: said)
            nodes.append(node)
        yield nodes


def address(node: Node) -> tuple[str, int]:
    return node.acceptors[0].address


async def who(link: LinkProtocol) -> bytes:
    assert link.link is not None
    return await link.link.call("who", b"", timeout=WAIT_SECONDS)


def peer_of(link: LinkProtocol) -> Peer:
    assert link.peer is not None
    return link.peer


# --- dials by address ----------------------------------------------------------------


async def test_a_link_with_each_instance_of_a_name() -> None:
    async with running(A) as a, several(3) as pods:
        seen: list[tuple[str, bool]] = []
        a._instances.watch(lambda link, up: seen.append((peer_of(link).instance, up)))
        links = [await a._instances.connect(address(pod), BETA) for pod in pods]
        assert [peer_of(link).instance for link in links] == [p.instance for p in pods]
        assert [await who(link) for link in links] == [b"0", b"1", b"2"]
        assert a._instances.links_of(BETA) == links
        assert a._instances.links_of(Membership.of("alpha")) == []
        # Messages to the name take the first, and then the next.
        assert await a.call(B, "who", b"") == b"0"
        await pods[0].stop()
        assert await a.call(B, "who", b"", timeout=WAIT_SECONDS) == b"1"
        await until(lambda: len(a.links) == 2)
        instances = [pod.instance for pod in pods]
        assert seen == [*((each, True) for each in instances), (instances[0], False)]


async def test_an_instance_that_is_linked_already_gives_its_link(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever has dialed that link."""
    async with running(A) as a, several(2) as (one, two):
        first = await a._instances.connect(address(one), BETA)
        assert await a._instances.connect(address(one), BETA) is first
        introduce(two, a)
        await two.connect(A)
        await until(lambda: len(a.links) == 2)
        second = await a._instances.connect(address(two), BETA)
        assert not second.dialer
        assert await who(second) == b"1"
        assert len(a.links) == 2
        # A second dial is the most normal thing for the acceptor.
        assert not one.acceptors[0].stats.refused
        assert not one.acceptors[0].stats.failed
        monkeypatch.setattr("fastnode.node.instances.ADDITIONAL_DIALS", 3)
        dials = one.acceptors[0].stats.connections
        with pytest.raises(DuplicateLink):
            await a._instances.connect(address(one), BETA, additional=True)
        assert one.acceptors[0].stats.connections == dials + 3
        assert not a.dial_stats.refused


async def test_both_sides_dial_all_instances_at_once() -> None:
    async with several(3, A) as alphas, several(3) as betas:
        alpha = Membership.of("alpha")
        async with asyncio.timeout(WAIT_SECONDS):
            ours, theirs = await asyncio.gather(
                asyncio.gather(
                    *(
                        a._instances.connect(address(b), BETA)
                        for a in alphas
                        for b in betas
                    )
                ),
                asyncio.gather(
                    *(
                        b._instances.connect(address(a), alpha)
                        for b in betas
                        for a in alphas
                    )
                ),
            )
        for node, wanted in [(n, BETA) for n in alphas] + [(n, alpha) for n in betas]:
            await until(lambda n=node, w=wanted: len(n._instances.links_of(w)) == 3)  # type: ignore[misc]
            assert len(node.links) == 3
            assert len({link.peer.instance for link in node.links}) == 3
            for link in node.links:
                await link.ping()
        assert len(ours) == len(theirs) == 9


async def test_an_address_of_this_node() -> None:
    async with running(B) as b:
        with pytest.raises(DialedItself, match="this node itself") as caught:
            await b._instances.connect(address(b), BETA)
        assert isinstance(caught.value, PeerNameMismatch)
        assert not b.links
        # Discovery lists this node too, which is nobody's fault.
        assert not b.acceptors[0].stats.refused


async def test_instances_of_the_own_name() -> None:
    async with several(3) as pods:
        one, two, three = pods
        for pod in (two, three):
            await one._instances.connect(address(pod), BETA)
        introduce(two, three)
        assert await two.call(B, "who", b"") in (b"0", b"2")
        for pod in pods:
            others = {each.instance for each in pods if each is not pod}
            await until(lambda p=pod, o=others: {x.peer.instance for x in p.links} <= o)  # type: ignore[misc]


# --- who belongs to a service --------------------------------------------------------


def with_sans(*sans: str, **options: Any) -> Any:
    shown = authority().issue(None, dns=sans).certificate()
    return manager(B, shows=shown, **options)


async def test_guarantee_4_a_directory_makes_nobody_a_member() -> None:
    """A certificate for a host covers every node name at that host."""
    evil = with_sans("127.0.0.1")
    async with running(A) as a, running(B, manager=evil) as b:
        heard: list[Link] = []
        b.on_link_up(heard.append)
        with pytest.raises(
            PeerNameMismatch, match="no URI SAN of service beta"
        ) as caught:
            await a._instances.connect(address(b), BETA)
        assert caught.value.side is Side.LOCAL
        assert "fastnode://beta@host" in (caught.value.hint or "")
        assert a.dial_stats.refused == {"PeerNameMismatch": 1}
        # The other side is told, and no message could be sent.
        stats = b.acceptors[0].stats
        await until(lambda: stats.failed == {"PeerNameMismatch": 1})
        assert not heard
        assert not a.links
        # By its node name it may be dialed as before, and it is no member even so.
        introduce(a, b)
        await a.connect(B)
        assert a._instances.links_of(BETA) == []
        with pytest.raises(PeerNameMismatch):
            await a._instances.connect(address(b), BETA)


async def test_guarantee_4_a_host_that_the_caller_has_fixed() -> None:
    async with (
        running(A) as a,
        running(B, manager=with_sans("127.0.0.1", "beta.prod.svc")) as b,
    ):
        wanted = Membership.of("beta", "Beta.Prod.svc.")
        link = await a._instances.connect(address(b), wanted)
        assert a._instances.links_of(wanted) == [link]
        assert a._instances.links_of(BETA) == []
        other = Membership.of("beta", "other.prod.svc")
        assert a._instances.why_no_member(link, other)
        with pytest.raises(PeerNameMismatch, match=r"does not cover other\.prod\.svc"):
            await a._instances.connect(address(b), other)
    # One of the two ways is enough.
    async with running(A) as a, running(B) as b:
        await a._instances.connect(address(b), other)


async def test_a_uri_is_enough_whatever_the_address() -> None:
    """TLS does not compare the host that discovery has found with the certificate."""
    pods = "beta@beta.prod.svc"
    shown = authority().issue(NodeName.parse(pods), host=False).certificate()
    listens = [AcceptorOptions(host="127.0.0.1", port=0)]
    options = {"manager": manager(pods, shows=shown), "acceptors": listens}
    async with running(A) as a, several(2, pods, **options) as (one, two):
        links = [await a._instances.connect(address(x), BETA) for x in (one, two)]
        assert [await who(link) for link in links] == [b"0", b"1"]
        assert a.links[0].peer.verified


async def test_a_node_of_another_service_answers() -> None:
    async with running(A) as a, running(B) as b:
        with pytest.raises(
            PeerNameMismatch, match="not a node name of service billing"
        ):
            await a._instances.connect(address(b), Membership.of("billing"))
        assert not a.links


async def test_services_without_tls() -> None:
    async with (
        running(A, plaintext=True) as a,
        several(2, plaintext=True) as (one, two),
    ):
        for pod in (one, two):
            await a._instances.connect(address(pod), BETA)
        assert len(a._instances.links_of(BETA)) == 2
        with pytest.raises(PeerNameMismatch, match="billing"):
            await a._instances.connect(address(one), Membership.of("billing"))


async def test_where_names_are_not_compared_authorize_decides() -> None:
    refused = {"verify_peer_name": False, "authorize": lambda peer: False}
    shown = with_sans("spiffe://prod/beta")
    async with running(B, manager=shown, verify_peer_name=False) as b:
        async with running(A, verify_peer_name=False, authorize=lambda _: True) as a:
            await a._instances.connect(address(b), BETA)
        async with running(A, **refused) as a:
            with pytest.raises(ConnectionError, match="not authorized"):
                await a._instances.connect(address(b), BETA)
        # A host that is fixed is compared all the same.
        async with running(A, verify_peer_name=False) as a:
            with pytest.raises(PeerNameMismatch, match=r"beta\.prod"):
                await a._instances.connect(
                    address(b), Membership.of("beta", "beta.prod")
                )
        # Nothing would compare any name with the certificate.
        async with running(A, verify_peer_name=False) as a:
            with pytest.raises(ValueError, match="no name is"):
                await a._instances.connect(address(b), BETA)


async def test_dials_by_address_end_in_time_and_when_the_node_stops() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with running(A) as a:
            with pytest.raises(TimeoutError, match=r"within 0\.05 s"):
                await a._instances.connect(silent.getsockname(), BETA, timeout=0.05)
            assert not a._links.instance_dials
            dial = asyncio.ensure_future(
                a._instances.connect(silent.getsockname(), BETA)
            )
            await until(lambda: a._links.instance_dials)
            await a.stop()
            with pytest.raises(ConnectionError, match="was stopped"):
                await dial
            with pytest.raises(ConnectionError, match="was stopped"):
                await a._instances.connect(silent.getsockname(), BETA)


# --- two clients of one name ----------------------------------------------------------


class Events:
    """What a node is told of its links."""

    def __init__(self, node: Node) -> None:
        self.up: list[Link] = []
        self.down: list[Link] = []
        node.on_link_up(self.up.append)
        node.on_link_down(lambda link, _: self.down.append(link))


async def test_pods_of_one_name_do_not_evict_each_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each of them keeps a link, and calls all the time."""
    caplog.set_level(logging.WARNING)
    async with running(B) as b, several(3, A, listens=False) as pods:
        b.handler("echo")(lambda message: message.payload)
        events = Events(b)
        for pod in pods:
            introduce(pod, b)
        async with AsyncExitStack() as kept:
            for pod in pods:
                await kept.enter_async_context(pod.keep_connected(B))
            for number in range(60):
                pod = pods[number % 3]
                reply = await pod.call(B, "echo", b"x", timeout=WAIT_SECONDS)
                assert reply == b"x"
            await until(lambda: len(b.links) == 3)
        assert len(events.up) == 3
        assert not events.down
        # The first has the name, and the next takes it.
        said = [int(await b.call(A, "who", b"", timeout=WAIT_SECONDS))]
        await pods[said[0]].stop()
        said.append(int(await b.call(A, "who", b"", timeout=WAIT_SECONDS)))
        assert len(set(said)) == 2
    assert not caplog.messages


async def test_who_answers_stays_and_who_does_not_is_replaced(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("fastnode.node.links.CHECK_SECONDS", 0.3)
    async with (
        running(B) as b,
        Proxy() as proxy,
        several(3, A, listens=False, shutdown_timeout=0.1) as (dead, alive, newer),
    ):
        await proxy.start(b.acceptors[0].address)
        dead.add_route(Route("^beta@", *proxy.address))
        for pod in (alive, newer):
            introduce(pod, b)
        for pod in (dead, alive):
            await pod.connect(B)
            await until(lambda p=pod: p.instance in {x.peer.instance for x in b.links})  # type: ignore[misc]
        # What was begun before is answered on its own link.
        first, second = b.links
        proxy.stall(proxy.writers)
        call = asyncio.ensure_future(first.call("who", b""))
        await newer.connect(B)
        await until(lambda: len(b.links) == 3 or first.closed)
        with pytest.raises(LinkLost, match="another instance"):
            await call
        # The other one was asked no later than this one, and has answered.
        assert not second.closed
        assert await b.call(A, "who", b"", timeout=WAIT_SECONDS) == b"1"
        assert len(b.links) == 2
    (said,) = [each for each in caplog.messages if "does not answer" in each]
    assert first.peer.instance in said
    assert "NodeOptions.group" in said


async def test_a_restart_behind_the_same_address() -> None:
    """As a pod that is restarted at once: its old connection is half-open."""
    async with running(A) as a, Proxy() as proxy, AsyncExitStack() as stack:
        b = await start(B)
        await proxy.start(address(b))
        link = await a._instances.connect(proxy.address, BETA)
        proxy.stall(proxy.writers)
        await b.stop(timeout=0.1)
        again = await stack.enter_async_context(running(B))
        again.handler("who")(lambda _: b"again")
        proxy.retarget(address(again))
        newer = await a._instances.connect(proxy.address, BETA)
        assert newer is not link
        assert await who(newer) == b"again"
        assert link.state is State.UP or link.error is not None


async def test_reconnect_of_a_link_by_address_goes_to_its_address() -> None:
    """No route leads there, and other instances have the name."""
    async with running(A) as a, several(3) as pods:
        before = [await a._instances.connect(address(pod), BETA) for pod in pods]
        await a.reconnect(B)
        after = a._instances.links_of(BETA)
        assert not set(before) & set(after)
        ours = {(peer_of(x).instance, peer_of(x).address) for x in before}
        assert {(peer_of(x).instance, peer_of(x).address) for x in after} == ours
        for pod in pods:
            assert len(pod.links) == 1


async def test_reconnect_dials_again_if_another_instance_answers() -> None:
    """One that is linked by another link, as another worker of a group."""
    async with running(A) as a, several(2) as (one, two), Proxy() as proxy:
        await proxy.start(address(one))
        old = await a._instances.connect(proxy.address, BETA)
        other = await a._instances.connect(address(two), BETA)
        proxy.retarget(address(two))
        replacing = asyncio.ensure_future(a.reconnect(B))
        # The links are replaced at the same time: one dial for each of them.
        await until(lambda: two.acceptors[0].stats.connections >= 3)
        proxy.retarget(address(one))
        await replacing
        for link in (old, other):
            assert link.error is not None
            assert not isinstance(link.error, LinkLost)
        assert {peer_of(link).instance for link in a._instances.links_of(BETA)} == {
            one.instance,
            two.instance,
        }
