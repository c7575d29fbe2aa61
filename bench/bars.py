"""The bars that fastnode is to clear, and whether it does."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cell import Cell
from contenders import BATCH, ENTRANTS, FASTNODE, FLOOR, UNTICKETED


@dataclass(frozen=True)
class Bar:
    """One demand.

    Attributes:
        work: what is measured.
        against: what it is compared with; empty: it stands for itself.
        measured: the median of the ratios within the rounds, or the figure itself;
            None: this run did not measure it.
        cpu: the same ratio of the CPU time of both sides, where there is one.
        bar, stretch: what it is to reach, and what would be fine; None: no such.
        most: it is to stay below the bar, not above.
        unit: of a figure that is no ratio.
    """

    work: str
    against: str
    measured: float | None
    cpu: float | None
    bar: float | None
    stretch: float | None = None
    most: bool = False
    unit: str = ""

    def clears(self, limit: float | None) -> bool:
        """Whether what was measured is on the right side of this."""
        if self.measured is None or limit is None:
            return False
        return self.measured <= limit if self.most else self.measured >= limit

    @property
    def missed(self) -> bool:
        """It was measured, and did not suffice."""
        return (
            self.measured is not None
            and self.bar is not None
            and not self.clears(self.bar)
        )

    @property
    def verdict(self) -> str:
        """In words."""
        if self.measured is None:
            return "not measured"
        if self.clears(self.stretch):
            return "met, with the stretch" if self.bar is not None else "stretch met"
        if self.bar is None:
            return "stretch not met"
        return "met" if self.clears(self.bar) else "missed"

    def cells(self) -> list[str]:
        """A row of the table."""
        sign = "<=" if self.most else ">="
        return [
            self.work,
            self.against,
            self._text(self.measured),
            "" if self.cpu is None else f"{self.cpu:.2f}",
            f"{sign} {self._text(self.bar)}" if self.bar is not None else "",
            self._text(self.stretch),
            self.verdict,
        ]

    def _text(self, value: float | None) -> str:
        if value is None:
            return ""
        return f"{value:.1f} {self.unit}" if self.unit else f"{value:.2f}"


HEADS = ["work", "against", "measured", "CPU", "bar", "stretch", ""]


def tagged(tag: str) -> list[str]:
    """Contenders by what they are."""
    return [name for name, entrant in ENTRANTS.items() if tag in entrant.tags]


class Judge:
    """Looks the measured cells up."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        self._cells = {cell.title: cell for cell in cells}

    def ratio(
        self,
        title: str,
        others: Sequence[str],
        bar: float | None,
        stretch: float | None = None,
        *,
        name: str = FASTNODE,
        figure: str = "rate",
        what: str = "",
    ) -> Bar:
        """fastnode to the best of some others; `what` they are called together."""
        cell = self._cells.get(title)
        best = cell.best(others, figure) if cell else None
        work = title if name == FASTNODE else f"{title}, batch handler"
        if figure != "rate":
            work += ", p50"
        against = ": ".join(part for part in (what, best or "") if part)
        measured = cpu = None
        if cell is not None and best is not None and cell.values(name, figure):
            measured = cell.ratio(name, best, figure)
            cpu = cell.cpu_ratio(name, best)
        if not against:
            against = others[0]
        return Bar(work, against, measured, cpu, bar, stretch, figure != "rate")

    def figure(
        self, title: str, figure: str, bar: float, stretch: float, unit: str
    ) -> Bar:
        """Something that is at most so much, whatever others need."""
        cell = self._cells.get(title)
        there = cell is not None and cell.values(FASTNODE, figure)
        measured = cell.median(FASTNODE, figure) if cell and there else None
        return Bar(title, "", measured, None, bar, stretch, most=True, unit=unit)

    def to_itself(self, title: str, other: str, bar: float, stretch: float) -> Bar:
        """fastnode's rate in one kind of work to its rate in another one."""

        def ratio(of: Callable[[dict[str, float]], float]) -> float | None:
            first, second = self._cells.get(title), self._cells.get(other)
            if first is None or second is None:
                return None
            ratios = [
                of(mine[FASTNODE]) / of(theirs[FASTNODE])
                for mine, theirs in zip(first.rounds, second.rounds, strict=False)
                if FASTNODE in mine and FASTNODE in theirs
            ]
            return statistics.median(ratios) if ratios else None

        return Bar(
            title,
            f"its own {other}",
            ratio(lambda figures: figures["rate"]),
            ratio(lambda figures: figures["client us"] + figures["server us"]),
            bar,
            stretch,
        )


def judge(cells: Sequence[Cell]) -> list[Bar]:
    """All bars."""
    by = Judge(cells)
    floor, rivals = [FLOOR], tagged("rival")
    every, by_hand = "best rival", "best that coalesces by hand"
    small, one, many = (
        "one-way, 64 B",
        "call, 64 B, 1 outstanding",
        "call, 64 B, 64 outstanding",
    )
    return [
        by.ratio(small, tagged("coalesced"), 2.5, what=by_hand),
        by.ratio(small, tagged("zmq"), 5.0),
        by.ratio(small, floor, 0.3, 0.45),
        by.ratio(small, floor, 0.4, 0.6, name=BATCH),
        by.ratio("one-way, 1 KiB", floor, 0.75, 0.95),
        by.ratio("one-way, 16 KiB", floor, 0.9, 1.2),
        by.ratio("one-way, 16 KiB", rivals, 1.0, what=every),
        by.ratio("one-way, 1 MiB", floor, 0.9, 1.2),
        by.ratio("one-way, 1 MiB", rivals, 1.0, what=every),
        by.ratio(one, floor, 2.0, 1.5, figure="p50 us"),
        by.ratio(one, rivals, 1.0, figure="p50 us", what=every),
        by.ratio(many, tagged("asyncio"), 1.5, what="best on asyncio"),
        by.ratio(many, tagged("grpc"), 20.0),
        by.ratio(many, floor, None, 0.5),
        by.ratio("handshakes, 32 at once", floor, 0.8, 0.95),
        by.ratio("handshakes, 32 at once", [UNTICKETED], 0.8, 0.95),
        by.figure("memory, 1,000 idle links", "RSS KiB", 40.0, 25.0, "KiB"),
        by.figure("memory, 10,000 idle links", "RSS KiB", 40.0, 25.0, "KiB"),
        by.to_itself("fan-in, 256 links", small, 0.8, 1.0),
        by.figure("import", "ms", 80.0, 40.0, "ms"),
    ]


def table(bars: Sequence[Bar]) -> str:
    """For a terminal."""
    rows = [HEADS, *(bar.cells() for bar in bars)]
    widths = [max(len(row[at]) for row in rows) for at in range(len(HEADS))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True))
        .rstrip()
        for row in rows
    )  # fmt: skip


def markdown(bars: Sequence[Bar]) -> str:
    """For README.md."""
    rows = [HEADS, ["---"] * len(HEADS), *(bar.cells() for bar in bars)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
