"""Fan-in to one worker and to several: what more cores bring.

    python bench/workers.py                  1 and 2 workers, 16 links
    python bench/workers.py --workers 1 4 --links 256
    python bench/workers.py --spread         how connections spread, by who chooses

A group of workers and a client process with a link from each of so many nodes, mutual
TLS 1.3 on loopback. Every number of workers takes its turn in every round.

The client needs a core too. So beside the rate there is the capacity: messages for each
second of CPU time of the busiest worker, which is the rate that the workers would reach
on cores of their own, if nothing but them were in the way. It counts both the price of
running side by side and an uneven spread.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import select
import socket
import statistics
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import machine
import trust
from fastnode import (
    AcceptorOptions,
    Link,
    Message,
    NetworkOptions,
    Node,
    NodeOptions,
    Route,
    WorkerGroup,
    run,
    start_node,
)

PAYLOAD = bytes(64)
#: Messages between two drains.
BURST = 200
#: Microseconds of Python that a handler takes.
WORK_US = (0, 20)


# --- in the workers -------------------------------------------------------------


def options(folder: Path) -> NodeOptions:
    """A free port, and mutual TLS."""
    network = NetworkOptions(acceptors=[AcceptorOptions(port=0)])
    return NodeOptions(
        cert_manager=trust.manager(folder, trust.SERVER), network=network
    )


def setup(turns: int, node: Node) -> None:
    """Count messages, and work on each."""
    handled = 0

    @node.handler("take")
    def take(_: Message) -> None:
        nonlocal handled
        handled += 1
        work(turns)

    @node.handler("used")
    def used(_: Message) -> bytes:
        return json.dumps([os.getpid(), time.process_time(), handled]).encode()


def work(turns: int) -> None:
    """What an application may do with a message."""
    for _ in range(turns):
        pass


def turns_in(microseconds: float) -> int:
    """How many turns take so long here, at best."""
    if not microseconds:
        return 0
    best = float("inf")
    for _ in range(20):
        began = time.process_time()
        work(20_000)
        best = min(best, time.process_time() - began)
    return int(microseconds * 1e-6 / best * 20_000)


# --- the client -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sample:
    """One turn.

    Attributes:
        rate: messages a second, all links together.
        capacity: messages for each second of CPU time of the busiest worker.
        server_us, client_us: CPU time for each message, all workers together.
        shares: messages that each worker handled.
    """

    rate: float
    capacity: float
    server_us: float
    client_us: float
    shares: list[int]


async def used(links: list[Link]) -> dict[int, tuple[float, int]]:
    """CPU time and messages of each worker; all that was sent before is handled."""
    answers = await asyncio.gather(*(link.call("used", b"") for link in links))
    found: dict[int, tuple[float, int]] = {}
    for pid, seconds, handled in map(json.loads, answers):
        found[pid] = max(found.get(pid, (0.0, 0)), (seconds, handled))
    return found


async def send(link: Link, count: int) -> None:
    """Messages over one link, in turns with the others."""
    for number in range(count):
        link.send("take", PAYLOAD)
        if number % BURST == 0:
            await link.drain()
            await asyncio.sleep(0)


async def turn(
    folder: Path, workers: int, links: int, turns: int, seconds: float
) -> Sample:
    """One group, with so many dialers."""
    made = WorkerGroup(
        trust.SERVER, partial(options, folder), partial(setup, turns), workers=workers
    )
    async with made as group, AsyncExitStack() as stack:
        known: list[Link] = []
        for number in range(links):
            name = trust.client_name(number)
            network = NetworkOptions(
                acceptors=(), routes=[Route("^server@", *group.addresses[0])]
            )
            manager = trust.manager(folder, name)
            node = await start_node(
                name, NodeOptions(cert_manager=manager, network=network)
            )
            await stack.enter_async_context(node)
            known.append(await node.connect(trust.SERVER))
        count, took = 1, 0.0
        while took < 0.2 * seconds:
            count *= 2
            began = time.perf_counter()
            await asyncio.gather(*(send(link, count) for link in known))
            await used(known)
            took = time.perf_counter() - began
        count = max(1, int(count * seconds / took))
        before, own = await used(known), time.process_time()
        began = time.perf_counter()
        await asyncio.gather(*(send(link, count) for link in known))
        after = await used(known)
        took = time.perf_counter() - began
        own = time.process_time() - own
    cpu = [after[pid][0] - before[pid][0] for pid in after]
    shares = sorted(after[pid][1] - before[pid][1] for pid in after)
    total = count * links
    assert sum(shares) == total
    return Sample(
        total / took,
        total / max(cpu),
        sum(cpu) / total * 1e6,
        own / total * 1e6,
        shares,
    )


def compare(arguments: argparse.Namespace) -> None:
    """All rounds, and a table."""
    cells: dict[tuple[int, int], list[Sample]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trust.make(folder, arguments.links)
        for number in range(arguments.rounds):
            order = arguments.workers[:: 1 if number % 2 else -1]
            for work_us in arguments.work:
                for workers in order:
                    sample = run(
                        turn(
                            folder,
                            workers,
                            arguments.links,
                            turns_in(work_us),
                            arguments.seconds,
                        )
                    )
                    cells.setdefault((work_us, workers), []).append(sample)
    if arguments.json:
        found = [
            {"work us": us, "workers": workers, "rounds": [asdict(s) for s in samples]}
            for (us, workers), samples in sorted(cells.items())
        ]
        print(json.dumps({"machine": machine.describe(), "cells": found}, indent=1))
        return
    for key, value in machine.describe().items():
        print(f"{key}: {value}")
    for work_us in arguments.work:
        base = cells[work_us, arguments.workers[0]]
        print(f"\n{arguments.links} links, 64 B, handler works {work_us} us")
        print(f"{'workers':>9}{'messages/s':>14}{'ratio':>8}{'capacity/s':>14}"
              f"{'ratio':>8}{'server us':>11}{'client us':>11}")  # fmt: skip
        for workers in arguments.workers:
            samples = cells[work_us, workers]
            rate, capacity, server, client = (
                statistics.median(values)
                for values in zip(
                    *((s.rate, s.capacity, s.server_us, s.client_us) for s in samples),
                    strict=True,
                )
            )
            rates = statistics.median(
                s.rate / b.rate for s, b in zip(samples, base, strict=True)
            )
            capacities = statistics.median(
                s.capacity / b.capacity for s, b in zip(samples, base, strict=True)
            )
            print(f"{workers:>9}{rate:>14,.0f}{rates:>8.2f}{capacity:>14,.0f}"
                  f"{capacities:>8.2f}{server:>11.3f}{client:>11.3f}")  # fmt: skip


# --- who chooses the worker ---------------------------------------------------------


def accept(sock: socket.socket, stop: socket.socket, counted: socket.socket) -> None:
    """Count the connections that this process gets, and keep them."""
    sock.setblocking(False)
    kept = []
    while True:
        ready, _, _ = select.select([sock, stop], [], [])
        if stop in ready:
            break
        for _ in range(64):
            try:
                kept.append(sock.accept()[0])
            except BlockingIOError:
                break
            # A little of what a handshake takes.
            until = time.perf_counter() + 0.0002
            while time.perf_counter() < until:
                pass
    counted.sendall(len(kept).to_bytes(4))


def listening(port: int, *, reuse: bool) -> socket.socket:
    """A socket on that port."""
    sock = socket.socket()
    if reuse:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(("127.0.0.1", port))
    sock.listen(1024)
    return sock


def larger_share(links: int, pause: float, *, reuse: bool) -> int:
    """Of so many connections, those that the busier of two processes gets."""
    context = multiprocessing.get_context("fork")
    first = listening(0, reuse=reuse)
    port = first.getsockname()[1]
    second = listening(port, reuse=True) if reuse else first
    go, stop = socket.socketpair()
    counted, counts = socket.socketpair()
    made = [
        context.Process(target=accept, args=(sock, stop, counts))
        for sock in (first, second)
    ]
    for process in made:
        process.start()
    time.sleep(0.1)
    dialers = []
    for _ in range(links):
        dialers.append(socket.create_connection(("127.0.0.1", port)))
        time.sleep(pause)
    time.sleep(0.1 + links * 0.001)
    go.send(b"x")
    shares = [int.from_bytes(counted.recv(4, socket.MSG_WAITALL)) for _ in made]
    for process in made:
        process.join()
    for sock in (first, second, go, stop, counted, counts, *dialers):
        sock.close()
    return max(shares)


def spread(rounds: int) -> None:
    """A table: who chooses the process of a connection, and what comes of it."""
    print(f"connections of the busier of two processes, median of {rounds} and worst")
    for links in (16, 256):
        for pause, how in ((0.0, "at once"), (0.002, "2 ms apart")):
            for reuse, who in ((True, "SO_REUSEPORT"), (False, "one socket for both")):
                found = [larger_share(links, pause, reuse=reuse) for _ in range(rounds)]
                median = statistics.median(found)
                print(f"  {links:>4} {how:<12}{who:<22}{median:g}, worst {max(found)}")
    print("  handed out by the group: half of them, or one more")


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--links", type=int, default=16)
    parser.add_argument("--work", type=int, nargs="+", default=list(WORK_US))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each turn")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--spread", action="store_true")
    arguments = parser.parse_args()
    if arguments.spread:
        spread(arguments.rounds)
    else:
        compare(arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main())
