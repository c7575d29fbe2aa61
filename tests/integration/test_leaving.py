"""A node that stops says so first, and goes on serving until its peers have turned
away."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from fastnode import (
    AcceptorOptions,
    FastnodeError,
    LinkClosed,
    LinkLost,
    Message,
    NetworkOptions,
    Node,
    NodeOptions,
    NoRoute,
    OutOfResources,
    ProtocolError,
    start_node,
)
from fastnode.limits import GROUP_BYTES
from helpers import frames
from helpers.nodes import WAIT_SECONDS, A, B, introduce, running, until
from helpers.pki import manager
from helpers.raw import Raw

C = "gamma@127.0.0.1"
#: A grace that no test waits for. The time for stopping is longer than twice of it.
LONG = 60.0
EXTENSIONS = frames.feature(frames.EXTENSIONS)
NAME = frames.frame(frames.ENDPOINT, b"who")


def says(name: bytes) -> Callable[[Message], bytes]:
    return lambda message: name


class Gate:
    """A handler that waits until it may go on."""

    def __init__(self, node: Node, name: str = "slow") -> None:
        self.began = 0
        self.open = asyncio.Event()
        node.handler(name)(self.handle)

    async def handle(self, message: Message) -> bytes:
        self.began += 1
        await self.open.wait()
        return b"done"


async def start(
    name: str = B,
    *,
    listener: socket.socket | None = None,
    grace: float = LONG,
    timeout: float = 3 * LONG,
    group: bytes | None = None,
    **network: Any,
) -> Node:
    """A node that has a long time for its end."""
    acceptors = (AcceptorOptions(port=0, listener=listener),)
    network.setdefault("acceptors", acceptors)
    plain = network.get("plaintext")
    return await start_node(
        name,
        NodeOptions(
            cert_manager=None if plain else manager(name),
            network=NetworkOptions(slow_callback_seconds=60.0, **network),
            shutdown_timeout=timeout,
            leave_grace=grace,
            group=group,
        ),
    )


def stopping(node: Node, timeout: float | None = None) -> asyncio.Task[Any]:
    return asyncio.ensure_future(node.stop(timeout))


async def soon(awaitable: Any) -> Any:
    """The result, long before a grace is over."""
    async with asyncio.timeout(LONG / 2):
        return await awaitable


def resolver(*nodes: Node) -> Callable[[str], Any]:
    """Knows the addresses of nodes, in their order, whether they run or not."""
    addresses = [node.acceptors[0].address for node in nodes]

    async def resolve(name: str) -> list[tuple[str, int]]:
        return addresses

    return resolve


async def instances(stack: AsyncExitStack, *names: bytes) -> list[Node]:
    """Nodes of one name, each of which says who it is."""
    nodes = []
    for name in names:
        node = await stack.enter_async_context(await start())
        node.handler("who")(says(name))
        nodes.append(node)
    return nodes


async def test_peers_that_are_idle_turn_away_at_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "fastnode.node")
    async with running(A) as a, await start() as b:
        introduce(a, b)
        down: list[FastnodeError] = []
        a.on_link_down(lambda link, error: down.append(error))
        link = await a.connect(B)
        await until(lambda: b.links)
        (other,) = b.links
        assert not link.leaving
        assert await soon(b.stop()) == ()
        assert link.leaving
        assert not other.leaving
        assert type(other.error) is LinkClosed
        await until(lambda: link.error and down)
        assert type(link.error) is type(down[0]) is LinkClosed
        assert "the node stops" in str(down[0])
        assert "start a new node" in str(other.error)
    assert caplog.text.count(f"{B} stops: 1 peers were told") == 1
    assert caplog.text.count("stops: new messages and calls take another link") == 1


async def test_a_node_without_links_stops_at_once() -> None:
    assert await soon((await start()).stop()) == ()


async def test_what_is_under_way_is_answered() -> None:
    async with running(A) as a, await start() as b:
        introduce(a, b)
        gate = Gate(b)
        calls = [asyncio.ensure_future(a.call(B, "slow", b"")) for _ in range(10)]
        await until(lambda: gate.began == 10)
        (link,) = a.links
        stop = stopping(b)
        await until(lambda: link.leaving)
        assert not link.closed
        assert not stop.done()
        gate.open.set()
        assert await soon(asyncio.gather(*calls)) == [b"done"] * 10
        assert await soon(stop) == ()


async def test_one_way_handlers_have_the_whole_time_for_stopping() -> None:
    async with running(A) as a, await start(grace=0.05) as b:
        introduce(a, b)
        gate = Gate(b)
        await a.send(B, "slow", b"")
        await until(lambda: gate.began)
        (link,), (other,) = a.links, b.links
        stop = stopping(b)
        await until(lambda: link.closed and other.closed)
        # The grace is over, and the handler is not cancelled.
        await asyncio.wait([stop], timeout=0.2)
        assert not stop.done()
        gate.open.set()
        assert await soon(stop) == ()
        assert type(other.error) is LinkClosed


async def test_calls_that_cross_the_announcement_are_answered() -> None:
    async with running(A) as a, await start() as b:
        introduce(a, b)
        b.handler("who")(says(b"b"))
        gate = Gate(b)
        link = await a.connect(B)
        slow = asyncio.ensure_future(link.call("slow", b""))
        await until(lambda: gate.began)
        stop = stopping(b)
        # It is not here yet.
        crossing = [asyncio.ensure_future(link.call("who", b"")) for _ in range(100)]
        await until(lambda: link.leaving)
        assert await soon(asyncio.gather(*crossing)) == [b"b"] * 100
        # Whoever holds the link may use it as long as it is up.
        assert await soon(link.call("who", b"")) == b"b"
        gate.open.set()
        assert await soon(slow) == b"done"
        await soon(stop)
        with pytest.raises(LinkClosed) as caught:
            await link.call("who", b"")
        assert caught.value.begun == "no"


async def test_new_calls_go_to_another_instance_while_old_ones_are_answered() -> None:
    async with AsyncExitStack() as stack:
        old, new = await instances(stack, b"old", b"new")
        a = await stack.enter_async_context(running(A, resolver=resolver(old, new)))
        events: list[str] = []
        a.on_link_down(lambda link, error: events.append(type(error).__name__))
        gate = Gate(old)
        slow = asyncio.ensure_future(a.call(B, "slow", b""))
        await until(lambda: gate.began)
        assert await a.call(B, "who", b"") == b"old"
        (link,) = a.links
        stop = stopping(old)
        await until(lambda: link.leaving)
        replies = await soon(asyncio.gather(*(a.call(B, "who", b"") for _ in range(9))))
        assert replies == [b"new"] * 9
        newer = await a.connect(B)
        assert newer is not link
        assert {link, newer} == set(a.links)
        assert not link.closed
        assert not events
        gate.open.set()
        assert await soon(slow) == b"done"
        assert await soon(stop) == ()
        await until(lambda: link.error)
        assert events == ["LinkClosed"]
        assert await a.call(B, "who", b"") == b"new"


async def test_the_old_link_is_used_where_there_is_no_other() -> None:
    async with running(A) as a, await start() as b:
        introduce(a, b)
        b.handler("who")(says(b"b"))
        gate = Gate(b)
        slow = asyncio.ensure_future(a.call(B, "slow", b""))
        await until(lambda: gate.began)
        (link,) = a.links
        stop = stopping(b)
        await until(lambda: link.leaving)
        assert await soon(a.call(B, "who", b"")) == b"b"
        assert await soon(a.connect(B)) is link
        await soon(a.send(B, "who", b"", confirm=True))
        # Whoever keeps a link wants one that stays.
        async with a.keep_connected(B) as keeper:
            await until(lambda: keeper.error)
            assert isinstance(keeper.error, NoRoute)
        gate.open.set()
        assert await soon(slow) == b"done"
        await soon(stop)
        await until(lambda: link.error)
        with pytest.raises(NoRoute):
            await a.call(B, "who", b"")


async def test_the_old_link_is_used_where_no_descriptor_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def connect(name: str) -> Any:
        raise OutOfResources("no file descriptor is left")

    async with running(A) as a, await start() as b:
        introduce(a, b)
        b.handler("who")(says(b"b"))
        gate = Gate(b)
        slow = asyncio.ensure_future(a.call(B, "slow", b""))
        await until(lambda: gate.began)
        (link,) = a.links
        stop = stopping(b)
        await until(lambda: link.leaving)
        monkeypatch.setattr(a._dialer, "connect", connect)
        assert await soon(a.call(B, "who", b"")) == b"b"
        gate.open.set()
        assert await soon(slow) == b"done"
        await soon(stop)
        await until(lambda: link.error)
        with pytest.raises(OutOfResources):
            await a.call(B, "who", b"")


async def test_handlers_of_a_node_that_stops_may_call() -> None:
    """The peer who waits for them, and others, who have turned away long since."""
    async with running(A) as a, running(C) as c, await start() as b:
        introduce(a, b)
        introduce(b, a)
        introduce(b, c)
        a.handler("who")(says(b"a"))
        c.handler("who")(says(b"c"))
        gate = Gate(b)

        @b.handler("relay")
        async def relay(message: Message) -> bytes:
            before = await b.call(C, "who", b"")
            await gate.handle(message)
            first = await b.call(A, "who", b"")
            second = await b.call(C, "who", b"")
            await b.send(C, "who", b"", confirm=True)
            return before + first + second

        call = asyncio.ensure_future(a.call(B, "relay", b""))
        await until(lambda: gate.began)
        stop = stopping(b)
        await until(lambda: not c.links)
        gate.open.set()
        assert await soon(call) == b"cac"
        assert await soon(stop) == ()
        with pytest.raises(LinkClosed):
            await b.call(C, "who", b"")


async def test_calls_of_a_node_that_stops_cross_the_end_of_its_links() -> None:
    async with running(A) as a, running(C) as c, await start() as b:
        introduce(a, b)
        introduce(b, c)
        c.handler("who")(says(b"c"))

        @b.handler("many")
        async def many(message: Message) -> bytes:
            return b"".join([await b.call(C, "who", b"") for _ in range(200)])

        call = asyncio.ensure_future(a.call(B, "many", b""))
        await until(lambda: c.links)
        stop = stopping(b)
        # Its peer closes the link between two of its calls, and again when it dials.
        assert await soon(call) == b"c" * 200
        assert await soon(stop) == ()


async def at_port(port: int) -> Node:
    """An instance at a port where another one may listen too; 0: a free one."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen()
    node = await start(listener=listener)

    @node.handler("who")
    async def who(message: Message) -> bytes:
        await asyncio.sleep(0)
        return node.instance.encode()

    return node


