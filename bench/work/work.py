"""What a workload is, and what their turns have in common."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from cell import Cell, Figures
from clients import Clients
from contenders import ENTRANTS, Entrant
from process import ServerProcess, server


@dataclass(frozen=True)
class Pace:
    """How long everything takes.

    Attributes:
        rounds: of all workloads but those that have their own.
        seconds: of a turn.
        connections: of a turn of handshakes.
        links: of the fan-ins.
        idle: links whose memory is measured.
        outstanding: numbers of calls that are under way.
        imports: of each module.
    """

    rounds: int = 5
    seconds: float = 0.5
    connections: int = 320
    links: tuple[int, ...] = (16, 256)
    idle: tuple[int, ...] = (1_000, 10_000)
    outstanding: tuple[int, ...] = (1, 64, 1024)
    imports: int = 20

    @classmethod
    def quick(cls, rounds: int, seconds: float) -> Pace:
        """To see that all of it works."""
        return cls(rounds, seconds, 8, (4,), (40,), (1, 16), 1)


class Work(ABC):
    """One kind of work; its cell says which."""

    #: In place of the pace's.
    rounds: int | None = None
    #: What takes longer hangs.
    limit_seconds = 120

    def __init__(self, cell: Cell, pace: Pace) -> None:
        self.cell = cell
        self.pace = pace

    def names(self, chosen: list[str]) -> list[str]:
        """Who of the chosen contenders takes part."""
        return [n for n in chosen if self.cell.group not in ENTRANTS[n].skips]

    def obstacle(self) -> str | None:
        """Why this cannot be measured here; None: it can."""
        return None

    @abstractmethod
    def turn(self, name: str, folder: Path) -> Figures:
        """One contender's turn, with processes and a loop of its own."""


Body = Callable[[Clients, ServerProcess], Awaitable[Figures]]


def in_processes(entrant: Entrant, folder: Path, body: Body) -> Figures:
    """Run a turn against a new server."""

    async def main(process: ServerProcess) -> Figures:
        clients = entrant.clients(folder)
        try:
            return await body(clients, process)
        finally:
            await clients.close()

    with (
        server(entrant.server_command(folder)) as process,
        asyncio.Runner(loop_factory=entrant.new_loop) as runner,
    ):
        return runner.run(main(process))


async def calibrate(work: Callable[[int], Awaitable[object]], seconds: float) -> int:
    """Warm up; how many units take about so long."""
    count, enough = 1, 0
    # Twice in a row: once, it may have been the system that took so long.
    while enough < 2:
        count *= 2
        began = time.perf_counter()
        await work(count)
        took = time.perf_counter() - began
        enough = enough + 1 if took >= 0.1 * seconds else 0
    return max(1, int(count * seconds / took))


async def timed(
    clients: Clients,
    process: ServerProcess,
    work: Callable[[int], Awaitable[object]],
    count: int,
    *,
    one_way: bool = False,
) -> Figures:
    """Do so many units: their rate, and the CPU time of both sides for each.

    Raises:
        SystemExit: messages were lost, or came with wrong contents.
    """
    client = await clients.cpu_seconds()
    before = process.progress()
    began = time.perf_counter()
    await work(count)
    took = time.perf_counter() - began
    after = process.progress()
    client = await clients.cpu_seconds() - client
    if one_way and after.messages - before.messages != count:
        raise SystemExit(f"{after.messages - before.messages} of {count} messages came")
    if after.wrong:
        raise SystemExit(f"{after.wrong} messages came with wrong contents")
    return {
        "rate": count / took,
        "client us": client / count * 1e6,
        "server us": (after.cpu - before.cpu) / count * 1e6,
    }
