"""``fastnode check``: why does it not connect?"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fastnode.cli.exit_code import exit_code
from fastnode.cli.hints import by_options
from fastnode.cli.options import FILE, FOLDER, name_in, pair_of
from fastnode.cli.records import json_option
from fastnode.cli.values import ADDRESS, HOST, NODE_NAME, SECONDS
from fastnode.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from fastnode import CertAuthManager, Certificate
    from fastnode.cli.check.examination import Finding
    from fastnode.names import NodeName

__all__ = ["check"]


@click.command()
@click.argument("address", type=ADDRESS, metavar="HOST:PORT")
@click.option("--cert", type=FILE, help="The certificate chain to show, PEM.")
@click.option("--key", type=FILE, help="The private key, PEM.  [default: in --cert]")
@click.option(
    "--ca",
    type=FILE,
    help="The authorities to trust, PEM.  [default: those of the system]",
)
@click.option(
    "--dir",
    "directory",
    type=FOLDER,
    help="A directory made by 'fastnode ca'. It replaces --ca, and with --as also "
    "--cert and --key.",
)
@click.option(
    "--name",
    type=HOST,
    help="The name to verify in the acceptor's certificate.  [default: HOST]",
)
@click.option(
    "--as",
    "own_name",
    type=NODE_NAME,
    help="Your own node name.  [default: the fastnode:// name in --cert]",
)
@click.option(
    "--timeout",
    type=SECONDS,
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="The time for each wait.",
)
@json_option("Print one JSON object when the check is done.")
@click.pass_context
def check(
    ctx: click.Context,
    address: tuple[str, int],
    cert: Path | None,
    key: Path | None,
    ca: Path | None,
    directory: Path | None,
    name: str | None,
    own_name: NodeName | None,
    timeout: float,
    as_json: bool,
) -> None:
    """Find out why a node at HOST:PORT does not connect.

    The command makes one handshake and shows the result of each step. The exit code
    is 0 if a link would come up, and 1 if the server is not a fastnode acceptor.
    'fastnode --help' explains the other exit codes.

    \b
    Example:
      fastnode check 127.0.0.1:15000 --dir certs --as me@127.0.0.1
    """
    from fastnode.cli.check.examination import Examination
    from fastnode.names import verified_host

    host, port = address
    if directory is not None:
        ca = ca or directory / "ca.pem"
    cert, key = pair_of(directory, own_name, cert, key)
    shown = _certificate(cert, key)
    examination = Examination(
        host,
        port,
        _manager(shown, ca),
        server_name=verified_host(name or host),
        own=own_name or name_in(shown),
        timeout=timeout,
    )
    findings: list[Finding] = []
    console = None if as_json else _console()
    for finding in examination.run():
        # The hint is for a bad result only.
        hint = finding.hint if finding.ok is False else None
        finding.hint = by_options(hint) or None
        finding.found = by_options(finding.found)
        findings.append(finding)
        if console is not None:
            _show(console, finding)
    error = examination.error
    if as_json:
        report = {
            "ok": error is None,
            "error": None if error is None else type(error).__name__,
            "hint": None if error is None else by_options(error.hint) or None,
            "findings": [asdict(finding) for finding in findings],
        }
        click.echo(json.dumps(report, indent=2))
    elif error is None:
        click.echo("a link would come up")
    else:
        click.echo(f"no link: {type(error).__name__}")
    ctx.exit(0 if error is None else exit_code(error))


def _certificate(cert: Path | None, key: Path | None) -> Certificate | None:
    from fastnode import Certificate

    if cert is None:
        if key is not None:
            raise ConfigError("--key was given without --cert", hint="give both")
        return None
    return Certificate.load(cert, key)


def _manager(shown: Certificate | None, ca: Path | None) -> CertAuthManager:
    from fastnode import CertAuthManager, CertPool

    pool = None if ca is None else CertPool.load(ca)
    return CertAuthManager(shown, root_cas=pool)


def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False)


def _show(console: Console, finding: Finding) -> None:
    from rich.text import Text

    from fastnode.cli.console import print_indented

    words, style = {
        True: ("pass", "green"),
        False: ("FAIL", "bold red"),
        None: ("info", "cyan"),
    }[finding.ok]
    found = Text.assemble(
        (words, style), "  ", (finding.name, "bold"), ": ", finding.found
    )
    print_indented(console, found, 6, first=0)
    for line in finding.details:
        print_indented(console, Text(line, "dim"), 8)
    if finding.hint:
        print_indented(console, Text(f"-> {finding.hint}", "yellow"), 6)