class Stream:
    """Calls and confirmed messages without a pause, of which none may fail.

    Attributes:
        done: how many were answered.
        by: the instances that answered.
    """

    def __init__(self) -> None:
        self.done = 0
        self.by: set[bytes] = set()
        self.over = False

    async def call(self, node: Node) -> None:
        while not self.over:
            self.by.add(await node.call(B, "who", b"", timeout=WAIT_SECONDS))
            self.done += 1

    async def send(self, node: Node) -> None:
        while not self.over:
            await node.send(B, "who", b"", confirm=True, timeout=WAIT_SECONDS)
            self.done += 1

    async def more(self, count: int) -> None:
        aim = self.done + count
        await until(lambda: self.done >= aim)


async def test_a_rolling_restart_without_one_failed_call() -> None:
    """All instances are replaced, one after the other, each at its address."""
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(await at_port(0)) for _ in range(2)]
        resolve = resolver(*nodes)
        callers = [
            await stack.enter_async_context(running(name, resolver=resolve))
            for name in (A, C, "delta@127.0.0.1")
        ]
        stream = Stream()
        async with asyncio.timeout(WAIT_SECONDS), asyncio.TaskGroup() as tasks:
            for caller in callers:
                for each in (stream.call, stream.call, stream.send):
                    tasks.create_task(each(caller))
            for place in (0, 1, 0, 1):
                await stream.more(60)
                old = nodes[place]
                nodes[place] = await stack.enter_async_context(
                    await at_port(old.acceptors[0].address[1])
                )
                assert await soon(old.stop()) == ()
            await stream.more(60)
            stream.over = True
        assert len(stream.by) >= 3


