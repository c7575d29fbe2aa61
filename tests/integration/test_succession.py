"""Links that are replaced in order: nothing is lost, doubled or overtaken."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from fastnode import (
    AcceptorOptions,
    CallTimeout,
    ClientAuth,
    ConfigError,
    HandshakeError,
    Link,
    LinkClosed,
    LinkLost,
    Message,
    Node,
    NoRoute,
    Route,
    UnknownAuthority,
)
from fastnode.limits import CANCEL_SECONDS
from helpers.nodes import (
    WAIT_SECONDS,
    A,
    B,
    all_at_once,
    forget,
    introduce,
    pair,
    running,
    start,
    until,
)
from helpers.pki import certificate, manager, odd_certificate
from helpers.proxy import Proxy

KIB = 1 << 10


def serial(link: Link) -> int:
    assert link.peer.certificate is not None
    return link.peer.certificate.serial_number


class Traffic:
    """Everything that two nodes can send to each other, all the time, numbered."""

    PLAIN = ("plain 0", "plain 1", "slow plain")
    TASKS = ("task 0", "task 1")

    def __init__(self, one: Node, other: Node) -> None:
        self.nodes = {one.name: one, other.name: other}
        self.pairs = ((one.name, other.name), (other.name, one.name))
        self.sent: dict[tuple[str, str], int] = defaultdict(int)
        self.got: dict[tuple[str, str], list[int]] = defaultdict(list)
        self.calls = 0
        self.done = False
        for name, node in self.nodes.items():
            for endpoint in self.PLAIN:
                node.handler(endpoint)(self.plain(name, endpoint))
            for endpoint in self.TASKS:
                node.handler(endpoint)(self.task(name, endpoint))
            node.handler("echo")(lambda m: m.payload)
            node.handler("late echo")(self.late_echo(node))

    def plain(self, name: str, endpoint: str) -> Callable[[Message], None]:
        def handle(message: Message) -> None:
            self.got[name, endpoint].append(int.from_bytes(message.payload[:4]))

        return handle

    def task(
        self, name: str, endpoint: str
    ) -> Callable[[Message], Coroutine[Any, Any, None]]:
        async def handle(message: Message) -> None:
            self.got[name, endpoint].append(int.from_bytes(message.payload[:4]))
            await asyncio.sleep(0)

        return handle

    def late_echo(self, node: Node) -> Callable[[Message], Coroutine[Any, Any, bytes]]:
        async def handle(message: Message) -> bytes:
            # A call of its own, back to the caller, before the reply.
            payload = message.payload
            return await node.call(message.sender.name, "echo", payload)

        return handle

    async def send(self, sender: str, to: str, endpoint: str, size: int) -> None:
        node = self.nodes[sender]
        while not self.done:
            number = self.sent[to, endpoint]
            # Counted where it is queued: send() awaits only after that.
            self.sent[to, endpoint] += 1
            await node.send(to, endpoint, number.to_bytes(4) + bytes(size))
            if number % 50 == 0:
                await asyncio.sleep(0)

    async def call(self, sender: str, to: str, endpoint: str, size: int) -> None:
        node = self.nodes[sender]
        while not self.done:
            self.calls += 1
            payload = self.calls.to_bytes(4) + bytes(size)
            assert await node.call(to, endpoint, payload) == payload

    @asynccontextmanager
    async def flowing(self) -> AsyncIterator[None]:
        """Traffic, until the end of the block; then everything has arrived, once."""
        tasks = []
        for sender, to in self.pairs:
            for endpoint, size in zip(
                (*self.PLAIN, *self.TASKS), (0, 3000, 90 * KIB, 60, 20 * KIB),
                strict=True,
            ):  # fmt: skip
                tasks.append(self.send(sender, to, endpoint, size))
            for size in (0, 100, 30 * KIB):
                tasks.append(self.call(sender, to, "echo", size))
                tasks.append(self.call(sender, to, "late echo", size))
        running = [asyncio.ensure_future(task) for task in tasks]
        try:
            await until(lambda: self.calls > 50)
            yield
        finally:
            self.done = True
            async with asyncio.timeout(WAIT_SECONDS):
                await asyncio.gather(*running)
        await until(lambda: all(len(self.got[at]) >= n for at, n in self.sent.items()))
        for at, number in self.sent.items():
            assert self.got[at] == list(range(number)), at


@asynccontextmanager
async def linked(
    first: dict[str, Any] | None = None, second: dict[str, Any] | None = None
) -> AsyncIterator[tuple[Node, Node]]:
    """Two nodes with one link, dialed by alpha, that is up on both sides."""
    async with pair(first, second) as (a, b):
        await a.connect(B)
        await until(lambda: b.links)
        yield a, b


async def settled(*nodes: Node) -> None:
    await until(lambda: all(len(node.links) == 1 for node in nodes))


# --- certificates -------------------------------------------------------------------


@pytest.mark.parametrize("caller", [A, B])
@pytest.mark.parametrize("named", [True, False])
async def test_guarantee_5_reconnect_shows_the_new_certificates(
    caller: str, named: bool
) -> None:
    managers = manager(A), manager(B)
    async with linked({"manager": managers[0]}, {"manager": managers[1]}) as (a, b):
        old = a.links[0], b.links[0]
        for made, name in zip(managers, (A, B), strict=True):
            made.update(odd_certificate(name))
        node, other = (a, B) if caller == A else (b, A)
        await node.reconnect(*([other] if named else []))
        await settled(a, b)
        new = a.links[0], b.links[0]
        assert managers[1].certificate is not None
        assert managers[0].certificate is not None
        assert serial(new[0]) == managers[1].certificate.serial_number
        assert serial(new[1]) == managers[0].certificate.serial_number
        for before, after in zip(old, new, strict=True):
            assert before is not after
            assert before.closed
            assert type(before.error) is LinkClosed
            assert "replaced" in str(before.error)
            assert before.dialed is after.dialed
            with pytest.raises(LinkClosed, match="connect again"):
                before.send("e", b"")
            with pytest.raises(LinkClosed):
                await before.drain()
        assert await a.connect(B) is new[0]
        assert await b.connect(A) is new[1]


async def test_a_dialer_without_a_certificate() -> None:
    """The acceptor cannot address it, and hands its link over nevertheless."""
    open_manager = manager(B, client_auth=ClientAuth.NO_CLIENT_CERT)
    dialer = {"manager": manager(A, anonymous=True), "listens": False}
    async with linked(dialer, {"manager": open_manager}) as (a, b):
        got: list[bytes] = []
        b.handler("e")(lambda m: got.append(m.payload))
        for turn, (node, peer) in enumerate(((a, B), (b, None))):
            old = a.links[0]
            open_manager.update(odd_certificate(B))
            await a.send(B, "e", b"%d" % turn)
            await node.reconnect(peer)
            await settled(a, b)
            assert open_manager.certificate is not None
            assert serial(a.links[0]) == open_manager.certificate.serial_number
            assert type(old.error) is LinkClosed
        assert got == [b"0", b"1"]


# --- load ---------------------------------------------------------------------------


@pytest.mark.parametrize("caller", ["dialer", "acceptor", "both", "all"])
async def test_guarantee_8_nothing_is_lost_or_doubled_under_load(caller: str) -> None:
    async with linked() as (a, b):
        seen: set[Link] = set()
        async with Traffic(a, b).flowing():
            for _ in range(6):
                waits = [a.reconnect(B)] if caller in ("dialer", "both") else []
                if caller in ("acceptor", "both"):
                    waits.append(b.reconnect(A))
                if caller == "all":
                    waits = [a.reconnect(), b.reconnect(), a.reconnect(B)]
                seen.add(await a.connect(B))
                async with asyncio.timeout(WAIT_SECONDS):
                    await asyncio.gather(*waits)
        await settled(a, b)
        assert len(seen) == 6
        assert not seen & {a.links[0]}
        assert {type(link.error) for link in seen} == {LinkClosed}


async def test_guarantee_8_small_windows_and_slow_handlers() -> None:
    options = {"window": 128 * KIB, "high_water": 64 * KIB, "low_water": 16 * KIB}
    async with linked(options, options) as (a, b):
        got: list[int] = []
        gate = asyncio.Event()

        @b.handler("slow")
        async def slow(message: Message) -> None:
            got.append(int.from_bytes(message.payload[:4]))
            await gate.wait()

        async with Traffic(a, b).flowing():
            first = a.links[0]
            for number in range(100):
                first.send("slow", number.to_bytes(4) + bytes(4 * KIB))
            reconnecting = asyncio.ensure_future(a.reconnect(B))
            try:
                await until(lambda: first.closed)
                new = await a.connect(B)
                for number in range(100, 150):
                    new.send("slow", number.to_bytes(4) + bytes(4 * KIB))
                # The handler holds the old link up, and the old one the new one.
                await until(lambda: new.stats.credit_bytes == 0)
                await asyncio.sleep(0.05)
                assert 0 < len(got) < 100
                assert first.stats.queued_bytes
                assert new.stats.queued_bytes
                assert not reconnecting.done()
            finally:
                gate.set()
            await reconnecting
            await until(lambda: len(got) == 150)
        assert got == list(range(150))


async def test_queued_on_the_old_link_then_sent_on_the_new() -> None:
    async with linked() as (a, b):
        got: list[bytes] = []
        b.handler("e")(lambda m: got.append(m.payload))
        old = a.links[0]
        numbers = iter(range(10_000_000))
        reconnecting = asyncio.ensure_future(a.reconnect(B))
        while not old.closed:
            for _ in range(20):
                old.send("e", b"%d" % next(numbers))
            await old.drain()
            await asyncio.sleep(0)
        count = 0
        new = await a.connect(B)
        for _ in range(50):
            count = next(numbers)
            new.send("e", b"%d" % count)
        await reconnecting
        await until(lambda: len(got) > count)
        assert got == [b"%d" % n for n in range(count + 1)]


async def test_drain_of_the_old_link_waits_and_does_not_raise() -> None:
    options = {"window": 128 * KIB, "high_water": 1, "low_water": 0}
    async with linked(options, options) as (a, b):
        gate = asyncio.Event()
        got: list[int] = []

        @b.handler("slow")
        async def slow(message: Message) -> None:
            got.append(len(message.payload))
            await gate.wait()

        old = a.links[0]
        sends = [
            asyncio.ensure_future(a.send(B, "slow", bytes(100 * KIB))) for _ in range(8)
        ]
        await until(lambda: old.stats.queued_bytes)
        reconnecting = asyncio.ensure_future(a.reconnect(B))
        await until(lambda: old.closed)
        drain = asyncio.ensure_future(old.drain())
        await asyncio.sleep(0)
        assert not drain.done()
        gate.set()
        await asyncio.gather(drain, reconnecting, *sends)
        await until(lambda: len(got) == 8)


async def test_successions_that_take_long() -> None:
    await all_at_once(
        lambda succession: succession(),
        (more_older_links_than_may_be,),
        (a_call_in_flight_keeps_the_old_link,),
        (stopping_in_a_succession_that_cannot_be_cancelled,),
    )


async def a_call_in_flight_keeps_the_old_link() -> None:
    async with linked() as (a, b):
        gates = {A: asyncio.Event(), B: asyncio.Event()}
        for node in (a, b):

            @node.handler("slow")
            async def slow(
                message: Message, gate: asyncio.Event = gates[node.name]
            ) -> bytes:
                await gate.wait()
                return b"done"

            node.handler("quick")(lambda m: b"quick")

        calls = [
            asyncio.ensure_future(a.call(B, "slow", b"")),
            asyncio.ensure_future(b.call(A, "slow", b"")),
        ]
        await until(lambda: all(n.links[0].stats.calls_received == 1 for n in (a, b)))
        old = a.links[0]
        with pytest.raises(CallTimeout, match="1 calls wait") as caught:
            await a.reconnect(B, timeout=1.0)
        assert "in use" in (caught.value.hint or "")
        new = await a.connect(B)
        assert new is not old
        assert (
            await a.call(B, "quick", b"") == await b.call(A, "quick", b"") == b"quick"
        )
        # A further one, while the first old link is still there.
        with pytest.raises(CallTimeout, match="1 calls wait"):
            await b.reconnect(A, timeout=1.0)
        assert new.closed
        assert (await a.connect(B)) not in (old, new)
        assert await a.call(B, "quick", b"") == b"quick"
        gates[A].set()
        await asyncio.sleep(0.01)
        assert old.error is None
        gates[B].set()
        assert await asyncio.gather(*calls) == [b"done", b"done"]
        await settled(a, b)
        assert old.error is not None
        assert "replaced" in str(old.error)


async def more_older_links_than_may_be() -> None:
    async with linked() as (a, b):
        gate = asyncio.Event()

        @b.handler("slow")
        async def slow(message: Message) -> bytes:
            await gate.wait()
            return b"done"

        calls = []
        for turn in range(5):
            calls.append(asyncio.ensure_future(a.call(B, "slow", b"")))
            await asyncio.sleep(0)
            with pytest.raises(CallTimeout) as caught:
                await (
                    a.reconnect(B, timeout=0.6)
                    if turn % 2
                    else b.reconnect(timeout=0.6)
                )
            assert ("no new link" in str(caught.value)) is (turn == 4)
        assert len(a.links) == 5
        gate.set()
        assert await asyncio.gather(*calls) == [b"done"] * 5
        # What was asked for is done now that there is room.
        await settled(a, b)


async def test_cancelled_calls_on_the_old_link() -> None:
    async with linked() as (a, b):
        cancelled = asyncio.Event()

        @b.handler("never")
        async def never(message: Message) -> bytes:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()
            raise AssertionError

        call = asyncio.ensure_future(a.call(B, "never", b""))
        await until(lambda: b.links[0].stats.calls_received)
        reconnecting = asyncio.ensure_future(a.reconnect(B))
        await until(lambda: len(a.links) == 2)
        call.cancel()
        await reconnecting
        await cancelled.wait()
        await settled(a, b)


# --- sharing ------------------------------------------------------------------------


async def test_both_sides_and_many_callers_share_one_replacement() -> None:
    async with linked() as (a, b):
        await asyncio.gather(
            *(a.reconnect(B) for _ in range(5)),
            *(b.reconnect(A) for _ in range(5)),
            a.reconnect(),
            b.reconnect(),
        )
        await settled(a, b)
        assert b.acceptors[0].stats.links == 2
        assert a.dial_stats.links == 2


@pytest.mark.parametrize("caller", [A, B])
async def test_a_call_after_the_handshake_began_wants_the_next_one(caller: str) -> None:
    """What shows the certificate of before the call is not what was asked for."""
    managers = manager(A), manager(B)
    async with linked({"manager": managers[0]}, {"manager": managers[1]}) as (a, b):
        first = asyncio.ensure_future(a.reconnect(B))
        await until(lambda: b.acceptors[0].stats.connections == 2)
        for made, name in zip(managers, (A, B), strict=True):
            made.update(odd_certificate(name))
        await (a.reconnect(B) if caller == A else b.reconnect(A))
        await first
        await settled(a, b)
        assert managers[0].certificate is not None
        assert managers[1].certificate is not None
        assert serial(a.links[0]) == managers[1].certificate.serial_number
        assert serial(b.links[0]) == managers[0].certificate.serial_number


async def test_guarantee_5_a_pending_connection_is_older_than_the_call() -> None:
    """Its peer chose what it shows when it dialed, however late it says so."""
    managers = manager(A), manager(B)
    async with (
        linked({"manager": managers[0]}, {"manager": managers[1]}) as (a, b),
        Proxy() as proxy,
    ):
        await proxy.start(b.acceptors[0].address)
        forget(a, B)
        a.add_route(Route("^beta@", *proxy.address))
        proxy.up.delay = 0.3
        first = asyncio.ensure_future(a.reconnect(B))
        await until(lambda: b.acceptors[0].stats.connections == 2)
        for made, name in zip(managers, (A, B), strict=True):
            made.update(odd_certificate(name))
        await b.reconnect(A)
        await first
        await settled(a, b)
        assert managers[0].certificate is not None
        assert serial(b.links[0]) == managers[0].certificate.serial_number
        assert b.acceptors[0].stats.connections == 3


async def test_without_a_link_it_connects() -> None:
    async with pair() as (a, b):
        await a.reconnect()  # no links, nothing to do
        assert not a.links
        await a.reconnect(B)
        await settled(a, b)
        first = a.links[0]
        assert not first.closed
        connecting = asyncio.ensure_future(b.connect(A))
        assert await connecting is b.links[0]
        with pytest.raises(ConfigError):
            await a.reconnect("nonsense")


async def test_a_dial_that_began_before_is_replaced() -> None:
    made = manager(A)
    async with pair({"manager": made}) as (a, b):
        connecting = asyncio.ensure_future(a.connect(B))
        await until(lambda: b.acceptors[0].stats.connections)
        made.update(odd_certificate(A))
        await a.reconnect(B)
        await connecting
        await settled(a, b)
        assert made.certificate is not None
        assert serial(b.links[0]) == made.certificate.serial_number


async def test_many_links_at_once_and_their_failures() -> None:
    names = [f"n{i}@127.0.0.1" for i in range(4)]
    async with running(B) as b:
        dialers = []
        try:
            for name in names:
                node = await start(name)
                dialers.append(node)
                introduce(node, b)
                await node.connect(B)
            await until(lambda: len(b.links) == 4)
            old = set(b.links)
            # Two of them cannot dial any more.
            for node in dialers[:2]:
                forget(node, B)
            with pytest.raises(HandshakeError, match="could not be reached") as caught:
                await b.reconnect()
            assert len(caught.value.__notes__) == 1
            await until(lambda: len(b.links) == 4)
            assert len(old & set(b.links)) == 2
        finally:
            for node in dialers:
                await node.stop()


# --- when it fails ------------------------------------------------------------------


@pytest.mark.parametrize("caller", [A, B])
async def test_a_refused_dial_leaves_the_old_link(caller: str) -> None:
    made = manager(A)
    async with linked({"manager": made}) as (a, b):
        old = a.links[0]
        made.update(certificate(A, "Other CA"))
        async with Traffic(a, b).flowing():
            with pytest.raises(UnknownAuthority) as caught:
                await (a.reconnect(B) if caller == A else b.reconnect(A))
            assert caught.value.hint
        assert a.links == (old,)
        assert not old.closed
        # Mended, it works.
        made.update(odd_certificate(A))
        await (a.reconnect(B) if caller == A else b.reconnect(A))
        assert old.closed


async def test_an_unreachable_peer_leaves_the_old_link() -> None:
    async with linked() as (a, b):
        b.acceptors[0].close()
        old = a.links[0]
        with pytest.raises(NoRoute):
            await a.reconnect(B)
        with pytest.raises(HandshakeError, match="could not be reached"):
            await b.reconnect()
        assert a.links == (old,)
        b.handler("e")(lambda m: b"still")
        assert await a.call(B, "e", b"") == b"still"


async def test_another_run_of_the_peer_answers() -> None:
    async with running(B) as b, running(A) as a:
        introduce(a, b)
        old = await a.connect(B)
        async with running(B) as again:
            forget(a, B)
            introduce(a, again)
            await a.reconnect(B)
            # It knows nothing of the old link, which ends in order.
            assert type(old.error) is LinkClosed
            (link,) = a.links
            assert link.peer.instance == again.instance
            assert await a.connect(B) is link
            await until(lambda: not b.links)


@pytest.mark.parametrize("how", ["cut", "reset"])
async def test_the_old_link_breaks_in_the_middle(how: str) -> None:
    async with Proxy() as proxy, pair() as (a, b):
        gate = asyncio.Event()
        got: list[int] = []

        @b.handler("slow")
        async def slow(message: Message) -> bytes:
            await gate.wait()
            return b"done"

        b.handler("e")(lambda m: got.append(int(m.payload)))
        await proxy.start(b.acceptors[0].address)
        forget(a, B)
        a.add_route(route_to(proxy.address))
        old = await a.connect(B)
        call = asyncio.ensure_future(a.call(B, "slow", b""))
        await until(lambda: b.links and b.links[0].stats.calls_received)
        old_connections = list(proxy.writers)
        reconnecting = asyncio.ensure_future(a.reconnect(B))
        await until(lambda: len(a.links) == len(b.links) == 2)
        for number in range(100):
            await a.send(B, "e", b"%d" % number)
        getattr(proxy, how)(old_connections)
        with pytest.raises(LinkLost):
            await call
        with pytest.raises(LinkLost):
            await reconnecting
        assert isinstance(old.error, LinkLost)
        await settled(a, b)
        await until(lambda: len(got) == 100)
        assert got == list(range(100))
        gate.set()


async def test_messages_held_are_released_when_the_old_link_breaks() -> None:
    async with Proxy() as proxy, pair() as (a, b):
        got: list[int] = []
        b.handler("e")(lambda m: got.append(int.from_bytes(m.payload[:4])))
        await proxy.start(b.acceptors[0].address)
        forget(a, B)
        a.add_route(route_to(proxy.address))
        old = await a.connect(B)
        await until(lambda: b.links)
        seen = b.links[0]
        connections = list(proxy.writers)
        # Nothing gets through on the old link any more.
        proxy.stall(connections)
        for number in range(50):
            old.send("e", number.to_bytes(4) + bytes(64 * KIB))
        reconnecting = asyncio.ensure_future(a.reconnect(B))
        await until(lambda: len(a.links) == len(b.links) == 2)
        new = next(link for link in b.links if link is not seen)
        for number in range(50, 60):
            await a.send(B, "e", number.to_bytes(4))
        await until(lambda: sum(k.stats.messages_received for k in b.links) >= 10)
        before = list(got)
        assert not set(before) & set(range(50, 60))
        proxy.reset(connections)
        with pytest.raises(LinkLost):
            await reconnecting
        await until(lambda: got[-10:] == list(range(50, 60)))
        assert got == sorted(set(got))
        assert not new.closed


async def test_guarantee_8_an_old_link_that_is_dead_holds_up_nobody_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Long before the keepalive of an idle link would give it up."""
    protocol = "fastnode.link.protocol"
    monkeypatch.setattr(f"{protocol}.HANDOVER_INTERVAL_SECONDS", 0.3)
    slow = {"keepalive_interval": 3600.0}
    async with Proxy() as proxy, pair(slow, slow) as (a, b):
        got: dict[str, list[int]] = {A: [], B: []}
        for node in (a, b):
            into = got[node.name]
            node.handler("e")(lambda m, i=into: i.append(int.from_bytes(m.payload[:4])))

        @b.handler("never")
        async def never(message: Message) -> None:
            await asyncio.Event().wait()

        await proxy.start(b.acceptors[0].address)
        forget(a, B)
        a.add_route(route_to(proxy.address))
        old = await a.connect(B)
        await until(lambda: b.links)
        back = b.links[0]
        call = asyncio.ensure_future(old.call("never", b""))
        await until(lambda: back.stats.calls_received)
        # Nothing gets through on the old link any more, and nobody is told.
        proxy.stall(list(proxy.writers))
        for number in range(50):
            old.send("e", number.to_bytes(4) + bytes(64 * KIB))
            back.send("e", number.to_bytes(4) + bytes(64 * KIB))
        reconnecting = asyncio.ensure_future(a.reconnect(B))
        await until(lambda: old.closed and back.closed)
        for number in range(50, 60):
            await a.send(B, "e", number.to_bytes(4))
            await b.send(A, "e", number.to_bytes(4))
        await until(
            lambda: all(each[-10:] == list(range(50, 60)) for each in got.values())
        )
        for each in got.values():
            assert each == sorted(set(each))
            assert len(each) < 60
        with pytest.raises(LinkLost, match="nothing was heard"):
            await reconnecting
        with pytest.raises(LinkLost):
            await call
        assert len(a.links) == len(b.links) == 1


