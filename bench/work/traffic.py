"""Messages, calls and fan-in: so many units over one link or over many."""

from __future__ import annotations

from pathlib import Path

from cell import Cell, Figures
from clients import Clients
from contenders import ENTRANTS
from process import ServerProcess
from work.work import Pace, Work, calibrate, in_processes, timed

SIZES = {64: "64 B", 1 << 10: "1 KiB", 16 << 10: "16 KiB", 1 << 20: "1 MiB"}
SMALL = 64
#: Messages on each link of a fan-in.
LEAST_ON_LINK = 1000


class Messages(Work):
    """One-way messages of one size over some links of one client process."""

    def __init__(self, group: str, size: int, links: int, pace: Pace) -> None:
        title = f"one-way, {SIZES[size]}" if links == 1 else f"fan-in, {links} links"
        super().__init__(Cell(group, title, "messages", size=size), pace)
        self.links = links

    def turn(self, name: str, folder: Path) -> Figures:
        async def body(clients: Clients, process: ServerProcess) -> Figures:
            async def send(count: int) -> None:
                await clients.send(self.cell.size, count)

            await clients.open(process.port, self.links)
            count = await calibrate(send, self.pace.seconds)
            if self.links > 1:
                # What each link costs at the end, its confirmation, is to be little.
                count = max(count, LEAST_ON_LINK * self.links)
            return await timed(clients, process, send, count, one_way=True)

        return in_processes(ENTRANTS[name], folder, body)


class Calls(Work):
    """Calls, so many at a time, each awaited.

    Args:
        metadata: each call has metadata, which the handler reads.
    """

    def __init__(self, outstanding: int, pace: Pace, *, metadata: bool = False) -> None:
        group = "metadata" if metadata else "call"
        what = "call with metadata" if metadata else "call"
        title = f"{what}, 64 B, {outstanding} outstanding"
        super().__init__(Cell(group, title, "calls"), pace)
        self.outstanding = outstanding
        self.metadata = metadata

    def names(self, chosen: list[str]) -> list[str]:
        names = super().names(chosen)
        if self.metadata:
            names = [name for name in names if "metadata" in ENTRANTS[name].tags]
        return names

    def turn(self, name: str, folder: Path) -> Figures:
        async def body(clients: Clients, process: ServerProcess) -> Figures:
            p50 = 0.0

            async def call(count: int) -> None:
                nonlocal p50
                p50 = await clients.call(
                    SMALL, count, self.outstanding, metadata=self.metadata
                )

            await clients.open(process.port, 1)
            count = await calibrate(call, self.pace.seconds)
            count = max(count, self.outstanding)
            return await timed(clients, process, call, count) | {"p50 us": p50}

        return in_processes(ENTRANTS[name], folder, body)


def one_way(pace: Pace) -> list[Work]:
    """Over one link, of all sizes."""
    return [Messages("one-way", size, 1, pace) for size in SIZES]


def fan_in(pace: Pace) -> list[Work]:
    """Small ones over many links.

    More than one process that serves them (workers) would be entrants of their own.
    """
    return [Messages("fan-in", SMALL, links, pace) for links in pace.links]


def calls_with_metadata(pace: Pace) -> list[Work]:
    """The same, each with metadata: only for those that have some."""
    return [Calls(outstanding, pace, metadata=True) for outstanding in pace.outstanding]


def calls(pace: Pace) -> list[Work]:
    """With few and with many under way."""
    return [Calls(outstanding, pace) for outstanding in pace.outstanding]
