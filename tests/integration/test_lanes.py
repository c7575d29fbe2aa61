"""Large messages, small ones, high priority, and handlers that call each other."""

from __future__ import annotations

import asyncio
import gc
import os
import struct
from pathlib import Path
from typing import Any

import pytest

from fastnode import ConfigError, LinkClosed, Message, Node, ProtocolError
from fastnode.limits import BULK_GRANTS, BULK_WINDOW_BYTES
from helpers import frames
from helpers.nodes import WAIT_SECONDS, A, B, pair, running, until
from helpers.raw import raw_peer

KIB, MIB = 1 << 10, 1 << 20
SMALL: dict[str, Any] = {"window": 128 * KIB}


async def test_large_and_small_messages_keep_their_order_per_endpoint() -> None:
    async with pair({}, SMALL) as (a, b):
        got: dict[str, list[bytes]] = {"e0": [], "e1": []}
        for name in got:
            b.handler(name)(lambda m: got[m.endpoint].append(m.payload))
        link = await a.connect(B)
        sent: dict[str, list[bytes]] = {"e0": [], "e1": []}
        for number in range(200):
            size = (3, 2000, 40_000, 200_000)[number % 7 % 4]
            payload = number.to_bytes(4) + bytes(size)
            name = f"e{number % 3 % 2}"
            link.send(name, payload)
            sent[name].append(payload)
        await until(lambda: all(len(got[name]) == len(sent[name]) for name in got))
        assert got == sent


async def test_small_ones_pass_a_large_one() -> None:
    async with pair({}, SMALL) as (a, b):
        got: list[str] = []
        b.handler("bulk")(lambda m: got.append("bulk"))
        b.handler("echo")(lambda m: m.payload)
        link = await a.connect(B)
        link.send("bulk", bytes(60 * MIB))
        # A large message takes 120 windows; each of these some turns of the same loop.
        for number in range(8):
            await link.ping()
            assert await link.call("echo", b"%d" % number) == b"%d" % number
        assert got == []
        assert link.stats.queued_bytes > 30 * MIB
        await until(lambda: got)


async def test_high_priority_overtakes_what_is_queued() -> None:
    async with pair({}, SMALL) as (a, b):
        go = asyncio.Event()
        got: list[bytes] = []

        @b.handler("slow")
        async def slow(message: Message) -> None:
            await go.wait()

        b.handler("note")(lambda m: got.append(m.payload))
        b.handler("echo")(lambda m: m.payload)
        link = await a.connect(B)
        for _ in range(1000):
            link.send("slow", bytes(KIB))
        link.send("note", b"normal")
        for number in range(5):
            link.send("note", b"high %d" % number, priority="high")
        reply = await link.call("echo", b"x", priority="high", timeout=WAIT_SECONDS)
        await a.send(
            B, "note", b"last", priority="high", confirm=True, timeout=WAIT_SECONDS
        )
        assert (
            await a.call(B, "echo", b"y", priority="high", timeout=WAIT_SECONDS) == b"y"
        )
        assert reply == b"x"
        assert got == [*(b"high %d" % number for number in range(5)), b"last"]
        for wrong in ("low", 1, b"high"):
            with pytest.raises(ConfigError, match="priority"):
                link.send("note", b"", priority=wrong)  # type: ignore[arg-type]
        go.set()
        await until(lambda: got[-1] == b"normal")


async def test_all_lanes_are_handed_over() -> None:
    async with pair({}, SMALL) as (a, b):
        got: dict[str, list[int]] = {"small": [], "large": [], "high": []}

        @b.handler("small")
        async def small(message: Message) -> None:
            got["small"].append(int.from_bytes(message.payload[:4]))

        b.handler("large")(lambda m: got["large"].append(int.from_bytes(m.payload[:4])))
        b.handler("high")(lambda m: got["high"].append(int.from_bytes(m.payload[:4])))
        await a.connect(B)
        count = 300
        for number in range(count):
            key = number.to_bytes(4)
            await a.send(B, "small", key)
            await a.send(B, "large", key + bytes(100_000 if number % 2 else 10))
            await a.send(B, "high", key + bytes(70_000), priority="high")
            if number % 100 == 50:
                await a.reconnect(B, timeout=WAIT_SECONDS)
        await until(lambda: all(len(each) == count for each in got.values()))
        assert all(each == list(range(count)) for each in got.values())


async def test_close_delivers_all_lanes() -> None:
    async with pair({}, SMALL) as (a, b):
        got: list[int] = []
        b.handler("e")(lambda m: got.append(len(m.payload)))
        link = await a.connect(B)
        for _ in range(20):
            link.send("e", bytes(200_000))
            link.send("e", bytes(10))
            link.send("e", bytes(5), priority="high")
        await link.close(timeout=WAIT_SECONDS)
        assert type(link.error) is LinkClosed
        assert sorted(got) == [5] * 20 + [10] * 20 + [200_000] * 20