async def test_an_old_link_that_lives_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    protocol = "fastnode.link.protocol"
    monkeypatch.setattr(f"{protocol}.HANDOVER_INTERVAL_SECONDS", 0.2)
    async with linked() as (a, b):
        gate, got = asyncio.Event(), list[bytes]()

        @b.handler("e", concurrency=1)
        async def handle(message: Message) -> None:
            await gate.wait()
            got.append(message.payload)

        old = a.links[0]
        for number in range(5):
            old.send("e", b"%d" % number)
        reconnecting = asyncio.ensure_future(a.reconnect(B))
        await until(lambda: old.closed)
        await a.send(B, "e", b"5")
        # Time is what this is about: longer than one that says nothing may take.
        await asyncio.sleep(1.2)
        assert not got
        gate.set()
        await reconnecting
        await until(lambda: len(got) == 6)
        assert got == [b"%d" % number for number in range(6)]


async def stopping_in_a_succession_that_cannot_be_cancelled() -> None:
    asked, gate = asyncio.Event(), asyncio.Event()

    async def resolve(name: str) -> list[tuple[str, int]]:
        if not b.links:
            return [b.acceptors[0].address]
        asked.set()
        while not gate.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await gate.wait()
        return []

    async with running(B) as b:
        a = await start(A, resolver=resolve, listens=False)
        await a.connect(B)
        await until(lambda: b.links)
        reconnecting = asyncio.ensure_future(a.reconnect(B))
        await asked.wait()
        async with asyncio.timeout(CANCEL_SECONDS + 5):
            await a.stop()
        gate.set()
        with pytest.raises((LinkClosed, LinkLost, NoRoute)):
            await reconnecting


