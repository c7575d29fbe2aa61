"""The command group, and how its errors are shown."""

from __future__ import annotations

import errno
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from fastnode.cli.ca import ca
from fastnode.cli.call import call
from fastnode.cli.check.command import check
from fastnode.cli.demo.command import demo
from fastnode.cli.exit_code import (
    EXIT_CODES,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    exit_code,
)
from fastnode.cli.group import Commands
from fastnode.cli.health import health
from fastnode.cli.hints import by_options
from fastnode.cli.listen import listen
from fastnode.cli.output import printable
from fastnode.cli.ping import ping
from fastnode.cli.records import error_record, print_record, wanted
from fastnode.cli.send import send
from fastnode.errors import FastnodeError

__all__ = ["cli"]


#: Errors of output that cannot be written: nobody reads it, or there is no room.
UNWRITABLE = frozenset({errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EIO})


class Program(Commands):
    """Shows errors as two lines and an exit code, never as a traceback."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run the program. The errors that `invoke` does not see are those of --help
        and --version."""
        try:
            return super().main(*args, **extra)
        except OSError as error:
            _show_system_error(error)
            sys.exit(EXIT_FAILED)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except FastnodeError as error:
            code = exit_code(error)
            click.echo(f"error: {printable(by_options(error.summary))}", err=True)
            if error.hint:
                click.echo(f"hint: {printable(by_options(error.hint))}", err=True)
            if wanted(ctx):
                print_record("error", **error_record(error, code))
            ctx.exit(code)
        except OSError as error:
            _show_system_error(error)
            ctx.exit(EXIT_FAILED)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(EXIT_INTERRUPTED)


def _show_system_error(error: OSError) -> None:
    """Show an error of the system. End quietly if nobody reads the output any more."""
    if error.errno in UNWRITABLE and sys.stdout is not None:
        # The interpreter writes the rest of the output when it ends, and would
        # complain again.
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
    if not isinstance(error, BrokenPipeError):
        where = f"{error.filename}: " if error.filename else ""
        click.echo(f"error: {where}{error.strerror or error}", err=True)


def _version(ctx: click.Context) -> None:
    from fastnode.tls.choice import tls_engine

    click.echo(f"fastnode, version {version('fastnode')}\n{tls_engine()}")
    ctx.exit()


_HELP = """Send messages between Python services over mutually authenticated TLS.

\b
See what it does, on this machine:
  fastnode demo

\b
Make certificates, run a node, and call it from a second terminal:
  fastnode ca init certs
  fastnode ca issue orders@127.0.0.1 --dir certs
  fastnode ca issue me@127.0.0.1 --dir certs
  fastnode listen orders@127.0.0.1 --dir certs --echo
  echo hello | fastnode call orders@127.0.0.1 echo --dir certs \\
      --as me@127.0.0.1

\b
Find out why two nodes do not connect:
  fastnode check 127.0.0.1:15000 --dir certs --as me@127.0.0.1

\b
Exit codes:
""" + "\n".join(f"  {code:<3}  {meaning}" for code, meaning in EXIT_CODES.items())


@click.group(
    cls=Program,
    help=_HELP,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=lambda ctx, _, value: _version(ctx) if value else None,
    help="Show the version and the TLS library, and exit.",
)
def cli() -> None:
    """Run the command that was chosen."""


for command in (ca, listen, send, call, ping, health, check, demo):
    cli.add_command(command)
