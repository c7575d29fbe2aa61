"""Everything that is measured, with one command; see README.md beside this file.

python bench/run.py                      everything: about forty minutes
python bench/run.py --quick              the same in short, to see that it works
python bench/run.py --only one-way call  some workloads
python bench/run.py --bars --check       exit 1 where fastnode misses a bar
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import bars
import report
import trust
from cell import Cell
from contenders import ENTRANTS
from work import GROUPS, Pace, Work

README = Path(__file__).with_name("README.md")


def present(chosen: list[str]) -> tuple[list[str], dict[str, str]]:
    """Who of the chosen can take part, and why others cannot."""
    reasons = {name: ENTRANTS[name].missing() for name in chosen}
    left_out = {name: reason for name, reason in reasons.items() if reason is not None}
    return [name for name in chosen if name not in left_out], left_out


def measure(plan: list[Work], names: list[str], pace: Pace) -> dict[str, str]:
    """Fill the cells: every contender in every round. What failed, and why."""
    parts = [(work, work.names(names)) for work in plan]
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        trust.make(folder)
        rounds = [work.rounds or pace.rounds for work in plan]
        for number in range(max(rounds, default=0)):
            for (work, taking_part), limit in zip(parts, rounds, strict=True):
                if number >= limit:
                    continue
                figures = {}
                for name in report.turns(taking_part, number):
                    what = f"round {number + 1}: {work.cell.title}, {name}"
                    report.progress(what)
                    try:
                        with alarm(work.limit_seconds):
                            figures[name] = work.turn(name, folder)
                    # The others have come far: one that breaks does not end them.
                    except (Exception, SystemExit) as error:
                        failed[what] = f"{type(error).__name__}: {error}"
                # In the order of the list, whoever came first.
                work.cell.rounds.append(
                    {name: figures[name] for name in taking_part if name in figures}
                )
    report.progress("")
    return failed


@contextmanager
def alarm(seconds: int) -> Iterator[None]:
    """Raise `SystemExit`, which no loop holds back, in what takes longer."""

    def ring(*_: object) -> None:
        raise SystemExit(f"it took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def raise_descriptor_limit() -> None:
    """As far as is allowed, for this process and those that it starts."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def arguments() -> argparse.Namespace:
    """What the user asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="few rounds, short turns, few links")
    add("--only", nargs="+", choices=GROUPS, metavar="WORKLOAD",
        help=", ".join(GROUPS))  # fmt: skip
    add("--contender", nargs="+", choices=ENTRANTS, metavar="NAME",
        help="; ".join(ENTRANTS))  # fmt: skip
    add("--rounds", type=int, help="5 unless --quick")
    add("--seconds", type=float, help="for each turn; 0.5 unless --quick")
    add("--json", type=Path, metavar="FILE", help="write every sample")
    add("--from", type=Path, metavar="FILE", dest="source",
        help="measure nothing: show what --json wrote")  # fmt: skip
    add("--plots", type=Path, metavar="DIR", help="draw them, as SVG and PNG")
    add("--bars", action="store_true", help="judge fastnode by its bars")
    add("--check", action="store_true", help="the same, and exit 1 where it misses one")
    add("--readme", action="store_true", help="write the results into README.md")
    return parser.parse_args()


def measured(options: argparse.Namespace) -> tuple[list[Cell], dict[str, str], bool]:
    """Measure; the cells, what they were measured on, and whether all went well."""
    if options.quick:
        pace = Pace.quick(options.rounds or 1, options.seconds or 0.05)
    else:
        default = Pace()
        pace = Pace(
            options.rounds or default.rounds, options.seconds or default.seconds
        )
    raise_descriptor_limit()
    names, left_out = present(options.contender or list(ENTRANTS))
    described = report.describe(pace.rounds, pace.seconds)
    groups = options.only or list(GROUPS)
    plan = []
    for name in GROUPS:
        for work in GROUPS[name](pace) if name in groups else []:
            obstacle = work.obstacle()
            if obstacle is None:
                plan.append(work)
            else:
                left_out[work.cell.title] = obstacle
    described |= {f"left out: {what}": reason for what, reason in left_out.items()}
    failed = measure(plan, names, pace)
    described |= {f"failed: {what}": reason for what, reason in failed.items()}
    cells = [work.cell for work in plan]
    if options.json:
        options.json.write_text(report.as_json(cells, described))
    return cells, described, not failed


def main() -> int:
    """Measure, show, judge."""
    options = arguments()
    good = True
    if options.source:
        cells, described = report.from_json(options.source.read_text())
    else:
        cells, described, good = measured(options)
    judged = bars.judge(cells)
    print(report.tables(cells, described))
    if options.bars or options.check:
        print("\n" + bars.table(judged))
    if options.readme:
        report.update_readme(
            README, report.results(cells, described, bars.markdown(judged))
        )
    if options.plots:
        import plots

        for path in plots.draw(cells, options.plots):
            print(f"drawn: {path}", file=sys.stderr)
    missed = options.check and any(bar.missed for bar in judged)
    return 1 if missed or not good else 0


if __name__ == "__main__":
    sys.exit(main())
