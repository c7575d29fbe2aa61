"""Drawings of what was measured; needs matplotlib."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib as mpl

from cell import Cell
from clients import SHARES
from contenders import ENTRANTS, FLOOR

mpl.use("Agg")

from matplotlib import pyplot as plt  # the choice of a canvas comes first

COLOURS = {"fastnode": "#c0392b", "floor": "#2c3e50", "rival": "#95a5a6"}


def draw(cells: Sequence[Cell], folder: Path) -> Iterator[Path]:
    """One picture for each workload, as SVG and PNG; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    groups = dict.fromkeys(cell.group for cell in cells)
    for group in groups:
        there = [cell for cell in cells if cell.group == group and cell.contenders]
        if there:
            yield from bars(there, folder / group)
        for cell in there:
            if cell.main == "p99 us":
                yield from percentiles(cell, folder / f"{group}-percentiles")


def colour(name: str) -> str:
    """By what it is."""
    entrant = ENTRANTS.get(name)
    tags = entrant.tags if entrant else {"fastnode" if name == "fastnode" else "rival"}
    return next(COLOURS[tag] for tag in COLOURS if tag in tags)


def bars(cells: Sequence[Cell], path: Path) -> Iterator[Path]:
    """Medians of the main figure, with the least and the greatest."""
    most = max(len(cell.contenders) for cell in cells)
    figure, axes = plt.subplots(
        1, len(cells), squeeze=False, figsize=(5.5 * len(cells), 1.2 + 0.35 * most)
    )
    for axis, cell in zip(axes[0], cells, strict=True):
        names = cell.contenders[::-1]
        medians = [cell.median(name, cell.main) for name in names]
        spreads: list[list[float]] = [[], []]
        for name, median in zip(names, medians, strict=True):
            values = cell.values(name, cell.main)
            spreads[0].append(median - min(values))
            spreads[1].append(max(values) - median)
        axis.barh(names, medians, xerr=spreads, color=[colour(name) for name in names])
        if cell.main == "rate" and max(medians) > 20 * min(medians):
            axis.set_xscale("log")
        if FLOOR in names:
            axis.axvline(cell.median(FLOOR, cell.main), color="black", linestyle=":")
        axis.set_title(cell.title)
        axis.set_xlabel(f"{cell.unit}/s" if cell.main == "rate" else cell.main)
    yield from saved(figure, path)


def percentiles(cell: Cell, path: Path) -> Iterator[Path]:
    """Times of calls by their share, on a scale that stretches the tail."""
    figure, axis = plt.subplots(figsize=(8, 5))
    labels = list(SHARES)
    for name in cell.contenders:
        medians = [cell.median(name, label) for label in labels]
        style = "-" if colour(name) != COLOURS["rival"] else "--"
        axis.plot(labels, medians, style, marker="o", label=name)
    axis.set_yscale("log")
    axis.set_ylabel("microseconds")
    axis.set_title(cell.title)
    axis.legend(fontsize="small")
    yield from saved(figure, path)


def saved(figure: plt.Figure, path: Path) -> Iterator[Path]:
    """Write it in both forms."""
    figure.tight_layout()
    for suffix in (".svg", ".png"):
        figure.savefig(path.with_suffix(suffix), dpi=120)
        yield path.with_suffix(suffix)
    plt.close(figure)
