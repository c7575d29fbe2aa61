"""The command ``fastnode demo``."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from fastnode.cli.demo.report import Report

__all__ = ["demo"]


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--messages", type=click.IntRange(1000), default=1_000_000, show_default=True
)
@click.option("--calls", type=click.IntRange(100), default=20_000, show_default=True)
@click.pass_context
def demo(ctx: click.Context, *, as_json: bool, messages: int, calls: int) -> None:
    """Show two nodes in two processes over mutual TLS on this machine.

    Makes a CA and certificates in a temporary folder, sends messages and calls,
    rotates a certificate while traffic flows, and lets intruders try. Exits with 0
    only if every step did what it should.

    \b
    Example:  fastnode demo --messages 100000
    """
    from fastnode.node.runner import run

    with tempfile.TemporaryDirectory(prefix="fastnode-demo-") as directory:
        report = run(_tour(Path(directory), messages, calls, as_json=as_json))
    if as_json:
        click.echo(json.dumps(report.as_json(), indent=2))
    ctx.exit(0 if report.ok else 1)


async def _tour(directory: Path, messages: int, calls: int, *, as_json: bool) -> Report:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from fastnode.cli.demo.report import Report, Step
    from fastnode.cli.demo.tour import Tour

    console = Console(quiet=as_json, highlight=False)
    report = Report()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        bars: dict[str, int] = {}

        def progress(name: str, done: int, total: int) -> None:
            if name not in bars:
                bars[name] = bar.add_task(name, total=total)
            bar.update(bars[name], completed=done, visible=done < total)  # type: ignore[arg-type]

        def done(step: Step) -> None:
            report.show_step(console, step)

        await Tour(directory, messages, calls, progress).run(report, done)
    console.print()
    report.show_table(console)
    return report
