"""One kind of work, and what everybody's rounds of it gave."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field

#: What a turn measured, by name: "rate" (units a second), "client us" and "server us"
#: (CPU time of each side for a unit), and others that say their unit.
Figures = dict[str, float]


@dataclass
class Cell:
    """One kind of work, done by all contenders in every round.

    Attributes:
        group: the name of the workload that it belongs to.
        title: what tables call it.
        unit: what a rate counts.
        main: the figure that ratios are of; less is better unless it is the rate.
        size: bytes of a unit, for MB/s; 0: they do not matter.
        rounds: for each round, the figures of each contender.
    """

    group: str
    title: str
    unit: str
    main: str = "rate"
    size: int = 0
    rounds: list[dict[str, Figures]] = field(default_factory=list)

    @property
    def contenders(self) -> list[str]:
        """Those that took part in any round."""
        return list(dict.fromkeys(name for each in self.rounds for name in each))

    def values(self, name: str, figure: str) -> list[float]:
        """A contender's figure in all rounds that have it."""
        return [
            figures[name][figure]
            for figures in self.rounds
            if figure in figures.get(name, {})
        ]

    def median(self, name: str, figure: str) -> float:
        """Its median over the rounds."""
        return statistics.median(self.values(name, figure))

    def ratio(self, name: str, other: str, figure: str | None = None) -> float:
        """Median over the rounds of the ratio of two contenders in the same round."""
        if figure is None:
            figure = self.main
        return statistics.median(
            figures[name][figure] / figures[other][figure]
            for figures in self.rounds
            if name in figures and other in figures
        )

    def cpu_ratio(self, name: str, other: str) -> float:
        """The same of the CPU time of both sides together."""
        return statistics.median(
            cpu(figures[name]) / cpu(figures[other])
            for figures in self.rounds
            if name in figures and other in figures
        )

    def best(self, names: Iterable[str], figure: str | None = None) -> str | None:
        """Who of these has the best median; None: none of them took part."""
        if figure is None:
            figure = self.main
        medians = {
            name: self.median(name, figure)
            for name in names
            if self.values(name, figure)
        }
        if not medians:
            return None
        choose = max if figure == "rate" else min
        return choose(medians, key=lambda name: medians[name])


def cpu(figures: Figures) -> float:
    """CPU time of both sides, microseconds for a unit."""
    return figures["client us"] + figures["server us"]
