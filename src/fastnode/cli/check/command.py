"""``fastnode check``: why does it not connect?"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fastnode.cli.exit_code import exit_code
from fastnode.cli.output import by_options
from fastnode.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from fastnode import CertAuthManager, Certificate
    from fastnode.cli.check.examination import Finding
    from fastnode.names import NodeName

__all__ = ["check"]

_file = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("address", metavar="HOST:PORT")
@click.option("--cert", type=_file, help="The certificate chain to show, PEM.")
@click.option("--key", type=_file, help="Its private key.  [default: in --cert]")
@click.option("--ca", type=_file, help="Authorities to trust.  [default: the system's]")
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    help="A directory made by 'fastnode ca': stands for --ca, and with --as for --cert "
    "and --key.",
)
@click.option("--name", help="Name to verify in its certificate.  [default: HOST]")
@click.option(
    "--as",
    "own_name",
    metavar="NAME@HOST",
    help="Who you are.  [default: the fastnode:// name in the certificate]",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=10.0,
    show_default=True,
    help="Seconds for each wait.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def check(
    ctx: click.Context,
    address: str,
    cert: Path | None,
    key: Path | None,
    ca: Path | None,
    directory: Path | None,
    name: str | None,
    own_name: str | None,
    timeout: float,
    as_json: bool,
) -> None:
    """Shake hands with the acceptor at HOST:PORT, step by step, and say what is wrong.

    \b
    Example:  fastnode check 127.0.0.1:15000 --dir certs --as me@127.0.0.1

    \b
    Exit codes: 0 a link would come up, 1 the server is no fastnode acceptor,
    2 wrong usage or files, 3 one side refuses the other, 4 not reachable or no
    answer in time, 130 interrupted.
    """
    from fastnode.cli.check.examination import Examination
    from fastnode.names import verified_host

    host, port = _parse(address)
    if directory is not None:
        ca = ca or directory / "ca.pem"
    if directory is not None and own_name is not None:
        cert = cert or directory / f"{own_name}.pem"
        key = key or directory / f"{own_name}-key.pem"
    shown = _certificate(cert, key)
    examination = Examination(
        host,
        port,
        _manager(shown, ca),
        server_name=verified_host(name or host),
        own=_own_name(own_name, shown),
        timeout=timeout,
    )
    findings: list[Finding] = []
    console = None if as_json else _console()
    for finding in examination.run():
        finding.hint = by_options(finding.hint) or None
        findings.append(finding)
        if console is not None:
            _show(console, finding)
    error = examination.error
    if as_json:
        report = {
            "ok": error is None,
            "error": None if error is None else type(error).__name__,
            "hint": by_options(error.hint)
            if error is not None and error.hint
            else None,
            "findings": [asdict(finding) for finding in findings],
        }
        click.echo(json.dumps(report, indent=2))
    elif error is None:
        click.echo("a link would come up")
    else:
        click.echo(f"no link: {type(error).__name__}")
    ctx.exit(0 if error is None else exit_code(error))


def _parse(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ConfigError(
            f"{address!r} is no address", hint="write it as HOST:PORT, [::1]:15000"
        )
    return host, int(port)


def _certificate(cert: Path | None, key: Path | None) -> Certificate | None:
    from fastnode import Certificate

    if cert is None:
        if key is not None:
            raise ConfigError("--key without --cert", hint="name both files")
        return None
    return Certificate.load(cert, key)


def _manager(shown: Certificate | None, ca: Path | None) -> CertAuthManager:
    from fastnode import CertAuthManager, CertPool

    pool = None if ca is None else CertPool.load(ca)
    return CertAuthManager(shown, root_cas=pool)


def _own_name(chosen: str | None, shown: Certificate | None) -> NodeName | None:
    from fastnode.names import NodeName

    if chosen is not None:
        return NodeName.parse(chosen)
    prefix = "fastnode://"
    for san in shown.sans if shown is not None else ():
        if san.startswith(prefix):
            return NodeName.parse(san.removeprefix(prefix))
    return None


def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False)


def _show(console: Console, finding: Finding) -> None:
    from rich.padding import Padding
    from rich.text import Text

    words, style = {
        True: ("pass", "green"),
        False: ("FAIL", "bold red"),
        None: ("info", "cyan"),
    }[finding.ok]
    console.print(
        Text.assemble((words, style), "  ", (finding.name, "bold"), ": ", finding.found)
    )
    for line in finding.details:
        console.print(Padding(Text(line, "dim"), (0, 0, 0, 8)))
    if finding.hint and finding.ok is False:
        console.print(Padding(Text(f"-> {finding.hint}", "yellow"), (0, 0, 0, 6)))
