"""One call at a time by a loop that is awake while it waits, and by one that sleeps.

    python bench/busy_poll.py              alone, and beside 1, 2, 4 busy processes
    python bench/busy_poll.py --busy 0     alone
    python bench/busy_poll.py --calls 4    four calls at a time

A client and a server process, mutual TLS 1.3 on loopback, as in run.py. The busy ones
compute and never sleep; what they get done says whether polling takes it from them.
All take turns in every round.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import NamedTuple

import trust
from contenders import ENTRANTS, FASTNODE
from contenders.contender import Contender
from contenders.fastnode_link import FastnodeLink, SleepingLink
from entrant import PythonEntrant
from latency import percentile
from process import ServerProcess, server

PAYLOAD = b"x" * 64
#: Counts until its standard input ends, then says how far it came.
BUSY = """
import sys, threading
over, count = [], 0
threading.Thread(target=lambda: (sys.stdin.read(), over.append(1)), daemon=True).start()
print(flush=True)
while not over:
    count += 1
print(count)
"""


@dataclass(frozen=True)
class Way:
    """A way to wait for a reply.

    Attributes:
        server: whose server answers, as in contenders.
        client: what calls it.
        awake: have the client's loop turn without sleep, by hand.
    """

    name: str
    server: str
    client: type[Contender]
    awake: bool = False


class Turn(NamedTuple):
    """Of one turn: calls a second; times and CPU time for each call in microseconds;
    what the busy processes did in a second."""

    rate: float
    p50: float
    p99: float
    client: float
    server: float
    busy: float


def ways() -> Iterator[Way]:
    """All that can be compared here."""
    yield Way("fastnode", FASTNODE, FastnodeLink)
    yield Way("fastnode, busy_poll=0", FASTNODE, SleepingLink)
    picows = ENTRANTS["picows"]
    if not picows.missing():
        assert isinstance(picows, PythonEntrant)
        yield Way("picows", "picows", picows.kind())
        yield Way("picows, kept awake by hand", "picows", picows.kind(), awake=True)


@contextmanager
def busy(number: int) -> Iterator[list[int]]:
    """So many processes that compute; what they did is in the list afterwards."""
    done: list[int] = []
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", BUSY],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for _ in range(number)
        ]
        for process in processes:
            stack.callback(process.kill)
            assert process.stdout is not None
            process.stdout.readline()
        yield done
        done += [int(process.communicate("")[0]) for process in processes]


@contextmanager
def awake(wanted: bool) -> Iterator[None]:
    """A loop that never sleeps, if that is wanted."""
    loop = asyncio.get_running_loop()
    going = wanted

    def again() -> None:
        if going:
            loop.call_soon(again)

    again()
    try:
        yield
    finally:
        going = False


async def take_turn(
    way: Way,
    folder: Path,
    process: ServerProcess,
    number: int,
    options: argparse.Namespace,
) -> Turn:
    """Call for some time."""
    contender = way.client(folder)
    await contender.connect(process.port)
    await contender.calls(PAYLOAD, 200, options.calls)
    times: list[float] = []
    with awake(way.awake), busy(number) as done:
        before = process.progress().cpu
        used, began = time.process_time(), time.perf_counter()
        took = 0.0
        while took < options.seconds:
            times += await contender.calls(PAYLOAD, 100, options.calls)
            took = time.perf_counter() - began
        used = time.process_time() - used
        answered = process.progress().cpu - before
    await contender.close()
    count = len(times)
    return Turn(
        count / took,
        percentile(times, 0.5),
        percentile(times, 0.99),
        used / count * 1e6,
        answered / count * 1e6,
        sum(done) / took / 1e6,
    )


def compare(folder: Path, number: int, options: argparse.Namespace) -> None:
    """Rounds beside `number` busy processes, and their medians."""
    turns: dict[str, list[Turn]] = {}
    order = list(ways())
    for number_of_round in range(options.rounds):
        for way in order[:: -1 if number_of_round % 2 else 1]:
            command = ENTRANTS[way.server].server_command(folder)
            with (
                server(command) as process,
                asyncio.Runner(loop_factory=way.client.new_loop) as runner,
            ):
                turn = runner.run(take_turn(way, folder, process, number, options))
            turns.setdefault(way.name, []).append(turn)
    print(f"beside {number} busy processes")
    for way in order:
        each = Turn(*(median(column) for column in zip(*turns[way.name], strict=True)))
        print(
            f"  {way.name:28} {each.rate:7,.0f} calls/s  p50 {each.p50:5.0f}  "
            f"p99 {each.p99:6.0f} us  CPU client {each.client:5.1f}  "
            f"server {each.server:5.1f} us  busy ones {each.busy:6.2f} M/s"
        )


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each turn")
    parser.add_argument("--calls", type=int, default=1, help="under way at once")
    parser.add_argument(
        "--busy", type=int, nargs="*", default=(0, 1, 2, 4), metavar="PROCESSES"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        trust.make(Path(name))
        for number in options.busy:
            compare(Path(name), number, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
