"""One fastnode against another: two installations, turn by turn in the same rounds.

    python bench/compare.py OLD/bin/python NEW/bin/python
    python bench/compare.py OLD/bin/python NEW/bin/python --only one-way --rounds 9

Each is asked with the benchmark beside this file, in its own interpreter. Ratios are
medians over the rounds, of the rate and of the CPU time of both sides together: a new
one that costs nothing has 1.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import report
from cell import Cell

RUN = Path(__file__).with_name("run.py")
OLD, NEW = "old", "new"


def ask(python: str, options: argparse.Namespace) -> list[Cell]:
    """One round of one installation."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "result.json")
        command = [python, str(RUN), "--contender", "fastnode", "--rounds", "1"]
        command += ["--seconds", str(options.seconds), "--json", str(result)]
        command += [*(["--quick"] if options.quick else []), "--only", *options.only]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        cells, _ = report.from_json(result.read_text())
    return cells


def compared(options: argparse.Namespace) -> list[Cell]:
    """Cells with two contenders."""
    cells: dict[str, Cell] = {}
    for number in range(options.rounds):
        figures = {}
        for name in report.turns([OLD, NEW], number):
            python = options.old if name == OLD else options.new
            figures[name] = {cell.title: cell for cell in ask(python, options)}
        for title, cell in figures[NEW].items():
            kept = cells.setdefault(
                title, Cell(cell.group, title, cell.unit, cell.main)
            )
            kept.rounds.append(
                {
                    name: found[title].rounds[0]["fastnode"]
                    for name, found in figures.items()
                }
            )
    return list(cells.values())


def row(cell: Cell) -> str:
    """One line for one kind of work."""
    rates = [f"{cell.median(name, 'rate'):>14,.0f}" for name in (OLD, NEW)]
    ratios = [f"{cell.ratio(NEW, OLD):>8.2f}", f"{cell.cpu_ratio(NEW, OLD):>8.2f}"]
    return f"{cell.title:<32}" + "".join(rates + ratios)


def main() -> int:
    """Measure and show."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("old", help="the interpreter that has the one")
    parser.add_argument("new", help="the interpreter that has the other")
    parser.add_argument("--only", nargs="+", default=["one-way", "call"])
    parser.add_argument("--quick", action="store_true", help="short turns, few links")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.4)
    options = parser.parse_args()
    cells = compared(options)
    heads = [f"{head:>14}" for head in ("old/s", "new/s")]
    print(f"{'':<32}" + "".join(heads) + f"{'rate':>8}{'CPU':>8}")
    for cell in cells:
        print(row(cell))
    return 0


if __name__ == "__main__":
    sys.exit(main())