async def test_a_dial_that_meets_the_end_finds_another_instance() -> None:
    async with AsyncExitStack() as stack:
        (new,) = await instances(stack, b"new")
        for turns in range(12):
            (old,) = await instances(stack, b"old")
            async with running(A, resolver=resolver(old, new)) as a:
                call = asyncio.ensure_future(a.call(B, "who", b"", timeout=LONG))
                # TCP, TLS or HELLO are under way.
                for _ in range(turns):
                    await asyncio.sleep(0)
                assert await soon(old.stop()) == ()
                assert await soon(call) in (b"old", b"new")


async def test_connections_that_the_kernel_has_accepted_become_links() -> None:
    async with await start(plaintext=True) as b:
        # The loop does not turn: the node does not know of it yet.
        sock = socket.create_connection(b.acceptors[0].address)
        sock.sendall(frames.hello(A, features=EXTENSIONS))
        sock.setblocking(False)
        b.acceptors[0].stop_listening()
        stop = stopping(b)
        raw = Raw(*await asyncio.open_connection(sock=sock))
        try:
            await raw.hello()
            raw.send(frames.ACCEPT)
            await raw.until(frames.LEAVING)
            raw.send(frames.GOODBYE, frames.reason(1))
            raw.writer.close()
            assert await soon(stop) == ()
        finally:
            raw.close()


