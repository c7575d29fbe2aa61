"""Rounds of measurements, and the table of their medians.

The contenders take turns in every round, and a ratio is the median of the ratios
within the rounds: what else the machine does then touches both sides of it alike.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import machine


@dataclass(frozen=True)
class Sample:
    """One contender's work in one round.

    Attributes:
        rate: units of work a second.
        client_cpu, server_cpu: microseconds of CPU time for each unit.
        extra: further figures by name.
    """

    rate: float
    client_cpu: float
    server_cpu: float
    extra: dict[str, float] = field(default_factory=dict)


@dataclass
class Cell:
    """One kind of work, done by all contenders in every round."""

    title: str
    unit: str
    #: Bytes of a unit, for MB/s; 0: they do not matter.
    size: int = 0
    rounds: list[dict[str, Sample]] = field(default_factory=list)

    def ratio(self, contender: str, baseline: str) -> float:
        """Median over the rounds of a contender's rate to another one's."""
        return statistics.median(
            samples[contender].rate / samples[baseline].rate for samples in self.rounds
        )

    def median(self, contender: str, attribute: str) -> float:
        """Median over the rounds."""
        values: list[float] = [getattr(s[contender], attribute) for s in self.rounds]
        return statistics.median(values)

    def extra(self, contender: str, name: str) -> float:
        """Median over the rounds of a further figure."""
        return statistics.median(s[contender].extra[name] for s in self.rounds)

    @property
    def contenders(self) -> Sequence[str]:
        """Those that took part."""
        return list(self.rounds[0]) if self.rounds else []

    def table(self, baseline: str) -> str:
        """Medians, for people."""
        extras = list(next(iter(self.rounds[0].values())).extra)
        heads = [f"{self.unit}/s", *(["MB/s"] if self.size else []), "ratio",
                 "client us", "server us", *extras]  # fmt: skip
        lines = [f"{self.title:<28}" + "".join(f"{head:>13}" for head in heads)]
        for name in self.contenders:
            rate = self.median(name, "rate")
            values = [
                f"{rate:,.0f}",
                *([f"{rate * self.size / 1e6:,.1f}"] if self.size else []),
                f"{self.ratio(name, baseline):.2f}",
                f"{self.median(name, 'client_cpu'):.3f}",
                f"{self.median(name, 'server_cpu'):.3f}",
                *(f"{self.extra(name, extra):,.1f}" for extra in extras),
            ]
            lines.append(f"  {name:<26}" + "".join(f"{value:>13}" for value in values))
        return "\n".join(lines)


def turns(names: list[str], number: int) -> list[str]:
    """Who follows whom in a round: it changes, so that nobody always comes first."""
    first = number % len(names)
    return names[first:] + names[:first]


def show(cells: Sequence[Cell], baseline: str, as_json: bool) -> None:
    """Print everything that was measured."""
    if as_json:
        described = {
            "machine": machine.describe(),
            "baseline": baseline,
            "cells": [
                asdict(cell)
                | {"ratios": {name: cell.ratio(name, baseline)
                              for name in cell.contenders}}
                for cell in cells
            ],
        }  # fmt: skip
        print(json.dumps(described, indent=1))
        return
    for key, value in machine.describe().items():
        print(f"{key}: {value}")
    print(
        "medians over the rounds; ratio: of the rate, within a round, to "
        f"{baseline!r}; us: CPU time for each\n"
    )
    print("\n\n".join(cell.table(baseline) for cell in cells))


def progress(text: str) -> None:
    """Tell a person who waits what goes on."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
