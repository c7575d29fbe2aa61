"""Endpoints that are full: others go on, and calls are refused in time."""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

from fastnode import (
    Busy,
    CallTimeout,
    ConfigError,
    LinkClosed,
    LinkLost,
    Message,
    Node,
    NodeOptions,
    RemoteError,
    SendQueueFull,
)
from fastnode.limits import MAX_SET_ASIDE_BYTES
from fastnode.options import Priority
from helpers import frames
from helpers.nodes import WAIT_SECONDS, A, B, introduce, pair, running, until
from helpers.raw import raw_peer

KIB, MIB = 1 << 10, 1 << 20
EXTENSIONS = frames.feature(frames.EXTENSIONS)


class Gate:
    """A handler of every kind that waits until the gate is opened."""

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.running = 0
        self.most = 0
        self.opened = asyncio.Event()

    async def one(self, message: Message) -> bytes:
        self.got.append(message.payload)
        self.running += 1
        self.most = max(self.most, self.running)
        await self.opened.wait()
        self.running -= 1
        return message.payload[:8]

    async def many(self, messages: list[Message]) -> None:
        self.got += [each.payload for each in messages]
        await self.opened.wait()

    def put(self, node: Node, kind: str, name: str = "slow") -> None:
        """Register it: bounded, unbounded or batch."""
        if kind == "batch":
            node.handler(name, batch=True)(self.many)
        elif kind == "bounded":
            node.handler(name, concurrency=2)(self.one)
        else:
            node.handler(name)(self.one)


def payloads(count: int, size: int) -> list[bytes]:
    return [struct.pack(">Q", number).ljust(size, b".") for number in range(count)]


@asynccontextmanager
async def both(
    kind: str = "bounded", *, plaintext: bool = True, **network: Any
) -> AsyncIterator[tuple[Node, Node, Gate]]:
    """alpha, beta, and the gate at the endpoint "slow" of beta; "echo" replies."""
    network["plaintext"] = plaintext
    async with pair(network, network) as (a, b):
        gate = Gate()
        gate.put(b, kind)
        b.handler("echo")(lambda m: m.payload)
        try:
            yield a, b, gate
        finally:
            gate.opened.set()


async def echoes(node: Node) -> None:
    """Calls of all sizes and priorities to another endpoint pass, and messages."""
    cases: tuple[tuple[int, Priority], ...] = (
        (8, "normal"),
        (8, "high"),
        (200 * KIB, "normal"),
    )
    for size, priority in cases:
        payload = bytes(size)
        reply = await node.call(
            B, "echo", payload, timeout=WAIT_SECONDS, priority=priority
        )
        assert reply == payload
    await node.send(B, "echo", b"", confirm=True, timeout=WAIT_SECONDS)


def has(gate: Gate, count: int) -> bool:
    return len(gate.got) == count


async def cancel(calls: list[asyncio.Task[bytes]]) -> None:
    for each in calls:
        each.cancel()
    await asyncio.gather(*calls, return_exceptions=True)


# --- one slow endpoint does not stall others ------------------------------------------


