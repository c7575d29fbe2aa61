"""How long calls take while they come at half the rate that one side can make them.

Open loop: calls begin at fixed intervals whatever became of those before, and their
time runs from when they were due, so that a pause is felt by all that fall into it
("coordinated omission" would hide it). Percentiles are exact: of all times, sorted.
"""

from __future__ import annotations

from pathlib import Path

from cell import Cell, Figures
from clients import Clients
from contenders import ENTRANTS
from process import ServerProcess
from work.traffic import SMALL
from work.work import Pace, Work, calibrate, in_processes, timed

#: A turn is so much longer than others: of what is rare there has to be enough.
LONGER = 4


class HalfLoad(Work):
    def __init__(self, pace: Pace) -> None:
        title = "call, 64 B, at half of the highest rate"
        super().__init__(Cell("half-load", title, "calls", "p99 us"), pace)

    def turn(self, name: str, folder: Path) -> Figures:
        async def body(clients: Clients, process: ServerProcess) -> Figures:
            highest, percentiles = 0.0, {}

            async def probe(count: int) -> None:
                nonlocal highest
                highest = await clients.highest_rate(SMALL, count)

            async def load(count: int) -> None:
                percentiles.update(await clients.load(SMALL, count, highest / 2))

            await clients.open(process.port, 1)
            await probe(await calibrate(probe, self.pace.seconds))
            count = max(100, int(highest / 2 * self.pace.seconds * LONGER))
            figures = await timed(clients, process, load, count)
            # Where the rate is lower than that, this was no half load.
            return figures | percentiles | {"offered/s": highest / 2}

        return in_processes(ENTRANTS[name], folder, body)


def works(pace: Pace) -> list[Work]:
    """The one there is."""
    return [HalfLoad(pace)]