async def call(node: Node) -> bytes:
    return await node.call(B, "who", b"", timeout=LONG)


async def request(node: Node) -> bytes:
    return (await node.request(B, "who", b"", timeout=LONG)).payload


async def confirm(node: Node) -> bytes:
    await node.send(B, "who", b"", confirm=True, timeout=LONG)
    return b""


@pytest.mark.parametrize("what", [call, request, confirm])
@pytest.mark.parametrize(
    ("ends", "dials", "error"),
    [
        ("closes", 2, None),  # the third one answers
        ("closes", 3, LinkClosed),
        ("breaks", 1, LinkLost),
    ],
)
async def test_what_crosses_a_goodbye_takes_another_link(
    what: Callable[[Node], Any], ends: str, dials: int, error: type[LinkClosed] | None
) -> None:
    """The peer has certainly not begun it. It may have if the link breaks."""
    met = 0

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal met
        met += 1
        raw = Raw(reader, writer)
        await raw.hello()
        writer.write(frames.hello(B))
        while (await raw.frame())[0] not in (frames.CALL, frames.CONFIRM):
            pass
        if met > dials:
            writer.write(frames.reply(1, b""))
            await raw.until(frames.GOODBYE)
            raw.send(frames.GOODBYE, frames.reason(1))
        elif ends == "closes":
            raw.send(frames.GOODBYE, frames.reason(0))
            await raw.until(frames.GOODBYE)
        else:
            raw.close()
            return
        await raw.rest()
        writer.close()

    server = await asyncio.start_server(meet, "127.0.0.1", 0)
    try:
        address = server.sockets[0].getsockname()[:2]
        async with running(A, plaintext=True, resolver=lambda _: [address]) as a:
            if error is None:
                assert await soon(what(a)) == b""
                assert met == dials + 1
            else:
                with pytest.raises(LinkClosed) as caught:
                    await soon(what(a))
                assert type(caught.value) is error
                assert caught.value.begun == ("no" if ends == "closes" else "maybe")
                assert met == dials
    finally:
        server.close()
        await server.wait_closed()