@pytest.mark.parametrize("kind", ["bounded", "unbounded"])
@pytest.mark.parametrize("size", [KIB, 100 * KIB])
async def test_guarantee_9_calls_to_a_slow_endpoint_stall_no_other(
    kind: str, size: int
) -> None:
    async with both(kind) as (a, b, gate):
        link = await a.connect(B)
        sent = payloads(3_000 * KIB // size, size)
        calls = [asyncio.create_task(link.call("slow", each)) for each in sent]
        await until(lambda: gate.got)
        await echoes(a)
        assert gate.running > 0
        gate.opened.set()
        replies = await asyncio.gather(*calls)
        assert replies == [each[:8] for each in sent]
        assert gate.got == sent
        assert link.stats.queued_bytes == 0
        await until(lambda: not any(each.unfinished() for each in b._links))


@pytest.mark.parametrize("kind", ["bounded", "unbounded", "batch"])
@pytest.mark.parametrize("size", [12, KIB, 100 * KIB])
async def test_guarantee_9_messages_to_a_slow_endpoint_stall_no_other(
    kind: str, size: int
) -> None:
    async with both(kind, max_queued=256 * MIB) as (a, b, gate):
        link = await a.connect(B)
        sent = payloads(min(3 * MIB // size, 30_000), size)
        for each in sent:
            link.send("slow", each)
        await until(lambda: gate.got)
        await echoes(a)
        gate.opened.set()
        await until(lambda: len(gate.got) == len(sent))
        assert gate.got == sent
        assert link.stats.queued_bytes == 0
        await until(lambda: not any(each.unfinished() for each in b._links))


async def test_guarantee_9_several_slow_endpoints_over_tls() -> None:
    async with both(plaintext=False) as (a, b, gate):
        others = [Gate() for _ in range(6)]
        for number, other in enumerate(others):
            other.put(b, ("bounded", "unbounded", "batch")[number % 3], f"{number}")
        link = await a.connect(B)
        sent = payloads(1000, KIB)
        for each in sent:
            link.send("slow", each)
            for number in range(len(others)):
                link.send(f"{number}", each, priority=("normal", "high")[number % 2])
        await echoes(a)
        for other in (gate, *others):
            other.opened.set()
        for other in (gate, *others):
            await until(partial(has, other, len(sent)))
            assert other.got == sent


async def test_guarantee_9_what_is_set_aside_is_bounded() -> None:
    """A peer that goes on sending to a paused endpoint holds up its own link."""
    async with (
        running(B, plaintext=True) as node,
        running("gamma@127.0.0.1", plaintext=True) as neighbour,
    ):
        gate = Gate()
        gate.put(node, "bounded")
        node.handler("echo")(lambda m: m.payload)
        introduce(neighbour, node)
        async with raw_peer(node, EXTENSIONS) as peer:
            protocol = next(iter(node._links))
            peer.writer.write(frames.endpoint(0, b"slow"))
            credit = 1 << 20
            paused = 0
            part = frames.message(0, bytes(KIB)) * 100
            while True:
                while credit > 0:
                    peer.writer.write(part)
                    credit -= len(part)
                aside = protocol.unfinished().get("set aside", 0)
                if aside > MAX_SET_ASIDE_BYTES - 2 * KIB:
                    break
                # There is an answer even if nothing is granted any more.
                peer.writer.write(frames.frame(frames.PING, bytes(8)))
                async with asyncio.timeout(WAIT_SECONDS):
                    head = await peer.reader.readexactly(8)
                    body = await peer.reader.readexactly(int.from_bytes(head[4:8]))
                if head[0] == frames.CREDIT:
                    credit += int.from_bytes(body)
                elif head[0] == frames.PAUSE:
                    assert body == b"slow"
                    paused += 1
            assert paused >= 1
            # All that came is handled when the last pong is there.
            last = b"the last"
            peer.writer.write(frames.frame(frames.PING, last))
            async with asyncio.timeout(WAIT_SECONDS):
                while body != last:
                    head = await peer.reader.readexactly(8)
                    body = await peer.reader.readexactly(int.from_bytes(head[4:8]))
            aside = protocol.unfinished()["set aside"]
            assert MAX_SET_ASIDE_BYTES - 2 * KIB < aside <= MAX_SET_ASIDE_BYTES
            # The neighbour has its own link.
            assert await neighbour.call(B, "echo", b"x", timeout=WAIT_SECONDS) == b"x"


async def test_guarantee_9_a_peer_that_pauses_again_and_again() -> None:
    async with running(B, plaintext=True) as node:
        async with raw_peer(node, EXTENSIONS) as peer:
            (link,) = node.links
            for number in range(1000):
                peer.send(frames.PAUSE, b"nobody %d" % number)
            for _ in range(1000):
                link.send("slow", bytes(KIB))
            for _ in range(1000):
                peer.send(frames.PAUSE, b"slow")
                peer.send(frames.PAUSE, b"slow")
                peer.send(frames.RESUME, b"slow")
            got = 0
            while got < 1000:
                kind, _ = await peer.frame()
                got += kind == frames.MESSAGE
            assert link.stats.queued_bytes == 0
            peer.send(frames.PAUSE, b"\xff")
            await until(lambda: link.closed)
            assert isinstance(link.error, Exception)


async def test_a_peer_of_an_older_version_meets_the_window() -> None:
    async with running(B, plaintext=True) as node:
        gate = Gate()
        node.handler("slow", concurrency=1, max_waiting=3)(gate.one)
        async with raw_peer(node) as peer:
            peer.writer.write(frames.endpoint(0, b"slow"))
            for number in range(1, 6):
                peer.writer.write(frames.call(0, number, b"x"))
            body = await peer.until(frames.ERROR)
            number, code, size = struct.unpack(">IHH", body[:8])
            assert (number, code, body[8 : 8 + size]) == (5, 1, b"Busy")
            peer.writer.write(frames.message(0, bytes(KIB)) * 1000)
            peer.send(frames.PING, bytes(8))
            await until(lambda: next(iter(node.links)).stats.messages_received == 1000)
            await asyncio.sleep(0.05)  # longer than it takes to find out
            peer.send(frames.PING, bytes(8))
            for _ in range(2):
                kind, _ = await peer.frame()
                assert kind == frames.PONG
        gate.opened.set()


# --- the sender -----------------------------------------------------------------------


async def full(a: Node, gate: Gate, count: int = 3000) -> list[bytes]:
    """Send so much to "slow" that it is paused, and wait for that."""
    link = await a.connect(B)
    sent = payloads(count, KIB)
    for each in sent:
        link.send("slow", each)
    await echoes(a)
    assert link.stats.queued_bytes > 0
    return sent


async def test_a_call_that_is_held_back_and_times_out_never_begins() -> None:
    async with both() as (a, b, gate):
        sent = await full(a, gate)
        link = await a.connect(B)
        queued = link.stats.queued_bytes
        with pytest.raises(CallTimeout):
            await link.call("slow", bytes(100 * KIB), timeout=0.01)
        assert link.stats.queued_bytes == queued
        gate.opened.set()
        await until(lambda: len(gate.got) == len(sent))
        await echoes(a)
        assert gate.got == sent
        assert b.links[0].stats.calls_received == 6


async def test_what_is_held_back_fills_the_queue() -> None:
    async with both(max_queued=4 * MIB) as (a, _, gate):
        await full(a, gate)
        link = await a.connect(B)
        with pytest.raises(SendQueueFull):
            link.send("slow", bytes(3 * MIB))
        draining = asyncio.create_task(link.drain())
        await asyncio.sleep(0)
        assert not draining.done()
        gate.opened.set()
        await asyncio.wait_for(draining, WAIT_SECONDS)


async def test_guarantee_8_a_link_that_is_closed_delivers_what_was_held_back() -> None:
    async with both() as (a, _, gate):
        sent = await full(a, gate)
        link = await a.connect(B)
        closing = asyncio.create_task(link.close(WAIT_SECONDS))
        await asyncio.sleep(0)
        assert not closing.done()
        gate.opened.set()
        await closing
        assert gate.got == sent


async def test_guarantee_8_the_receiver_closes_and_gets_what_was_held_back() -> None:
    async with both() as (a, b, gate):
        sent = await full(a, gate)
        closing = asyncio.create_task(b.links[0].close(WAIT_SECONDS))
        await asyncio.sleep(0)
        gate.opened.set()
        await closing
        assert gate.got == sent


@pytest.mark.parametrize("plaintext", [True, False])
async def test_guarantee_8_what_crosses_a_goodbye_is_handled(plaintext: bool) -> None:
    """Messages that wait for a handler when both sides have said goodbye."""
    async with both(plaintext=plaintext) as (a, b, gate):
        link = await a.connect(B)
        await echoes(a)
        closing = asyncio.create_task(b.links[0].close(WAIT_SECONDS))
        # The other side says goodbye at once, and these messages cross it.
        await asyncio.sleep(0)
        sent = payloads(10, KIB)
        for each in sent:
            link.send("slow", each)
        await until(lambda: link.error is not None)
        await until(lambda: len(gate.got) == 2)
        assert not closing.done()
        assert type(link.error) is LinkClosed
        gate.opened.set()
        await closing
        assert gate.got == sent


async def test_guarantee_8_a_replaced_link_delivers_what_was_held_back() -> None:
    async with both() as (a, b, gate):
        sent = await full(a, gate)
        old = await a.connect(B)
        replacing = asyncio.create_task(a.reconnect(B))
        await until(lambda: a._links.find(B) is not old)
        link = await a.connect(B)
        link.send("slow", b"last")
        gate.opened.set()
        await until(lambda: len(gate.got) == len(sent) + 1)
        assert gate.got == [*sent, b"last"]
        await echoes(a)
        await replacing
        await until(lambda: len(tuple(a._links)) == len(tuple(b._links)) == 1)


async def test_a_link_that_is_lost_counts_what_was_held_back() -> None:
    async with both() as (a, _, gate):
        await full(a, gate)
        link = await a.connect(B)
        (protocol,) = a._links
        waiting = asyncio.create_task(link.call("slow", b"call"))
        await asyncio.sleep(0)
        protocol.abort()
        with pytest.raises(LinkLost):
            await waiting
        assert protocol.undelivered is not None
        assert protocol.undelivered.messages > 1000
        assert a.queued_bytes == 0


async def test_calls_of_handlers_pass_a_pause() -> None:
    """The endpoint waits for a call that waits behind its own messages."""
    async with both() as (a, b, _):
        opened = asyncio.Event()

        async def deep(message: Message) -> bytes:
            if message.payload == b"inner":
                return b"done"
            await opened.wait()
            return await b.call(A, "back", b"", timeout=WAIT_SECONDS)

        async def back(_: Message) -> bytes:
            return await a.call(B, "deep", b"inner", timeout=WAIT_SECONDS)

        b.handler("deep", concurrency=1)(deep)
        a.handler("back")(back)
        link = await a.connect(B)
        payload = bytes(KIB)
        calls = [asyncio.create_task(link.call("deep", payload)) for _ in range(2000)]
        await asyncio.sleep(0)
        await echoes(a)
        opened.set()
        assert set(await asyncio.gather(*calls)) == {b"done"}


# --- refusing -------------------------------------------------------------------------


async def test_calls_beyond_max_waiting_are_refused_at_once() -> None:
    async with both() as (a, b, gate):
        b.handler("few", concurrency=2, max_waiting=3)(gate.one)
        link = await a.connect(B)
        calls = [asyncio.create_task(link.call("few", b"%d" % n)) for n in range(10)]
        refused = await asyncio.gather(*calls[5:], return_exceptions=True)
        for each in refused:
            assert isinstance(each, Busy)
            assert each.begun == "no"
            assert each.code == "resource_exhausted"
            assert "3 messages and calls wait at endpoint 'few'" in str(each)
        with pytest.raises(Busy):
            await link.send_confirmed("few", b"", timeout=WAIT_SECONDS)
        # A message that nobody waits for is not refused.
        link.send("few", b"message")
        assert b.links[0].stats.calls_refused == 6
        gate.opened.set()
        assert await asyncio.gather(*calls[:5]) == [b"%d" % n for n in range(5)]
        await until(lambda: gate.got[-1] == b"message")


async def test_max_waiting_0_lets_no_call_wait() -> None:
    async with both() as (a, b, gate):
        b.handler("none", concurrency=1, max_waiting=0)(gate.one)
        link = await a.connect(B)
        first = asyncio.create_task(link.call("none", b"first"))
        await until(lambda: gate.got)
        with pytest.raises(Busy):
            await link.call("none", b"second", timeout=WAIT_SECONDS)
        gate.opened.set()
        assert await first == b"first"
        assert await link.call("none", b"third", timeout=WAIT_SECONDS) == b"third"


async def test_calls_that_were_given_up_do_not_count_as_waiting() -> None:
    async with both() as (a, b, gate):
        b.handler("few", concurrency=1, max_waiting=2)(gate.one)
        link = await a.connect(B)
        first = asyncio.create_task(link.call("few", b"first"))
        await until(lambda: gate.got)
        for _ in range(5):
            calls = [asyncio.create_task(link.call("few", b"")) for _ in range(2)]
            await asyncio.sleep(0)
            await link.ping()
            assert not any(each.done() for each in calls)
            await cancel(calls)
            await link.ping()
        gate.opened.set()
        assert await first == b"first"
        await until(lambda: not b._endpoints.unfinished())


async def test_links_that_end_do_not_count_as_waiting() -> None:
    async with both() as (a, b, gate):
        b.handler("few", concurrency=1, max_waiting=2)(gate.one)
        for _ in range(3):
            link = await a.connect(B)
            calls = [asyncio.create_task(link.call("few", b"")) for _ in range(3)]
            await asyncio.sleep(0)
            await link.ping()
            (protocol,) = a._links
            protocol.abort()
            await asyncio.gather(*calls, return_exceptions=True)
            await until(lambda: not b.links)
        gate.opened.set()
        await until(lambda: not b._endpoints.unfinished())


@pytest.mark.parametrize("wrong", [-1, 1.5, "2", True, 1 << 40])
async def test_a_max_waiting_that_cannot_be(wrong: object) -> None:
    async with running(B, plaintext=True) as node:
        with pytest.raises(ConfigError, match="max_waiting"):
            node.handler("e", concurrency=1, max_waiting=wrong)(Gate().one)  # type: ignore[call-overload]
        with pytest.raises(ConfigError, match="max_waiting"):
            NodeOptions(max_waiting=wrong)  # type: ignore[arg-type]


async def test_max_waiting_needs_a_bound() -> None:
    async with running(B, plaintext=True) as node:
        with pytest.raises(ConfigError, match="never wait"):
            node.handler("e", max_waiting=1)(Gate().one)


@asynccontextmanager
async def limited(**options: Any) -> AsyncIterator[tuple[Node, Node]]:
    """alpha, and a beta with these options."""
    plain: dict[str, Any] = {"plaintext": True}
    async with pair(plain, plain | {"node_options": options}) as (a, b):
        yield a, b


async def test_the_limit_of_a_node_is_for_all_its_endpoints() -> None:
    async with limited(max_waiting=4) as (a, b):
        gate = Gate()
        gate.put(b, "bounded", "one")
        gate.put(b, "bounded", "two")
        b.handler("echo")(lambda m: m.payload)
        link = await a.connect(B)
        calls = [
            asyncio.create_task(link.call(name, b""))
            for _ in range(6)
            for name in ("one", "two")
        ]
        refused = await asyncio.gather(*calls[8:], return_exceptions=True)
        assert {type(each) for each in refused} == {Busy}
        # An endpoint where nothing has to wait takes calls.
        assert await link.call("echo", b"x", timeout=WAIT_SECONDS) == b"x"
        gate.opened.set()
        assert await asyncio.gather(*calls[:8]) == [b""] * 8
        await until(lambda: not b._endpoints.unfinished())


async def test_calls_are_refused_while_the_loop_is_late() -> None:
    async with limited(shed_above=0.05) as (a, b):
        handled = []

        @b.handler("echo")
        def echo(message: Message) -> bytes:
            handled.append(message.payload)
            return message.payload

        link = await a.connect(B)
        assert await link.call("echo", b"before", timeout=WAIT_SECONDS) == b"before"
        # Both nodes are on this loop, which is late now.
        lag = b._lag
        assert lag is not None
        refused = asyncio.create_task(link.call("echo", b"late"))
        message = asyncio.create_task(link.send_confirmed("echo", b"late"))
        await asyncio.sleep(0)
        time.sleep(0.2)  # noqa: ASYNC251  what makes a loop late
        for each in (refused, message):
            with pytest.raises(Busy, match=r"more than 0\.05 s late"):
                await each
        link.send("echo", b"message")
        await until(lambda: lag.late < 0.05)
        assert await link.call("echo", b"after", timeout=WAIT_SECONDS) == b"after"
        assert handled == [b"before", b"message", b"after"]
        assert b.links[0].stats.calls_refused == 2


async def test_errors_of_an_old_peer_are_remote_errors() -> None:
    """A peer that says no more than the name."""
    async with running(B, plaintext=True) as node:
        async with raw_peer(node) as peer:
            (link,) = node.links
            call = asyncio.create_task(link.call("x", b"", timeout=WAIT_SECONDS))
            body = await peer.until(frames.CALL)
            error = body[:4] + struct.pack(">HH", 1, 4) + b"Busyfull"
            peer.send(frames.ERROR, error)
            with pytest.raises(RemoteError, match="full"):
                await call
