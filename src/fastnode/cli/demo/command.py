"""The command ``fastnode demo``."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fastnode.cli.records import json_option

if TYPE_CHECKING:
    from fastnode.cli.demo.report import Report

__all__ = ["demo"]


@click.command()
@json_option("Print one JSON object when the demo is done.")
@click.option(
    "--messages",
    type=click.IntRange(1000),
    default=1_000_000,
    show_default=True,
    metavar="N",
    help="The number of messages to send one way.",
)
@click.option(
    "--calls",
    type=click.IntRange(100),
    default=20_000,
    show_default=True,
    metavar="N",
    help="The number of calls to make, 64 at a time.",
)
@click.pass_context
def demo(ctx: click.Context, *, as_json: bool, messages: int, calls: int) -> None:
    """Show two nodes in two processes with mutual TLS on this machine.

    The demo makes an authority and certificates in a temporary directory. It sends
    messages and calls, rotates a certificate while messages are sent, and lets
    intruders try to connect. The exit code is 0 only if every step has the right
    result.

    \b
    Example:
      fastnode demo --messages 100000
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
    report.show_verdict(console)
    return report
