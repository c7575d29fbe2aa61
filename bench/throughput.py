"""Messages and calls between two processes, beside other ways to do the same.

    python bench/throughput.py               one-way, 64 B to 1 MiB, and calls
    python bench/throughput.py --bar         exit 1 unless fastnode clears its bar
    python bench/throughput.py --json        every sample, for other programs

All contenders: mutual TLS 1.3 on loopback, a client and a server process, the server
makes one Python call for each message. Both sides' CPU time is taken from the
process, between the first message and the answer to a call that follows the last.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import report
import trust
from contenders import CONTENDERS, Contender
from process import ServerProcess, server
from report import Cell, Sample

SIZES = {64: "64 B", 1 << 10: "1 KiB", 16 << 10: "16 KiB", 1 << 20: "1 MiB"}
#: Contender, and the least ratio of rates that fastnode has to reach.
BASELINE = "uvloop, a write per message"
BAR = {64: 20.0, 1 << 20: 1.0}
OUTSTANDING = (1, 64)
CALL_BYTES = 64

Work = Callable[[Contender, int], Awaitable[list[float]]]


def messages(size: int) -> Work:
    """One-way messages; the call after them says that all were handled."""

    async def work(contender: Contender, count: int) -> list[float]:
        await contender.send_many(bytes(size), count)
        await contender.call(b"")
        return []

    return work


def calls(outstanding: int) -> Work:
    """Calls, so many at a time; their latencies."""

    async def work(contender: Contender, count: int) -> list[float]:
        payload = bytes(CALL_BYTES)
        times: list[float] = []

        async def caller() -> None:
            for _ in range(max(1, count // outstanding)):
                began = time.perf_counter()
                await contender.call(payload)
                times.append(time.perf_counter() - began)

        await asyncio.gather(*(caller() for _ in range(outstanding)))
        return times

    return work


async def calibrate(contender: Contender, work: Work, seconds: float) -> int:
    """Warm up; how many units take about so long."""
    count, took = 1, 0.0
    while took < 0.1 * seconds:
        count *= 2
        began = time.perf_counter()
        await work(contender, count)
        took = time.perf_counter() - began
    return max(1, int(count * seconds / took))


async def measure(
    contender: Contender, process: ServerProcess, work: Work, seconds: float
) -> Sample:
    """One contender's turn."""
    await contender.connect(process.port)
    count = await calibrate(contender, work, seconds)
    server_before, client_before = process.cpu_seconds(), time.process_time()
    began = time.perf_counter()
    times = await work(contender, count)
    took = time.perf_counter() - began
    client = time.process_time() - client_before
    in_server = process.cpu_seconds() - server_before
    await contender.close()
    extra = {"p50 us": statistics.median(times) * 1e6} if times else {}
    return Sample(count / took, client / count * 1e6, in_server / count * 1e6, extra)


def turn(name: str, folder: Path, work: Work, seconds: float) -> Sample:
    """Run one contender, in a loop and a server process of its own."""
    kind = CONTENDERS[name]
    with (
        server(name, folder) as process,
        asyncio.Runner(loop_factory=kind.new_loop) as runner,
    ):
        return runner.run(measure(kind(folder), process, work, seconds))


def compare(
    plan: list[tuple[Cell, Work]], names: list[str], rounds: int, seconds: float
) -> None:
    """Fill the cells: every contender in every round."""
    with tempfile.TemporaryDirectory() as folder:
        trust.make(Path(folder))
        for number in range(rounds):
            for cell, work in plan:
                samples = {}
                for name in report.turns(names, number):
                    report.progress(f"round {number + 1}: {cell.title}, {name}")
                    samples[name] = turn(name, Path(folder), work, seconds)
                cell.rounds.append(samples)
    report.progress("")


def missed(cells: list[Cell]) -> list[str]:
    """What is below the bar."""
    found = []
    for cell in cells:
        least = BAR.get(cell.size)
        ratio = cell.ratio("fastnode", BASELINE)
        if least is not None and ratio < least:
            found.append(f"{cell.title}: {ratio:.2f} of {BASELINE!r}, not {least:.1f}")
    return found


def arguments() -> argparse.Namespace:
    """What the user asks for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="for each turn")
    parser.add_argument(
        "--sizes", type=int, nargs="*", default=list(SIZES), metavar="BYTES"
    )
    parser.add_argument(
        "--outstanding", type=int, nargs="*", default=list(OUTSTANDING), metavar="CALLS"
    )
    parser.add_argument(
        "--contenders", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS)
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument(
        "--bar", action="store_true", help="exit 1 where fastnode is below its bar"
    )
    return parser.parse_args()


def main() -> int:
    """Measure, print, judge."""
    options = arguments()
    names = options.contenders
    if options.bar:
        names = [*dict.fromkeys(["fastnode", BASELINE, *names])]
    plan = [
        (Cell(f"one-way, {SIZES.get(size, f'{size} B')}", "messages", size),
         messages(size))
        for size in options.sizes
    ]  # fmt: skip
    one_way = [cell for cell, _ in plan]
    plan += [
        (Cell(f"call, {CALL_BYTES} B, {count} outstanding", "calls"), calls(count))
        for count in options.outstanding
    ]
    compare(plan, names, options.rounds, options.seconds)
    baseline = BASELINE if BASELINE in names else names[0]
    report.show([cell for cell, _ in plan], baseline, options.json)
    below = missed(one_way) if options.bar else []
    for line in below:
        print(f"below the bar: {line}", file=sys.stderr)
    return 1 if below else 0


if __name__ == "__main__":
    sys.exit(main())
