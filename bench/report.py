"""Tables for people, JSON for programs, and the generated part of README.md."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import machine
from cell import Cell
from contenders import ENTRANTS, FLOOR

BEGIN, END = "<!-- results -->", "<!-- end of results -->"

RIVALS = [name for name, entrant in ENTRANTS.items() if "rival" in entrant.tags]


def table(cell: Cell) -> str:
    """Medians over the rounds, and medians of the ratios within them."""
    best = cell.best(RIVALS)
    floor = FLOOR if cell.values(FLOOR, cell.main) else None
    compared = [other for other in (floor, best) if other is not None]
    heads = {FLOOR: "of C", best: "of rival"}
    names = cell.contenders
    first = next(each[names[0]] for each in cell.rounds if names[0] in each)
    figures = [figure for figure in first if figure != "rate"]
    columns = [
        *([f"{cell.unit}/s", "spread"] if "rate" in first else []),
        *(["MB/s"] if cell.size else []),
        *(heads[other] for other in compared),
        *figures,
    ]
    width = max(32, *(len(name) + 3 for name in names))
    lines = [f"{cell.title:<{width}}" + "".join(f"{c:>15}" for c in columns)]
    for name in names:
        values = []
        if "rate" in first:
            rates = cell.values(name, "rate")
            values += [
                f"{cell.median(name, 'rate'):,.0f}",
                f"{short(min(rates))}-{short(max(rates))}",
            ]
        if cell.size:
            values.append(f"{cell.median(name, 'rate') * cell.size / 1e6:,.1f}")
        values += [f"{cell.ratio(name, other):.2f}" for other in compared]
        values += [number(cell.median(name, figure)) for figure in figures]
        mark = " *" if name == best else ""
        label = f"  {name}{mark}"
        lines.append(f"{label:<{width}}" + "".join(f"{v:>15}" for v in values))
    return "\n".join(lines)


def number(value: float) -> str:
    """With as many decimals as say something."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}" if value else "0"


def short(value: float) -> str:
    """A rate in a few characters."""
    for limit, unit in ((1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.3g}"


def tables(cells: Sequence[Cell], described: Mapping[str, str]) -> str:
    """Everything, for people."""
    lines = [f"{key}: {value}" for key, value in described.items()]
    lines.append(
        "Medians over the rounds. Ratios: medians of those within a round, to C and to "
        "the best rival (*), of the rate or else of the first figure. "
        "us: CPU time for each unit."
    )
    return "\n\n".join(["\n".join(lines), *map(table, filter(taken, cells))])


def taken(cell: Cell) -> bool:
    """Whether anybody took part."""
    return bool(cell.contenders)


def as_json(cells: Sequence[Cell], described: Mapping[str, str]) -> str:
    """Every sample."""
    return json.dumps(
        {"machine": dict(described), "cells": [asdict(cell) for cell in cells]},
        indent=1,
    )


def from_json(text: str) -> tuple[list[Cell], dict[str, str]]:
    """What `as_json` wrote."""
    read = json.loads(text)
    return [Cell(**each) for each in read["cells"]], read["machine"]


def update_readme(path: Path, text: str) -> None:
    """Put the text between the markers.

    Raises:
        SystemExit: they are not there.
    """
    before, began, rest = path.read_text().partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not (began and ended):
        raise SystemExit(f"{path} has no {BEGIN} and {END}")
    path.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")


def results(cells: Sequence[Cell], described: Mapping[str, str], bars: str) -> str:
    """The generated part of README.md."""
    facts = "\n".join(f"- {key}: {value}" for key, value in described.items())
    blocks = "\n\n".join(f"```\n{table(cell)}\n```" for cell in filter(taken, cells))
    return f"{facts}\n\n### The bars\n\n{bars}\n\n### The tables\n\n{blocks}"


def describe(rounds: int, seconds: float) -> dict[str, str]:
    """The machine, the versions, and how long this took."""
    how = f"{rounds} rounds, turns of {seconds:g} s"
    return machine.describe() | {"rounds": how}


def turns(names: list[str], round_number: int) -> list[str]:
    """Who follows whom in a round: it changes, so that nobody always comes first."""
    first = round_number % len(names) if names else 0
    return names[first:] + names[:first]


def progress(text: str) -> None:
    """Tell a person who waits what goes on."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
