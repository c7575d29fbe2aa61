"""Limits for handshakes: valid peers connect while others flood the acceptor."""

from __future__ import annotations

import asyncio
import logging
import socket
import statistics
import sys
import time
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest

from fastnode import AcceptorOptions, Link, Node, Refusal, Route, TooManyConnections
from fastnode.errors import Side
from fastnode.limits import HANDSHAKE_PATIENCE_SECONDS
from helpers.nodes import WAIT_SECONDS, A, B, introduce, pair, running, until
from helpers.strangers import Crowd, client_hello, many_descriptors

FLOOD = 2000
#: A valid peer's connect takes no longer, whatever others do: seconds of time, not
#: counting those in which other processes had the processors, and of the processor.
SOON = 1.0
SLACK_SECONDS = 10.0
#: Of so many connects the median counts: a virtual machine may stand still.
CONNECTS = 3
#: On Linux all of 127.0.0.0/8 is ours.
ADDRESSES = sys.platform == "linux"
SCHEDULED = Path("/proc/thread-self/schedstat")


def kept_waiting() -> float:
    """Seconds in which this thread could have run, and others did; 0 where the system
    does not tell."""
    if not SCHEDULED.exists():
        return 0.0
    return int(SCHEDULED.read_text().split()[1]) / 1e9


async def connect_soon(node: Node, name: str) -> float:
    """Connect; the seconds that it took on a machine that does nothing else."""
    began, waited, used = time.monotonic(), kept_waiting(), time.process_time()
    async with asyncio.timeout(SOON + SLACK_SECONDS):
        await node.connect(name)
    assert time.process_time() - used < SOON
    return time.monotonic() - began - (kept_waiting() - waited)


