"""One link, the same on both sides, whatever the network does with packets."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from typing import Any

import pytest

from fastnode import LinkClosed, LinkLost, Message, NoSuchEndpoint, Route, Undelivered
from helpers import lossy
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
from helpers.proxy import Proxy

needs_namespaces = pytest.mark.skipif(bool(lossy.missing()), reason=lossy.missing())
#: What a busy machine adds to a time.
SLACK_SECONDS = 15.0


def run(scenario: str, loop: str) -> dict[str, Any]:
    process = subprocess.run(
        [sys.executable, "-m", "helpers.lossy", scenario, loop],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sys.path))},
        capture_output=True,
        check=False,
        timeout=55,
    )
    assert process.returncode == 0, process.stderr.decode()
    found: dict[str, Any] = json.loads(process.stdout)
    return found


@needs_namespaces
def test_simultaneous_dials_where_a_tenth_of_the_packets_is_lost() -> None:
    assert run("simultaneous", "uvloop") == {
        "same": lossy.PAIRS,
        # Not one link that came and went.
        "events": ["up"],
        "count": 2 * lossy.PAIRS,
    }


@needs_namespaces
def test_a_side_that_lost_its_link_unheard_gets_another_in_time() -> None:
    found = run("one_way_reset", "asyncio")
    assert found["lost 0"]
    assert found["lost 1"]
    # The link of who dialed it is checked first; the other is known to be dead.
    assert found["seconds 0"] < SLACK_SECONDS
    assert found["seconds 1"] < 3.0 + 1.0 + SLACK_SECONDS


@needs_namespaces
def test_what_is_not_acknowledged_ends_the_link() -> None:
    found = run("unacknowledged", "asyncio")
    assert found["lost"]
    assert found["seconds"] < 1.5 + SLACK_SECONDS


# --- through a proxy ------------------------------------------------------------------


async def test_a_peer_dials_again_while_its_old_link_is_half_dead() -> None:
    await all_at_once(half_dead, ("up",), ("down",))


async def half_dead(way: str) -> None:
    options = {"keepalive_interval": 0.2}
    async with pair(options, {}) as (a, b), Proxy() as proxy:
        forget(a, B)
        await proxy.start(b.acceptors[0].address)
        proxy.up.delay = proxy.down.delay = 0.005
        a.add_route(Route("^beta@", *proxy.address))
        b.handler("e")(lambda m: m.payload)
        seen: set[object] = set()
        async with asyncio.timeout(WAIT_SECONDS):
            for _ in range(3):
                link = await a.connect(B)
                await until(lambda: len(b.links) == 1 and b.links[0] not in seen)
                seen.add(b.links[0])
                # The first of the two writers of a connection leads to who dialed.
                proxy.stall(proxy.writers[1 if way == "up" else 0 :: 2])
                while not link.closed:
                    await link.wait_closed()
                assert isinstance(link.error, LinkLost)
        assert await a.call(B, "e", b"x", timeout=WAIT_SECONDS) == b"x"
        assert len(a.links) == len(b.links) == 1


async def test_a_peer_that_restarts_within_the_keepalive_time() -> None:
    async with running(A, keepalive_interval=60.0) as a, Proxy() as proxy:
        b = await start(B, keepalive_interval=60.0)
        await proxy.start(b.acceptors[0].address)
        a.add_route(Route("^beta@", *proxy.address))
        a.handler("e")(lambda m: m.payload)
        for _ in range(3):
            link = await a.connect(B)
            call = asyncio.ensure_future(link.call("x", b""))
            # alpha hears nothing of its end.
            proxy.stall(proxy.writers)
            await b.stop(timeout=0.1)
            assert not link.closed
            b = await start(B, keepalive_interval=60.0)
            introduce(b, a)
            proxy.retarget(b.acceptors[0].address)
            # The new run dials: the old link makes way at once, for all who wait.
            assert await b.call(A, "e", b"x", timeout=WAIT_SECONDS) == b"x"
            await asyncio.wait([call], timeout=WAIT_SECONDS)
            assert isinstance(call.exception(), (LinkLost, NoSuchEndpoint))
            assert [each.peer.instance for each in a.links] == [b.instance]
            await b.links[0].close()
            await until(lambda: not a.links)
        await b.stop()


# --- the end of a node ----------------------------------------------------------------


async def test_stop_drains_both_directions() -> None:
    async with pair() as (a, b):
        got: dict[str, int] = {A: 0, B: 0}

        def count(message: Message) -> None:
            got[message.sender.name] += 1

        @a.handler("slow")
        async def slow(message: Message) -> bytes:
            await asyncio.sleep(0.1)
            return b"done"

        a.handler("e")(count)
        b.handler("e")(count)
        link = await a.connect(B)
        await until(lambda: b.links)
        call = asyncio.ensure_future(b.links[0].call("slow", b""))
        await asyncio.sleep(0)
        for _ in range(3000):
            link.send("e", bytes(1000))
            b.links[0].send("e", bytes(1000))
        assert await a.stop(timeout=WAIT_SECONDS) == ()
        assert got == {A: 3000, B: 3000}
        assert await call == b"done"


async def test_stop_says_what_was_not_delivered(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with pair() as (a, b):
        began = asyncio.Event()

        @b.handler("stuck")
        async def stuck(message: Message) -> bytes:
            began.set()
            await asyncio.Event().wait()
            raise AssertionError

        @a.handler("stuck")
        async def stuck_too(message: Message) -> None:
            await asyncio.Event().wait()

        link = await a.connect(B)
        await until(lambda: b.links)
        other = b.links[0]
        other.send("stuck", b"")
        await until(lambda: link.stats.messages_received == 1)
        calls = [asyncio.ensure_future(link.call("stuck", b"")) for _ in range(3)]
        await asyncio.sleep(0)
        for size in (1 << 20, *(1000,) * 2000, *(100_000,) * 5):
            link.send("stuck", bytes(size))
        await began.wait()
        (left,) = await a.stop(timeout=0.5)
        assert isinstance(left, Undelivered)
        assert (left.peer, left.calls, left.handlers) == (B, 3, 1)
        # Calls and messages are one queue.
        assert left.messages == 2006 - other.stats.messages_received
        assert left.bytes > left.messages * 1000
        assert str(left) in caplog.text
        assert await a.stop() == (left,)
        await asyncio.wait(calls)
        assert all(isinstance(call.exception(), LinkClosed) for call in calls)
        await b.stop(timeout=0.1)
