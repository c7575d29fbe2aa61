"""Connections a second: TCP, mutual TLS, 8 bytes there and back, close.

    python bench/handshakes.py               one at a time, and 32
    python bench/handshakes.py --json        every sample, for other programs

No session is resumed. fastnode also exchanges HELLO and ACCEPT, verifies names, and
says goodbye; its clients are as many nodes, since two nodes share one link.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

import report
import trust
from contenders import CONTENDERS, Contender
from process import ServerProcess, server
from report import Cell, Sample

BASELINE = "uvloop, a write per message"
NAMES = ["fastnode", BASELINE, "asyncio streams"]
AT_ONCE = (1, 32)


async def connections(clients: list[Contender], port: int, count: int) -> None:
    """Make `count` connections, each client one after the other."""

    async def work(number: int, client: Contender) -> None:
        for _ in range(max(1, count // len(clients))):
            await client.connect(port, number)
            await client.call(b"8 bytes!")
            await client.disconnect()

    async with asyncio.TaskGroup() as group:
        for number, client in enumerate(clients):
            group.create_task(work(number, client))


async def measure(
    clients: list[Contender], process: ServerProcess, count: int
) -> Sample:
    """One contender's turn."""
    await connections(clients, process.port, len(clients))
    server_before, client_before = process.cpu_seconds(), time.process_time()
    began = time.perf_counter()
    await connections(clients, process.port, count)
    took = time.perf_counter() - began
    client = time.process_time() - client_before
    in_server = process.cpu_seconds() - server_before
    for each in clients:
        await each.close()
    return Sample(count / took, client / count * 1e6, in_server / count * 1e6)


def turn(name: str, folder: Path, at_once: int, count: int) -> Sample:
    """Run one contender, in a loop and a server process of its own."""
    kind = CONTENDERS[name]
    with (
        server(name, folder) as process,
        asyncio.Runner(loop_factory=kind.new_loop) as runner,
    ):
        clients = [kind(folder) for _ in range(at_once)]
        return runner.run(measure(clients, process, count))


def arguments() -> argparse.Namespace:
    """What the user asks for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=320, help="connections a turn")
    parser.add_argument(
        "--at-once", type=int, nargs="+", default=list(AT_ONCE), metavar="CONNECTIONS"
    )
    parser.add_argument(
        "--contenders", nargs="+", choices=NAMES, default=NAMES, metavar="NAME"
    )
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def main() -> int:
    """Measure and print."""
    options = arguments()
    names = options.contenders
    cells = [Cell(f"{count} at once", "handshakes") for count in options.at_once]
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        trust.make(folder, clients=max(options.at_once))
        for number in range(options.rounds):
            for cell, at_once in zip(cells, options.at_once, strict=True):
                count = max(options.count, at_once) // at_once * at_once
                samples = {}
                for name in report.turns(names, number):
                    report.progress(f"round {number + 1}: {cell.title}, {name}")
                    samples[name] = turn(name, folder, at_once, count)
                cell.rounds.append(samples)
    report.progress("")
    report.show(cells, BASELINE if BASELINE in names else names[0], options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