@pytest.mark.parametrize("spread", [1, 100, FLOOD], ids="from_{}".format)
async def test_guarantee_9_a_valid_peer_gets_through_a_flood(spread: int) -> None:
    if spread > 1 and not ADDRESSES:
        pytest.skip("this system has one loopback address")
    hello = client_hello()

    def source(number: int) -> str:
        # One: that of the valid peer.
        n = number % spread
        return f"127.0.{n // 250}.{n % 250 + 1}"

    def says(number: int) -> bytes:
        return (b"", hello[:1], hello[: len(hello) // 2])[number % 3]

    def drips(number: int) -> bytes:
        return hello[1:] if number % 3 == 1 else b""

    with many_descriptors(8192):
        # Nothing but who comes makes room: no deadline thins out the crowd.
        patient = {"handshake_timeout": 10 * WAIT_SECONDS}
        # Fewer may be pending than come.
        few = [AcceptorOptions(port=0, max_pending=FLOOD // 2)]
        async with (
            running(B, acceptors=few, **patient) as b,
            running(A, listens=False) as a,
        ):
            introduce(a, b)
            crowd = Crowd(
                b.acceptors[0].address, FLOOD, source=source, says=says, drips=drips
            )
            async with crowd:
                stats = b.acceptors[0].stats
                took = []
                for number in range(CONNECTS):
                    took.append(await connect_soon(a, B))
                    await until(lambda: stats.connections > FLOOD + number)  # noqa: B023
                    # As many as may wait do so; the others are refused, and counted.
                    assert FLOOD // 4 < stats.refused["TooManyHandshakes"] < FLOOD
                    assert not stats.failed
                    await a.links[0].close()
                    await until(lambda: not a.links and not b.links)
                assert statistics.median(took) < SOON, took


async def test_handshakes_that_stall_make_room(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    hello = client_hello()
    refusals: list[Refusal] = []
    few = [AcceptorOptions(port=0, max_handshakes_per_address=4, max_handshakes=8)]
    async with pair(second={"acceptors": few, "on_refused": refusals.append}) as (a, b):
        async with Crowd(b.acceptors[0].address, 4, says=lambda n: hello):
            # Each has a whole ClientHello, is answered, and says no more.
            await until(lambda: b.acceptors[0].stats.connections == 4)
            assert await connect_soon(a, B) < HANDSHAKE_PATIENCE_SECONDS + SOON
        assert [type(r.error).__name__ for r in refusals][:1] == ["TooManyHandshakes"]
        assert "max_handshakes_per_address" in str(refusals[0])
        assert "TooManyHandshakes" in caplog.text
        assert b.acceptors[0].stats.refused["TooManyHandshakes"] == 1


@pytest.mark.skipif(not ADDRESSES, reason="needs many loopback addresses")
async def test_one_address_cannot_take_all_handshakes() -> None:
    hello = client_hello()
    few = [AcceptorOptions(port=0, max_handshakes_per_address=4, max_handshakes=8)]
    async with pair(second={"acceptors": few}) as (a, b):
        crowd = Crowd(
            b.acceptors[0].address, 20, says=lambda n: hello,
            source=lambda n: "127.0.0.2",
        )  # fmt: skip
        async with crowd:
            await until(lambda: b.acceptors[0].stats.connections == 20)
            assert await connect_soon(a, B) < SOON
            assert b.acceptors[0].stats.refused["TooManyHandshakes"] == 0


async def test_more_peers_than_handshakes_at_once() -> None:
    """A herd of good peers from one address: all get in, nobody makes room."""
    few = [AcceptorOptions(port=0, max_handshakes_per_address=2, max_handshakes=3)]
    async with running(B, acceptors=few) as b:
        nodes = []
        try:
            for number in range(20):
                name = f"n{number}@127.0.0.1"
                node = running(name, listens=False)
                nodes.append((node, await node.__aenter__()))
                introduce(nodes[-1][1], b)
            await asyncio.gather(*(node.connect(B) for _, node in nodes))
            await until(lambda: len(b.links) == 20)
            assert not b.acceptors[0].stats.refused
            assert not b.acceptors[0].stats.failed
        finally:
            for manager, _ in nodes:
                await manager.__aexit__(None, None, None)


@pytest.mark.parametrize("plaintext", [False, True])
async def test_a_herd_for_which_there_is_no_room(
    plaintext: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each peer comes up, or is told when to try again; those that do come up."""
    monkeypatch.setattr(TooManyConnections, "retry_after", 0.05)
    few = [AcceptorOptions(port=0, max_pending=3, max_handshakes=1)]
    async with (
        running(B, acceptors=few, plaintext=plaintext) as b,
        AsyncExitStack() as stack,
    ):
        nodes = []
        for number in range(12):
            name = f"n{number}@127.0.0.1"
            node = running(name, listens=False, plaintext=plaintext)
            nodes.append(await stack.enter_async_context(node))
            introduce(nodes[-1], b)
        outcomes = await asyncio.gather(
            *(node.connect(B) for node in nodes), return_exceptions=True
        )
        refused = [each for each in outcomes if not isinstance(each, Link)]
        assert refused
        for error in refused:
            assert isinstance(error, TooManyConnections), error
            assert error.side is Side.REMOTE
            assert "try again in " in str(error)
        assert b.acceptors[0].stats.refused == {"TooManyHandshakes": len(refused)}
        for each in nodes:
            each.keep_connected(B)
        await until(lambda: len(b.links) == len(nodes))


@pytest.mark.parametrize("words", ["nothing", "half", "whole"])
async def test_the_deadline_is_for_all_of_the_handshake(words: str) -> None:
    """From accept on, whatever trickles in."""
    hello = client_hello()
    said = {"nothing": b"", "half": hello[:50], "whole": hello}[words]
    # Then the rest; or a record of 16 KiB that never comes whole.
    rest = hello[len(said) :] or b"\x17\x03\x03\x40\x00" + bytes(1000)
    pause = 0.05
    async with running(B, handshake_timeout=0.5) as b:
        loop = asyncio.get_running_loop()
        address = b.acceptors[0].address
        began = loop.time()
        with socket.create_connection(address) as sock:
            sock.setblocking(False)
            stats = b.acceptors[0].stats

            async def trickle() -> None:
                with suppress(OSError):  # it was ended
                    sock.send(said)
                    for at in range(len(rest)):
                        sock.send(rest[at : at + 1])
                        await asyncio.sleep(pause)

            task = asyncio.ensure_future(trickle())
            await until(lambda: sum((stats.failed + stats.refused).values()) == 1)
            took = loop.time() - began
            task.cancel()
            await asyncio.wait([task])
        assert stats.failed["HandshakeTimeout"] == 1
        assert 0.45 < took < pause * len(rest)


async def test_the_dialer_s_deadline_includes_the_tcp_connection() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=16) as silent:
        async with running(A, handshake_timeout=0.3, listens=False) as a:
            a.add_route(Route("beta", *silent.getsockname()))
            loop = asyncio.get_running_loop()
            began = loop.time()
            with pytest.raises(TimeoutError):
                await a.connect(B)
            assert 0.25 < loop.time() - began < WAIT_SECONDS


async def test_a_connection_that_ends_before_it_says_anything() -> None:
    async with running(B) as b:
        for said in (b"", b"\x16\x03\x01", client_hello()[:40]):
            with socket.create_connection(b.acceptors[0].address) as sock:
                sock.sendall(said)
        stats = b.acceptors[0].stats
        await until(lambda: sum(stats.failed.values()) == 3)
        assert not stats.refused
        assert not stats.links


async def test_stopping_drops_who_waits() -> None:
    async with running(B) as b:
        sockets = [socket.create_connection(b.acceptors[0].address) for _ in range(5)]
        await until(lambda: b.acceptors[0].stats.connections == 5)
        await b.stop()
        for sock in sockets:
            with sock:
                sock.settimeout(5)
                assert sock.recv(1) == b""
