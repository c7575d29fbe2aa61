"""The command group, and how its errors are shown."""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from fastnode.cli.ca import ca
from fastnode.cli.check.command import check
from fastnode.cli.demo.command import demo
from fastnode.cli.exit_code import EXIT_FAILED, EXIT_INTERRUPTED, exit_code
from fastnode.cli.listen import listen
from fastnode.cli.output import by_options, printable
from fastnode.cli.send import call, ping, send
from fastnode.errors import FastnodeError

__all__ = ["cli"]


class Commands(click.Group):
    """Shows errors as two lines and an exit code, never as a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except FastnodeError as error:
            click.echo(f"error: {printable(error.summary)}", err=True)
            if error.hint:
                click.echo(f"hint: {printable(by_options(error.hint))}", err=True)
            ctx.exit(exit_code(error))
        except BrokenPipeError:
            # Whoever read our output has what it wanted. The interpreter flushes once
            # more at its end, and would complain.
            with Path(os.devnull).open("wb") as nowhere:
                os.dup2(nowhere.fileno(), sys.stdout.fileno())
            ctx.exit(EXIT_FAILED)
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            click.echo(f"error: {where}{error.strerror or error}", err=True)
            ctx.exit(EXIT_FAILED)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(EXIT_INTERRUPTED)


def _version(ctx: click.Context) -> None:
    from fastnode.tls.choice import tls_engine

    click.echo(f"fastnode, version {version('fastnode')}\n{tls_engine()}")
    ctx.exit()


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=lambda ctx, _, value: _version(ctx) if value else None,
    help="Show the version, and how TLS is done, and exit.",
)
def cli() -> None:
    """Fast, mutually authenticated TLS links between Python services.

    \b
    Try it:   fastnode demo
    Use it:   fastnode ca init DIR
              fastnode ca issue orders@127.0.0.1 --dir DIR
              fastnode listen orders@127.0.0.1 --dir DIR --echo
    Mend it:  fastnode check 127.0.0.1:15000 --dir DIR --as orders@127.0.0.1

    \b
    Exit codes: 0 success, 1 the operation failed, 2 wrong usage, configuration or
    certificate files, 3 a peer or this node refused the other, 4 not reachable or
    no reply in time, 130 interrupted.
    """


for command in (ca, listen, send, call, ping, check, demo):
    cli.add_command(command)