def calls_down(node: Node, other: str, **options: Any) -> None:
    """A handler that calls the other node's, so many times deep."""

    @node.handler("down", **options)
    async def down(message: Message) -> bytes:
        left = int(message.payload[:4])
        if left == 0:
            return b"ground"
        payload = b"%04d" % (left - 1) + message.payload[4:]
        return await node.call(other, "down", payload)


@pytest.mark.parametrize("concurrency", [None, 1, 3])
@pytest.mark.parametrize("size", [0, 20_000, 100_000])
async def test_nodes_that_call_each_other_never_deadlock(
    concurrency: int | None, size: int
) -> None:
    async with pair(SMALL, SMALL) as (a, b):
        calls_down(a, B, concurrency=concurrency)
        calls_down(b, A, concurrency=concurrency)
        count, depth = (60, 12) if size < 100_000 else (20, 6)
        payload = b"%04d" % depth + bytes(size)
        calls = [a.call(B, "down", payload, timeout=WAIT_SECONDS) for _ in range(count)]
        calls += [
            b.call(A, "down", payload, timeout=WAIT_SECONDS) for _ in range(count)
        ]
        assert set(await asyncio.gather(*calls)) == {b"ground"}


async def test_floods_of_messages_whose_handlers_call_back() -> None:
    async with pair(SMALL, SMALL) as (a, b):
        done = [0]

        def serve(node: Node, other: str) -> None:
            @node.handler("work", concurrency=1)
            async def work(message: Message) -> None:
                await node.call(other, "leaf", message.payload)
                done[0] += 1

            @node.handler("leaf", concurrency=1)
            async def leaf(message: Message) -> bytes:
                await asyncio.sleep(0)
                return message.payload

        serve(a, B)
        serve(b, A)
        link = await a.connect(B)
        await until(lambda: b.links)
        (back,) = b.links
        for _ in range(500):
            link.send("work", bytes(2 * KIB))
            back.send("work", bytes(2 * KIB))
        await until(lambda: done[0] == 1000)