async def test_the_new_link_breaks_at_once() -> None:
    async with Proxy() as proxy, pair() as (a, b):
        gate = asyncio.Event()
        got: list[int] = []

        @b.handler("slow")
        async def slow(message: Message) -> bytes:
            await gate.wait()
            return b"done"

        await proxy.start(b.acceptors[0].address)
        forget(a, B)
        a.add_route(route_to(proxy.address))
        await a.connect(B)
        call = asyncio.ensure_future(a.call(B, "slow", b""))
        await until(lambda: b.links and b.links[0].stats.calls_received)
        old_connections = list(proxy.writers)
        reconnecting = asyncio.ensure_future(a.reconnect(B))
        await until(lambda: len(a.links) == 2)
        proxy.reset([w for w in proxy.writers if w not in old_connections])
        gate.set()
        assert await call == b"done"
        with pytest.raises(LinkLost):
            await reconnecting
        b.handler("e")(lambda m: got.append(1))
        await a.send(B, "e", b"")
        await until(lambda: got)


@pytest.mark.parametrize("who", [A, B])
@pytest.mark.parametrize("turns", [0, 1, 3, 8, 15])
async def test_stopping_during_it(who: str, turns: int) -> None:
    async with linked() as (a, b):
        waits = [
            asyncio.ensure_future(a.reconnect(B)),
            asyncio.ensure_future(b.reconnect(A)),
        ]
        for _ in range(turns):
            await asyncio.sleep(0)
        async with asyncio.timeout(WAIT_SECONDS):
            await (a if who == A else b).stop()
            results = await asyncio.gather(*waits, return_exceptions=True)
        for result in results:
            assert result is None or isinstance(result, ConnectionError), result
        stopped = a if who == A else b
        with pytest.raises(LinkClosed):
            await stopped.reconnect()


