"""Pings and small calls on a link, idle and while large messages move over it.

    python bench/latency.py                  messages of 1, 16 and 48 MiB
    python bench/latency.py --replies        the same as replies to calls, one at a time
    python bench/latency.py --bar            exit 1 where a loaded p99 is above 5 x idle

A client and a server process, mutual TLS 1.3 on loopback, as in run.py. Idle and
loaded take turns, so that both see the same machine. The client sleeps while it waits
(busy_poll=0), idle and loaded: what is compared is what large messages add.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import trust
from contenders import ENTRANTS, FASTNODE
from contenders.fastnode_link import FastnodeLink, SleepingLink
from process import server

BAR = 5.0
#: From 32 MiB on memory comes from elsewhere, see fastnode.buffers.spares.
SIZES = (1 << 20, 16 << 20, 48 << 20)


async def sample(what: Callable[[], Awaitable[object]], seconds: float) -> list[float]:
    """How long it takes, seconds, again and again."""
    times = []
    end = time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        await what()
        times.append(time.perf_counter() - began)
    return times


def percentile(times: list[float], share: float) -> float:
    """In microseconds."""
    return sorted(times)[min(len(times) - 1, int(len(times) * share))] * 1e6


async def bulk(contender: FastnodeLink, payload: bytes, moved: list[int]) -> None:
    """Keep the link busy."""
    while True:
        contender.link.send("sink", payload)
        await contender.link.drain()
        moved[0] += len(payload)


async def large_replies(contender: FastnodeLink, size: int, moved: list[int]) -> None:
    """The same, the other way."""
    while True:
        moved[0] += len(await contender.link.call("make", b"%d" % size))


async def measure(
    folder: Path, port: int, options: argparse.Namespace, size: int
) -> bool:
    """One size; False if it misses the bar."""
    contender = SleepingLink(folder)
    await contender.connect(port)
    link = contender.link
    kinds: dict[str, Callable[[], Awaitable[object]]] = {
        "ping": link.ping,
        "call": lambda: link.call("echo", b"x" * 64),
        "high call": lambda: link.call("echo", b"x" * 64, priority="high"),
    }
    good = True
    payload = bytes(size)
    for kind, what in kinds.items():
        idle: list[float] = []
        loaded: list[float] = []
        moved, busy = [0], 0.0
        await sample(what, 0.1)
        for _ in range(options.rounds):
            idle += await sample(what, options.seconds)
            moving = (
                large_replies(contender, size, moved)
                if options.replies
                else (bulk(contender, payload, moved))
            )
            load = asyncio.create_task(moving)
            await asyncio.sleep(0.05)
            began, before = time.perf_counter(), moved[0]
            loaded += await sample(what, options.seconds)
            busy += time.perf_counter() - began
            sent = moved[0] - before
            load.cancel()
            await asyncio.wait([load])
            # Behind all that is queued, beside which there is room for no more than
            # 64 MiB in all: it is idle again.
            await link.drain()
            await link.send_confirmed("sink", bytes(1 << 20))
            if options.replies:
                await link.call("make", b"%d" % size)
        ratio = percentile(loaded, 0.99) / percentile(idle, 0.99)
        good = good and ratio <= BAR
        print(
            f"{size >> 20:4} MiB  {kind:9}  "
            f"idle p50 {percentile(idle, 0.5):6.0f} p99 {percentile(idle, 0.99):6.0f}  "
            f"loaded p50 {percentile(loaded, 0.5):6.0f} "
            f"p99 {percentile(loaded, 0.99):6.0f} us  p99 ratio {ratio:5.1f}  "
            f"{sent / options.seconds / 1e6:6.0f} MB/s"
        )
    await contender.close()
    return good


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.4, help="for each turn")
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES, metavar="BYTES")
    parser.add_argument(
        "--replies", action="store_true", help="large replies, not large messages"
    )
    parser.add_argument("--bar", action="store_true", help="exit 1 above the bar")
    options = parser.parse_args()
    good = True
    fastnode = ENTRANTS[FASTNODE]
    with tempfile.TemporaryDirectory() as name:
        trust.make(Path(name))
        for size in options.sizes:
            with (
                server(fastnode.server_command(Path(name))) as process,
                asyncio.Runner(loop_factory=FastnodeLink.new_loop) as runner,
            ):
                made = measure(Path(name), process.port, options, size)
                good = runner.run(made) and good
    return 0 if good or not options.bar else 1


if __name__ == "__main__":
    sys.exit(main())