async def test_a_keeper_dials_the_next_instance() -> None:
    async with AsyncExitStack() as stack:
        old, new = await instances(stack, b"old", b"new")
        a = await stack.enter_async_context(running(A, resolver=resolver(old, new)))
        async with a.keep_connected(B) as keeper:
            first = await keeper.connected()
            assert first.peer.instance == old.instance
            assert await soon(old.stop()) == ()
            await until(lambda: first.closed)
            second = await soon(keeper.connected())
            assert second.peer.instance == new.instance


async def test_a_worker_that_leaves_hands_its_name_to_its_sibling() -> None:
    group = bytes(GROUP_BYTES)
    async with running(A) as a, AsyncExitStack() as stack:
        nodes = []
        for name in (b"one", b"two"):
            node = await stack.enter_async_context(await start(group=group))
            node.handler("who")(says(name))
            introduce(node, a)
            nodes.append(node)
            await node.connect(A)
        await until(lambda: len(a.links) == 2)
        gate = Gate(nodes[0])
        assert await a.call(B, "who", b"") == b"one"
        slow = asyncio.ensure_future(a.call(B, "slow", b""))
        await until(lambda: gate.began)
        stop = stopping(nodes[0])
        await until(lambda: any(link.leaving for link in a.links))
        # Not dialed: alpha does not know where it is.
        assert await soon(a.call(B, "who", b"")) == b"two"
        gate.open.set()
        assert await soon(slow) == b"done"
        assert await soon(stop) == ()
        assert await soon(a.call(B, "who", b"")) == b"two"


async def test_links_that_are_being_replaced() -> None:
    async with running(A) as a, await start() as b:
        introduce(a, b)
        gate = Gate(b)
        slow = asyncio.ensure_future(a.call(B, "slow", b""))
        await until(lambda: gate.began)
        replacing = asyncio.ensure_future(a.reconnect(B))
        await until(lambda: len(a.links) == 2)
        old, new = a.links
        stop = stopping(b)
        await until(lambda: new.closed)
        gate.open.set()
        assert await soon(slow) == b"done"
        await soon(replacing)
        assert await soon(stop) == ()
        assert type(old.error) is type(new.error) is LinkClosed


async def test_all_links_but_those_of_nodes_that_stop_are_replaced() -> None:
    async with running(A) as a, running(C) as c, await start() as b:
        introduce(a, b)
        introduce(a, c)
        gate = Gate(b)
        slow = asyncio.ensure_future(a.call(B, "slow", b""))
        await until(lambda: gate.began)
        stop = stopping(b)
        await until(lambda: a.links[0].leaving)
        before = await a.connect(C)
        await soon(a.reconnect())
        assert before.closed
        gate.open.set()
        assert await soon(slow) == b"done"
        await soon(stop)


@pytest.mark.parametrize("busy", [False, True])
async def test_two_nodes_that_stop_at_the_same_time(busy: bool) -> None:
    async with await start(A) as a, await start() as b:
        introduce(a, b)
        introduce(b, a)
        gates = [Gate(a), Gate(b)]
        calls = []
        await a.connect(B)
        await until(lambda: b.links)
        if busy:
            calls = [
                asyncio.ensure_future(a.call(B, "slow", b"")),
                asyncio.ensure_future(b.call(A, "slow", b"")),
            ]
            await until(lambda: all(gate.began for gate in gates))
        stops = [stopping(a), stopping(b)]
        if busy:
            await until(lambda: a.links[0].leaving and b.links[0].leaving)
        for gate in gates:
            gate.open.set()
        assert await soon(asyncio.gather(*calls)) == [b"done"] * len(calls)
        assert await soon(asyncio.gather(*stops)) == [(), ()]


