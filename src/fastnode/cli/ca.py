"""``fastnode ca``: a certificate authority for development."""

from __future__ import annotations

from pathlib import Path

import click

from fastnode.cli.options import DAYS
from fastnode.errors import ConfigError

__all__ = ["ca"]


@click.group()
def ca() -> None:
    """A certificate authority for development (not for production)."""


@ca.command()
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--name",
    default="fastnode development CA",
    show_default=True,
    help="Its common name.",
)
@click.option(
    "--days", type=DAYS, default=3650.0, show_default=True, help="How long it lasts."
)
def init(directory: Path, name: str, days: float) -> None:
    """Make an authority in DIRECTORY: ca.pem and ca-key.pem (mode 0600).

    Existing files are never overwritten.

    \b
    Example:  fastnode ca init certs
    """
    from fastnode.certs.authority import CA_FILE, CA_KEY_FILE, Authority

    Authority.create(name, days=days).save(directory)
    click.echo(f"authority    {name}")
    click.echo(f"certificate  {directory / CA_FILE}")
    click.echo(f"key          {directory / CA_KEY_FILE}  (keep it secret)")


@ca.command()
@click.argument("node", metavar="NAME@HOST")
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    show_default="the current one",
    help="Where the authority lies.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    show_default="--dir",
    help="Where the files go.",
)
@click.option(
    "--renew", is_flag=True, help="Take the place of files of that name, if any."
)
@click.option("--dns", multiple=True, help="A further DNS name. Repeatable.")
@click.option("--ip", "ips", multiple=True, help="A further address. Repeatable.")
@click.option(
    "--days", type=DAYS, default=90.0, show_default=True, help="How long it lasts."
)
def issue(
    node: str,
    directory: Path,
    dns: tuple[str, ...],
    ips: tuple[str, ...],
    days: float,
    out: Path | None,
    *,
    renew: bool,
) -> None:
    """Issue a certificate for the node NAME@HOST, for both sides of a link.

    Its subject alternative names are fastnode://NAME@HOST, HOST, and what --dns and
    --ip add. Existing files are not overwritten, unless --renew says so: then the old
    pair is kept beside the new one, with .old behind its names.

    \b
    Example:  fastnode ca issue orders@127.0.0.1 --dir certs --dns localhost
    """
    from fastnode.certs.authority import Authority
    from fastnode.names import NodeName

    name = NodeName.parse(node)
    issued = Authority.load(directory).issue(name, dns=dns, ips=ips, days=days)
    out = out or directory
    cert_file = out / f"{name}.pem"
    key_file = out / f"{name}-key.pem"
    try:
        out.mkdir(parents=True, exist_ok=True)
        if renew:
            issued.replace(cert_file, key_file)
        else:
            issued.save(cert_file, key_file)
    except ConfigError as error:
        if not renew and cert_file.exists():
            error.hint = "--renew takes its place, --out DIR writes elsewhere"
        raise
    certificate = issued.certificate()
    click.echo(f"certificate  {cert_file}")
    click.echo(f"key          {key_file}  (keep it secret)")
    click.echo(f"names        {', '.join(certificate.sans)}")
    click.echo(f"valid until  {certificate.not_valid_after:%Y-%m-%d %H:%M} UTC")
    click.echo(f"SHA-256      {certificate.fingerprint}")
