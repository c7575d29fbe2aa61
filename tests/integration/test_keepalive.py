"""Dead peers are found in time, living ones are left alone."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from fastnode import LinkLost, Node, Route
from helpers.child import Child, manager_of, write_certificates
from helpers.nodes import WAIT_SECONDS, A, B, all_at_once, forget, pair, running, until
from helpers.proxy import Proxy

#: What a busy machine adds to a time. The exact times: unit/link/test_keepalive.py.
SLACK_SECONDS = 15.0


def received(node: Node) -> int:
    return node.links[0].stats.bytes_received


async def behind_a_proxy(a: Node, b: Node, proxy: Proxy) -> None:
    forget(a, B)
    await proxy.start(b.acceptors[0].address)
    a.add_route(Route("^beta@", *proxy.address))


async def test_the_smaller_interval_finds_a_black_hole_on_both_sides() -> None:
    await all_at_once(
        black_hole,
        *product([(0.2, 60.0), (60.0, 0.2)], ["both", "up", "down"]),
    )


async def black_hole(intervals: tuple[float, float], way: str) -> None:
    first, second = intervals
    quick, slow = {"keepalive_interval": first}, {"keepalive_interval": second}
    async with pair(quick, slow) as (a, b), Proxy() as proxy:
        await behind_a_proxy(a, b, proxy)
        link = await a.connect(B)
        await until(lambda: b.links)
        other = b.links[0]
        began = asyncio.get_running_loop().time()
        proxy.up.black_hole = way != "down"
        proxy.down.black_hole = way != "up"
        async with asyncio.timeout(WAIT_SECONDS):
            await link.wait_closed()
            await other.wait_closed()
        # And the second of lingering.
        assert asyncio.get_running_loop().time() - began < 0.6 + 1.0 + SLACK_SECONDS
        assert type(link.error) is type(other.error) is LinkLost
        assert "nothing was heard" in f"{link.error} {other.error}"


async def test_an_idle_link_is_probed_and_lives() -> None:
    """That only idle ones are, and when: unit/link/test_keepalive.py."""
    options = {"keepalive_interval": 0.3}
    async with pair(options, options) as (a, _):
        link = await a.connect(B)
        for _ in range(3):
            heard = received(a)
            await until(lambda: received(a) > heard)  # noqa: B023
        assert not link.closed


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="Linux only")
async def test_the_kernel_gives_up_after_the_same_time() -> None:
    async with pair({"keepalive_interval": 2.0}) as (a, b):
        link = await a.connect(B)
        await until(lambda: b.links)
        assert user_timeouts() == [6000, 6000]
        await link.close()


def user_timeouts() -> list[int]:
    """Of the connections of this process, milliseconds."""
    descriptors = [int(path.name) for path in Path("/proc/self/fd").iterdir()]
    return [user_timeout(each) for each in descriptors if is_connected(each)]


def is_connected(descriptor: int) -> bool:
    try:
        with socket.socket(fileno=os.dup(descriptor)) as sock:
            return sock.family == socket.AF_INET and bool(sock.getpeername())
    except OSError:
        return False


def user_timeout(descriptor: int) -> int:
    with socket.socket(fileno=os.dup(descriptor)) as sock:
        return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)


async def test_a_loop_that_stood_still_judges_nobody() -> None:
    options = {"keepalive_interval": 0.2}
    async with pair(options, options) as (a, b):
        link = await a.connect(B)
        await until(lambda: b.links)
        # Longer than the silence after which a peer is dead; its answers wait in the
        # socket.
        for _ in range(2):
            time.sleep(0.9)  # noqa: ASYNC251
            assert await link.ping() < WAIT_SECONDS
        assert not link.closed
        assert not b.links[0].closed


@pytest.mark.skipif(sys.platform != "linux", reason="signals and /proc of Linux")
async def test_a_stopped_process_is_found_dead_and_comes_back(tmp_path: Path) -> None:
    write_certificates(tmp_path, A, B)
    quick: dict[str, Any] = {"keepalive_interval": 0.2, "handshake_timeout": 3.0}
    async with (
        running(A, manager=manager_of(tmp_path, A), **quick) as a,
        Child(tmp_path, B) as b,
    ):
        b.introduce_to(a)
        link = await a.connect(B)
        call = asyncio.ensure_future(link.call("never", b"x"))
        assert await b.said() == {"began": "x"}
        loop = asyncio.get_running_loop()
        began = loop.time()
        b.signal(signal.SIGSTOP)
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                with pytest.raises(LinkLost):
                    await call
            assert loop.time() - began < 0.6 + SLACK_SECONDS
            # Its kernel takes connections, and nobody is at home.
            with pytest.raises(ConnectionError):
                await a.connect(B)
        finally:
            b.signal(signal.SIGCONT)
        # It finds its old link gone; a new one can be had at once.
        assert await a.call(B, "echo", b"back", timeout=WAIT_SECONDS) == b"back"
        assert len(a.links) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="signals of Linux")
async def test_a_short_stop_costs_nothing(tmp_path: Path) -> None:
    write_certificates(tmp_path, A, B)
    async with (
        running(A, manager=manager_of(tmp_path, A), keepalive_interval=2.0) as a,
        Child(tmp_path, B) as b,
    ):
        b.introduce_to(a)
        link = await a.connect(B)
        b.signal(signal.SIGSTOP)
        call = asyncio.ensure_future(link.call("echo", b"x"))
        done, _ = await asyncio.wait([call], timeout=0.5)
        assert not done
        b.signal(signal.SIGCONT)
        async with asyncio.timeout(WAIT_SECONDS):
            assert await call == b"x"
        assert not link.closed