async def test_what_a_node_that_stops_still_may_do() -> None:
    async with running(A) as a, running(C) as c, await start() as b:
        introduce(a, b)
        introduce(b, c)
        gate = Gate(b)
        slow = asyncio.ensure_future(a.call(B, "slow", b""))
        await until(lambda: gate.began)
        stop = stopping(b)
        await until(lambda: a.links[0].leaving)
        with pytest.raises(LinkClosed):
            b.keep_connected(C)
        with pytest.raises(LinkClosed):
            await b.reconnect(A)
        assert (await soon(b.connect(C))).peer.name == C
        gate.open.set()
        assert await soon(slow) == b"done"
        assert await soon(stop) == ()
        with pytest.raises(LinkClosed):
            await b.connect(C)


# --- time ------------------------------------------------------------------------


async def test_the_grace_is_a_part_of_the_time_for_stopping() -> None:
    async with running(A) as a, await start(grace=LONG) as b:
        introduce(a, b)
        gate = Gate(b)
        call = asyncio.ensure_future(a.call(B, "slow", b""))
        await until(lambda: gate.began)
        (link,) = b.links
        stop = stopping(b, 0.4)
        began = time.monotonic()
        await until(lambda: link.closed)
        # Half of it is for the orderly end, in which replies can leave.
        assert time.monotonic() - began > 0.1
        assert not stop.done()
        gate.open.set()
        assert await soon(call) == b"done"
        assert await soon(stop) == ()


@pytest.mark.parametrize("late", [False, True])
async def test_a_second_stop_with_less_time_shortens_the_first(late: bool) -> None:
    grace = 0.01 if late else LONG
    async with running(A) as a, await start(grace=grace) as b:
        introduce(a, b)
        gate = Gate(b)
        call = asyncio.ensure_future(a.call(B, "slow", b""))
        await until(lambda: gate.began)
        (link,), (other,) = a.links, b.links
        stop = stopping(b)
        await until(lambda: other.closed if late else link.leaving)
        # More time than the first has, and none, change nothing.
        longer = [stopping(b, 10 * LONG), stopping(b)]
        await asyncio.wait([stop], timeout=0.05)
        assert not stop.done()
        left = await soon(b.stop(0.1))
        assert await soon(stop) == left
        assert await soon(asyncio.gather(*longer)) == [left, left]
        assert left[0].handlers == 1
        with pytest.raises(LinkLost):
            await call


async def test_without_a_grace_nobody_is_told() -> None:
    async with await start(grace=0, plaintext=True) as b, hostile(b) as raw:
        stop = stopping(b)
        kinds = [await raw.frame()]
        while kinds[-1][0] != frames.GOODBYE:
            kinds.append(await raw.frame())
        assert frames.LEAVING not in dict(kinds)
        raw.send(frames.GOODBYE, frames.reason(1))
        raw.writer.close()
        await soon(stop)


# --- peers that are old, or hostile --------------------------------------------------


@asynccontextmanager
async def hostile(node: Node, features: bytes = EXTENSIONS) -> AsyncIterator[Raw]:
    """A link of alpha in plaintext that is up, and does what the test says."""
    raw = Raw(*await asyncio.open_connection(*node.acceptors[0].address))
    try:
        raw.writer.write(frames.hello(A, features=features))
        await raw.hello()
        raw.send(frames.ACCEPT)
        before = len(node.links)
        await until(lambda: len(node.links) > before)
        yield raw
    finally:
        raw.close()


async def test_a_peer_of_an_older_version_is_not_told_and_not_waited_for() -> None:
    async with await start(plaintext=True) as b, hostile(b, b"") as raw:
        stop = stopping(b)
        kind, body = await raw.frame()
        assert (kind, body[:2]) == (frames.GOODBYE, struct.pack(">H", 0))
        raw.send(frames.GOODBYE, frames.reason(1))
        raw.writer.close()
        assert await soon(stop) == ()


