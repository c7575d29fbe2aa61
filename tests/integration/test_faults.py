"""What networks do to a link, and who hears of it: each way of the fault proxy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from fastnode import Link, LinkClosed, LinkLost, Message, Node, Route
from helpers.nodes import WAIT_SECONDS, B, all_at_once, forget, pair, until
from helpers.proxy import Proxy

#: Three of these intervals are the silence after which a peer is dead.
QUICK = {"keepalive_interval": 0.2}
#: No keepalive tells of a loss.
QUIET = {"keepalive_interval": 60.0}
#: "At once", on a machine that is busy.
AT_ONCE_SECONDS = 40.0


@asynccontextmanager
async def through_a_proxy(
    options: dict[str, Any],
) -> AsyncIterator[tuple[Node, Node, Proxy]]:
    """alpha dials beta through a proxy."""
    async with pair(options, options) as (a, b), Proxy() as proxy:
        forget(a, B)
        await proxy.start(b.acceptors[0].address)
        a.add_route(Route("^beta@", *proxy.address))
        yield a, b, proxy


class Waiting:
    """Everybody who can wait on a link, at both of its ends."""

    def __init__(self, link: Link, other: Link) -> None:
        self._ends = (link, other)
        self.tasks: list[asyncio.Future[Any]] = []

    async def begin(self) -> None:
        for end in self._ends:
            for timeout in (None, None, None, 60.0):
                call = end.call("never", b"", timeout=timeout)
                self.tasks.append(asyncio.ensure_future(call))
        await until(lambda: all(e.stats.calls_received == 4 for e in self._ends))
        for end in self._ends:
            # More than the window and the high-water mark.
            for _ in range(2500):
                end.send("stuck", bytes(1024))
            self.tasks.append(asyncio.ensure_future(end.drain()))
        await until(lambda: all(e.stats.queued_bytes > 1 << 20 for e in self._ends))

    async def hear(self) -> None:
        """All of them hear that the link is lost."""
        async with asyncio.timeout(AT_ONCE_SECONDS):
            errors = await asyncio.gather(*self.tasks, return_exceptions=True)
        assert {type(error) for error in errors} == {LinkLost}
        assert len({id(error) for error in errors}) == len(self.tasks)
        for end in self._ends:
            with pytest.raises(LinkLost):
                end.send("stuck", b"")
            with pytest.raises(LinkLost):
                await end.ping()


def stick(node: Node) -> None:
    @node.handler("never")
    async def never(message: Message) -> bytes:
        await asyncio.Event().wait()
        raise AssertionError

    @node.handler("stuck")
    async def stuck(message: Message) -> None:
        await asyncio.Event().wait()


def corrupt(proxy: Proxy) -> None:
    proxy.corrupt = True


def black_hole(proxy: Proxy) -> None:
    proxy.black_hole = True


def black_hole_up(proxy: Proxy) -> None:
    proxy.up.black_hole = True


def black_hole_down(proxy: Proxy) -> None:
    proxy.down.black_hole = True


FAULTS: dict[str, tuple[Callable[[Proxy], None], dict[str, Any]]] = {
    "cut": (Proxy.cut, QUIET),
    "half-close": (Proxy.half_close, QUIET),
    "reset": (Proxy.reset, QUIET),
    "reset to the dialer": (lambda proxy: proxy.reset_one(0), QUICK),
    "reset to the acceptor": (lambda proxy: proxy.reset_one(1), QUICK),
    "corrupt": (corrupt, QUICK),
    "black hole": (black_hole, QUICK),
    "black hole up": (black_hole_up, QUICK),
    "black hole down": (black_hole_down, QUICK),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_guarantee_8_everybody_who_waits_hears_of_a_loss(fault: str) -> None:
    inflict, options = FAULTS[fault]
    async with through_a_proxy(options) as (a, b, proxy):
        stick(a)
        stick(b)
        link = await a.connect(B)
        await until(lambda: b.links)
        other = b.links[0]
        waiting = Waiting(link, other)
        await waiting.begin()
        inflict(proxy)
        await waiting.hear()
        assert type(link.error) is type(other.error) is LinkLost
        await until(lambda: not a.links and not b.links)
        # Handlers of one-way messages go on; nobody waits for them here.
        await asyncio.gather(a.stop(timeout=0.1), b.stop(timeout=0.1))


@pytest.mark.parametrize("fault", ["delay", "bandwidth", "byte by byte"])
async def test_guarantee_8_slow_is_not_lost(fault: str) -> None:
    async with through_a_proxy({"keepalive_interval": 0.3}) as (a, b, proxy):
        if fault == "delay":
            proxy.up.delay = proxy.down.delay = 0.05
        elif fault == "bandwidth":
            proxy.up.bandwidth = proxy.down.bandwidth = 200_000
        else:
            proxy.piece = 1
        got: list[bytes] = []
        b.handler("e")(lambda m: got.append(m.payload))
        b.handler("count")(lambda m: b"%d" % len(got))
        link = await a.connect(B)
        sent = [bytes([n]) * (n * 7) for n in range(60)]
        for payload in sent:
            link.send("e", payload)
        assert await link.call("count", b"", timeout=WAIT_SECONDS) == b"60"
        assert got == sent
        await link.close()
        assert type(link.error) is LinkClosed


async def test_delay_is_measured() -> None:
    async with through_a_proxy(QUIET) as (a, _b, proxy):
        link = await a.connect(B)
        proxy.up.delay = proxy.down.delay = 0.05
        # Loops round timers to milliseconds, and count from when their turn began.
        assert await link.ping() > 0.09


async def test_guarantee_9_the_window_grows_where_the_way_is_long() -> None:
    await all_at_once(send_far, (128 << 10,), (4 << 20,))


async def send_far(most: int) -> None:
    """A window of 128 KiB and a round trip of 0.1 s: 1.3 MB/s, unless it grows."""
    window = 128 << 10
    options = {**QUIET, "window": window, "max_window": most, "high_water": window}
    async with through_a_proxy({**options, "low_water": 0}) as (a, b, proxy):
        b.handler("sink")(lambda m: None)
        proxy.up.delay = proxy.down.delay = 0.05
        link = await a.connect(B)
        clock = asyncio.get_running_loop().time
        until_then = clock() + 2.0
        while clock() < until_then:
            link.send("sink", bytes(32 * 1024))
            await link.drain()
        await until(lambda: link.stats.queued_bytes == 0)
        await link.ping()
        if most == window:
            assert link.stats.credit_bytes <= window
        else:
            # What was sent is granted again, and more.
            await until(lambda: link.stats.credit_bytes > window)