async def test_stopping_under_load_and_succession() -> None:
    async with linked() as (a, b):
        got: list[int] = []
        b.handler("e")(lambda m: got.append(int(m.payload)))
        for number in range(2000):
            await a.send(B, "e", b"%d" % number)
        old = a.links[0]
        reconnecting = asyncio.ensure_future(a.reconnect(B))
        await until(lambda: old.closed)
        for number in range(2000, 4000):
            await a.send(B, "e", b"%d" % number)
        await a.stop()
        await asyncio.gather(reconnecting, return_exceptions=True)
        assert got == list(range(4000))


async def test_closing_either_link_during_it() -> None:
    async with linked() as (a, b):
        b.handler("e")(lambda m: m.payload)
        for side in (a, b):
            old = side.links[0]
            reconnecting = asyncio.ensure_future(a.reconnect(B))
            await until(functools.partial(getattr, old, "closed"))
            await asyncio.gather(*(link.close() for link in side.links))
            await asyncio.gather(reconnecting, return_exceptions=True)
            assert await a.call(B, "e", b"x") == b"x"
            await settled(a, b)


async def test_max_links_does_not_count_a_successor() -> None:
    one = {"acceptors": [AcceptorOptions(port=0, max_links=1)]}
    async with linked(second=one) as (a, b):
        for _ in range(3):
            await a.reconnect(B)
            await b.reconnect()
        await settled(a, b)


def route_to(address: tuple[str, int]) -> Route:
    return Route("^beta@", *address)