async def test_a_peer_that_does_not_turn_away_costs_the_grace() -> None:
    async with await start(grace=0.2, plaintext=True) as b, hostile(b) as raw:
        b.handler("who")(says(b"b"))
        began = time.monotonic()
        stop = stopping(b)
        (grace_ms,) = struct.unpack(">I", await raw.until(frames.LEAVING))
        assert 0 < grace_ms <= 200
        # It is served meanwhile.
        raw.writer.write(NAME + frames.call(0, 1, b""))
        assert (await raw.until(frames.REPLY))[4:] == b"b"
        await raw.until(frames.GOODBYE)
        assert time.monotonic() - began >= 0.15
        raw.send(frames.GOODBYE, frames.reason(1))
        raw.writer.close()
        assert await soon(stop) == ()


async def test_a_stranger_in_its_handshake_costs_a_second() -> None:
    b = await start(plaintext=True)
    _, writer = await asyncio.open_connection(*b.acceptors[0].address)
    try:
        await until(lambda: b.acceptors[0].arriving)
        # What came just now may become a link; a second later nobody believes it.
        began = time.monotonic()
        await soon(b.stop())
        assert time.monotonic() - began < WAIT_SECONDS / 2
    finally:
        writer.transport.abort()


async def test_calls_of_a_peer_that_leaves_are_served_until_it_is_idle() -> None:
    async with await start(plaintext=True) as b, hostile(b) as raw:
        gate = Gate(b, "who")
        leaving = frames.frame(frames.LEAVING, bytes(4))
        # Twice, and a call behind it in the same read.
        raw.writer.write(NAME + leaving + leaving + frames.call(0, 1, b""))
        await until(lambda: gate.began == 1)
        (link,) = b.links
        assert link.leaving
        raw.writer.write(leaving + frames.call(0, 2, b""))
        await until(lambda: gate.began == 2)
        assert not link.closed
        gate.open.set()
        kinds = [(await raw.frame())[0] for _ in range(3)]
        assert kinds == [frames.REPLY, frames.REPLY, frames.GOODBYE]
        # Its messages are taken until it says goodbye too.
        got: list[bytes] = []
        b.handler("late")(lambda message: got.append(message.payload))
        name = frames.frame(frames.ENDPOINT, b"late", number=1)
        raw.writer.write(leaving + name + frames.message(1, b"x"))
        raw.send(frames.GOODBYE, frames.reason(0))
        await until(lambda: link.error)
        assert got == [b"x"]
        assert type(link.error) is LinkClosed


async def test_guarantee_10_an_announcement_that_was_not_negotiated() -> None:
    async with await start(plaintext=True) as b, hostile(b, b"") as raw:
        (link,) = b.links
        raw.send(frames.LEAVING, bytes(4))
        await until(lambda: link.error)
        assert isinstance(link.error, ProtocolError)


async def test_a_peer_that_leaves_and_comes_back() -> None:
    """Its old link ends in order, whatever it is called again meanwhile."""
    async with await start(plaintext=True) as b:
        b.handler("who")(says(b"b"))
        gate = Gate(b)
        async with hostile(b) as raw:
            (first,) = b.links
            raw.writer.write(frames.frame(frames.ENDPOINT, b"slow"))
            raw.writer.write(frames.call(0, 1, b""))
            raw.send(frames.LEAVING, bytes(4))
            await until(lambda: gate.began and first.leaving)
            async with hostile(b) as again:
                assert len(b.links) == 2
                assert not first.closed
                gate.open.set()
                assert (await raw.until(frames.REPLY))[4:] == b"done"
                await raw.until(frames.GOODBYE)
                again.writer.write(NAME + frames.call(0, 1, b""))
                assert (await again.until(frames.REPLY))[4:] == b"b"