def resident() -> int:
    """Bytes of this process that are in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def test_guarantee_9_announcing_takes_no_memory() -> None:
    total = 1 << 30
    async with (
        running(B, plaintext=True, max_message_size=total) as node,
        raw_peer(node) as peer,
    ):
        gc.collect()
        before = resident()
        for lane in (frames.DATA, frames.HIGH, frames.BULK, frames.INNER):
            peer.writer.write(
                frames.endpoint(0, b"e", lane)
                + frames.frame(
                    frames.MESSAGE,
                    total.to_bytes(8) + bytes(1000),
                    flags=frames.MORE | lane << 1,
                )
            )
        peer.writer.write(frames.frame(frames.PING, bytes(8)))
        kind, *_ = await peer.whole_frame()
        assert kind == frames.PONG
        assert resident() - before < 8 * MIB


class Parts:
    """A message of `total` bytes in one lane, sent part by part, within its credit."""

    def __init__(self, lane: int, total: int, credit: int) -> None:
        self.lane = lane
        self.total = total
        self.credit = credit
        self.sent = 0

    def next(self, size: int) -> bytes:
        size = min(size, self.total - self.sent)
        more = frames.MORE if self.sent + size < self.total else 0
        if self.sent == 0:
            flags = frames.MORE | self.lane << 1
            body = self.total.to_bytes(8) + bytes(size)
            data = frames.frame(frames.MESSAGE, body, flags=flags)
        else:
            data = frames.frame(
                frames.CONTINUE, bytes(size), flags=more, number=self.lane
            )
        self.sent += size
        self.credit -= len(data)
        return data


async def test_guarantee_9_incomplete_messages_have_a_ceiling() -> None:
    """Whoever keeps to its windows fills all lanes evenly: all becomes complete, and
    never is much more incomplete than one message may have."""
    total, window = 2 * MIB, 128 * KIB
    windows = {"window": window, "max_window": window}
    async with (
        running(B, plaintext=True, max_message_size=total, **windows) as node,
        raw_peer(node) as peer,
    ):
        got: list[int] = []
        node.handler("e")(lambda m: got.append(len(m.payload)))
        lanes = (frames.DATA, frames.HIGH, frames.BULK)
        parts = {lane: Parts(lane, total, window) for lane in lanes}
        for lane in lanes:
            peer.writer.write(frames.endpoint(0, b"e", lane))
            parts[lane].credit -= 9
        peak = 0
        while open_parts := [each for each in parts.values() if each.sent < total]:
            ready = [each for each in open_parts if each.credit > 0]
            for each in ready:
                peer.writer.write(each.next(16 * KIB))
            if not ready:
                peak = max(peak, sum(each.sent for each in open_parts))
                kind, _, lane, body = await peer.whole_frame()
                if kind == frames.CREDIT:
                    parts[lane].credit += int.from_bytes(body)
        await until(lambda: got == [total] * 3)
        assert total < peak <= total * 5 // 3 + 2 * (window + 64 * KIB)


async def test_large_messages_of_all_kinds_at_once() -> None:
    small = {**SMALL, "max_message_size": MIB}
    async with pair(small, small) as (a, b):
        got: list[int] = []
        b.handler("e")(lambda m: got.append(len(m.payload)))
        b.handler("echo")(lambda m: m.payload)
        link = await a.connect(B)
        for number in range(10):
            link.send("e", bytes(MIB - number))
            link.send("e", bytes(MIB - number), priority="high")
        calls = [link.call("echo", bytes(MIB)) for _ in range(10)]
        calls += [link.call("echo", bytes(MIB), priority="high") for _ in range(10)]
        async with asyncio.timeout(WAIT_SECONDS):
            assert await asyncio.gather(*calls) == [bytes(MIB)] * 20
        await until(lambda: len(got) == 20)


HOSTILE = {
    "a number of another lane": frames.endpoint(0, b"e", frames.HIGH)
    + frames.message(0, b"x"),
    "credit for control": frames.frame(frames.CREDIT, bytes(4), number=frames.CONTROL),
    "credit for lane 5": frames.frame(frames.CREDIT, bytes(4), number=5),
    "credit without end": frames.frame(
        frames.CREDIT, b"\x3f\xff\xff\xff", number=frames.BULK
    )
    * 2,
    "more than the bulk lane's window": frames.endpoint(0, b"slow", frames.BULK)
    + frames.message(0, bytes(60_000), frames.BULK) * 10,
}


@pytest.mark.parametrize("what", HOSTILE)
async def test_guarantee_10_lanes_that_break_the_rules(what: str) -> None:
    async with running(B, plaintext=True, window=128 * KIB) as node:
        go = asyncio.Event()

        @node.handler("slow")
        async def slow(message: Message) -> None:
            await go.wait()

        async with raw_peer(node) as peer:
            (link,) = node.links
            peer.writer.write(HOSTILE[what])
            await until(lambda: link.error)
            assert isinstance(link.error, ProtocolError)
        go.set()


async def test_large_messages_are_granted_in_quarters() -> None:
    # What is under way in the bulk lane is what a ping waits for, so that window is
    # small, and granted again before the sender has used it up.
    async with running(B, plaintext=True) as node, raw_peer(node) as peer:
        node.handler("large")(lambda message: None)
        quarter = BULK_WINDOW_BYTES // BULK_GRANTS
        large = frames.endpoint(0, b"large", frames.BULK) + frames.message(
            0, bytes(4 * BULK_WINDOW_BYTES), frames.BULK
        )
        peer.writer.write(large)
        granted = grants = 0
        while len(large) - granted >= quarter:
            kind, _, lane, body = await peer.whole_frame()
            if kind == frames.PING:  # how long a round trip takes
                continue
            assert (kind, lane) == (frames.CREDIT, frames.BULK)
            (credit,) = struct.unpack(">I", body)
            assert quarter <= credit <= BULK_WINDOW_BYTES
            granted += credit
            grants += 1
        assert granted <= len(large)
        assert grants > 4 * BULK_GRANTS // 2


async def test_windows_that_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    # As if the way were long.
    def doubled(
        window: int, taken: int, elapsed: float, round_trip: float, ceiling: int
    ) -> int:
        assert 0 < taken <= window + 128 * KIB
        assert elapsed >= 0
        assert round_trip > 0
        return min(2 * window, ceiling)

    monkeypatch.setattr("fastnode.dispatch.windows.next_window", doubled)
    async with pair({}, {"window": 128 * KIB, "max_window": MIB}) as (a, b):
        got: dict[str, int] = {"small": 0, "large": 0}

        def count(message: Message) -> None:
            got[message.endpoint] += len(message.payload)

        for name in got:
            b.handler(name)(count)
        link = await a.connect(B)
        assert link.stats.credit_bytes == 128 * KIB
        sent = dict.fromkeys(got, 0)
        most = 0
        while most <= MIB // 2:
            for name, size in (("small", 10 * KIB), ("large", 100 * KIB)):
                await a.send(B, name, bytes(size))
                sent[name] += size
            await link.ping()
            most = max(most, link.stats.credit_bytes)
        await until(lambda: got == sent)
        assert link.stats.credit_bytes <= MIB
