"""Two nodes in two processes: this one, and a child."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from fastnode import LinkLost, Message, Node, Side
from helpers.child import Child, manager_of, write_certificates
from helpers.nodes import WAIT_SECONDS, A, B, all_at_once, running, until
from helpers.traffic import SEQUENCE_BYTES, Traffic

#: Messages between two drains.
BURST = 500
#: Keepalives never tell of a loss here: what is told at once is told by the kernel.
QUIET: dict[str, Any] = {"keepalive_interval": 60.0}
#: "At once", on a machine that is busy.
AT_ONCE_SECONDS = 40.0
#: A million messages, on such a machine.
MILLION_SECONDS = 240.0


@asynccontextmanager
async def node_and_child(tmp_path: Path) -> AsyncIterator[tuple[Node, Child]]:
    """alpha in this process, beta in a child; both know where the other is."""
    write_certificates(tmp_path, A, B)
    async with (
        running(A, manager=manager_of(tmp_path, A), **QUIET) as a,
        Child(tmp_path, B) as b,
    ):
        b.introduce_to(a)
        yield a, b


class Receiver:
    """Counts and sums up what comes."""

    def __init__(self) -> None:
        self.received = self.wrong = self.checksum = 0

    def take(self, message: Message) -> None:
        self.wrong += int.from_bytes(message.payload[:SEQUENCE_BYTES]) != self.received
        self.received += 1
        self.checksum = zlib.crc32(message.payload, self.checksum)


@pytest.mark.timeout(MILLION_SECONDS + 60)
async def test_guarantee_8_a_million_messages_in_order_and_unchanged(
    tmp_path: Path,
) -> None:
    async with node_and_child(tmp_path) as (a, _b):
        link = await a.connect(B)
        traffic = Traffic()
        async with asyncio.timeout(MILLION_SECONDS):
            while traffic.made < 1_000_000:
                for _ in range(BURST):
                    link.send("numbered", traffic.next())
                await link.drain()
            # A call comes after the messages before it.
            found = json.loads(await link.call("numbers", b""))
        assert found == [1_000_000, 0, traffic.checksum]


async def test_calls_both_ways_at_once_between_processes(tmp_path: Path) -> None:
    async with node_and_child(tmp_path) as (a, b):
        count = 200
        waiting = 0
        all_there = asyncio.Event()

        # Neither side answers before it was called by all: they are all under way.
        @a.handler("meet")
        async def meet(message: Message) -> bytes:
            nonlocal waiting
            waiting += 1
            if waiting == count:
                all_there.set()
            await all_there.wait()
            return message.payload * 2

        await a.connect(B)
        b.tell("meet", peer=A, address=a.acceptors[0].address, count=count)
        payloads = [b"%d %d" % (count, number) for number in range(count)]
        async with asyncio.timeout(WAIT_SECONDS):
            replies = await asyncio.gather(*(a.call(B, "meet", p) for p in payloads))
            assert await b.said() == {"right": count, "links": 1}
        assert replies == [p * 2 for p in payloads]
        assert len(a.links) == 1


async def test_simultaneous_connects_of_two_processes_end_with_one_link(
    tmp_path: Path,
) -> None:
    async with node_and_child(tmp_path) as (a, b):
        for _ in range(20):
            b.tell("connect", peer=A, address=a.acceptors[0].address)
            async with asyncio.timeout(WAIT_SECONDS):
                link = await a.connect(B)
                there = await b.said()
            assert there == {"dialed": not link.dialed, "closed": False, "links": 1}
            assert a.links == (link,)
            assert await link.call("echo", b"x", timeout=WAIT_SECONDS) == b"x"
            assert not link.closed
            await link.close()


async def test_one_message_of_64_mib_between_processes(tmp_path: Path) -> None:
    async with node_and_child(tmp_path) as (a, _b):
        payload = os.urandom(1 << 20) * 63 + os.urandom(1 << 20)
        link = await a.connect(B)
        async with asyncio.timeout(WAIT_SECONDS):
            # Confirmed: a small call would pass it.
            await link.send_confirmed("keep", payload)
            assert await link.call("kept", b"") == hashlib.sha256(payload).digest()
            assert await link.call("turn", payload) == payload[::-1]


async def test_ten_thousand_names_between_processes(tmp_path: Path) -> None:
    async with node_and_child(tmp_path) as (a, _b):
        link = await a.connect(B)
        told = hashlib.sha256()
        # Ten times what the endpoint dictionary holds, twice over.
        names = [f"endpoint-{number}" for number in range(10_000)] * 2
        async with asyncio.timeout(WAIT_SECONDS):
            for number, name in enumerate(names):
                payload = b"%d" % number
                link.send(name, payload)
                told.update(name.encode() + b"\0" + payload)
                if number % BURST == 0:
                    await link.drain()
            heard, _, digest = (await link.call("names", b"")).partition(b" ")
        assert (int(heard), digest) == (len(names), told.digest())


# --- killed -------------------------------------------------------------------------


async def test_guarantee_8_a_peer_killed_in_mid_traffic_is_told_at_once(
    tmp_path: Path,
) -> None:
    async with node_and_child(tmp_path) as (a, b):
        link = await a.connect(B)
        calls = [asyncio.ensure_future(link.call("never", b"a call")) for _ in range(9)]
        for _ in calls:
            assert await b.said() == {"began": "a call"}
        # Nothing of this is finished there, so the window stays shut, and drain waits.
        for _ in range(4000):
            link.send("never", bytes(1024))
        drain = asyncio.ensure_future(link.drain())
        assert await b.said() == {"began": "\0" * 1024}
        assert not drain.done()

        await b.kill()
        async with asyncio.timeout(AT_ONCE_SECONDS):
            for waiting in (*calls, drain):
                with pytest.raises(LinkLost) as caught:
                    await waiting
                assert caught.value.side is Side.REMOTE
            await link.wait_closed()
        with pytest.raises(LinkLost):
            link.send("never", b"")
        assert a.links == ()

        # The node lives: it finds its peer again when that was started anew.
        async with Child(tmp_path, B) as again:
            again.introduce_to(a)
            assert await a.call(B, "echo", b"hello", timeout=WAIT_SECONDS) == b"hello"
            link = await a.connect(B)
            assert link.peer.instance == again.instance != b.instance


async def test_a_sender_killed_in_mid_traffic_ends_its_link_and_nothing_else(
    tmp_path: Path,
) -> None:
    async with node_and_child(tmp_path) as (a, b):
        receiver = Receiver()
        a.handler("numbered")(receiver.take)
        b.tell("flood", peer=A, address=a.acceptors[0].address)
        await until(lambda: receiver.received > 10_000)
        (link,) = a.links
        await b.kill()
        async with asyncio.timeout(AT_ONCE_SECONDS):
            await link.wait_closed()
        assert type(link.error) is LinkLost
        # What had come is whole and in order; half a message is none.
        assert receiver.wrong == 0
        traffic = Traffic()
        for _ in range(receiver.received):
            traffic.next()
        assert receiver.checksum == traffic.checksum

        async with Child(tmp_path, B) as again:
            again.introduce_to(a)
            assert await a.call(B, "echo", b"hello", timeout=WAIT_SECONDS) == b"hello"


# --- stopped ------------------------------------------------------------------------


@pytest.mark.timeout(120)
async def test_guarantee_8_a_process_that_stops_delivers_what_is_queued(
    tmp_path: Path,
) -> None:
    ways = ("SIGTERM", "SIGINT", "the end of its input")
    await all_at_once(stop_process, *((way, folder_of(tmp_path, way)) for way in ways))


def folder_of(parent: Path, name: str) -> Path:
    folder = parent / name
    folder.mkdir()
    return folder


async def stop_process(how: str, folder: Path) -> None:
    async with node_and_child(folder) as (a, b):
        gate = asyncio.Event()
        receiver = Receiver()

        @a.handler("numbered")
        async def numbered(message: Message) -> None:
            # Tasks of handlers begin in order; they may end in any.
            receiver.take(message)
            await gate.wait()

        count = 50_000
        address = a.acceptors[0].address
        sent = await b.ask("queue", peer=A, address=address, count=count)
        if how.startswith("SIG"):
            b.signal(signal.Signals[how])
        else:
            b.close_input()
        stopping = await b.said()
        # It was told to stop while there was more than the window takes.
        assert stopping["stopping"] > 1_000_000
        gate.set()
        await b.stop()
        await until(lambda: not a.links)
        assert (receiver.received, receiver.wrong) == (count, 0)
        assert receiver.checksum == sent["checksum"]
