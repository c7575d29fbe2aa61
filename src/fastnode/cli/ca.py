"""``fastnode ca``: a certificate authority for development."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fastnode.cli.files import NodeFiles, files_of
from fastnode.cli.group import Commands
from fastnode.cli.values import COMMON_NAME, DAYS, DNS_NAME, IP_ADDRESS, NODE_NAME
from fastnode.errors import CertificateError, ConfigError

if TYPE_CHECKING:
    from fastnode.certs.authority import Authority
    from fastnode.names import NodeName

__all__ = ["ca"]

#: A certificate may be issued for as many days as its authority, some time after it.
ROUNDING = timedelta(days=1)


@click.group(cls=Commands)
def ca() -> None:
    """Make an authority and certificates for development.

    Do not use it in production: the key of the authority is a file, and the authority
    does not record what it issues.

    \b
    Example:
      fastnode ca init certs
      fastnode ca issue orders@127.0.0.1 --dir certs
    """


@ca.command()
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--name",
    type=COMMON_NAME,
    default="fastnode development CA",
    show_default=True,
    help="The common name of the authority, 1 to 64 characters.",
)
@click.option(
    "--days",
    type=DAYS,
    default=3650.0,
    show_default=True,
    metavar="DAYS",
    help="The authority is valid for so many days.",
)
def init(directory: Path, name: str, days: float) -> None:
    """Make an authority in DIRECTORY: ca.pem and ca-key.pem.

    The key has the mode 0600. Existing files are never overwritten.

    \b
    Example:
      fastnode ca init certs
    """
    from fastnode.certs.authority import CA_FILE, CA_KEY_FILE, Authority

    Authority.create(name, days=days).save(directory)
    click.echo(f"authority    {name}")
    click.echo(f"certificate  {directory / CA_FILE}")
    click.echo(f"key          {directory / CA_KEY_FILE}  (keep it secret)")


@ca.command()
@click.argument("node", metavar="NAME@HOST", type=NODE_NAME)
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    show_default="the current one",
    help="The directory of the authority.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    show_default="--dir",
    help="The directory to write the files to.",
)
@click.option(
    "--renew",
    is_flag=True,
    help="Replace the files of the node, if they exist.",
)
@click.option(
    "--dns", multiple=True, type=DNS_NAME, help="Add a DNS name. Can be repeated."
)
@click.option(
    "--ip",
    "ips",
    multiple=True,
    type=IP_ADDRESS,
    help="Add an IP address. Can be repeated.",
)
@click.option(
    "--days",
    type=DAYS,
    default=90.0,
    show_default=True,
    metavar="DAYS",
    help="The certificate is valid for so many days.",
)
def issue(
    node: NodeName,
    directory: Path,
    dns: tuple[str, ...],
    ips: tuple[str, ...],
    days: float,
    out: Path | None,
    *,
    renew: bool,
) -> None:
    """Issue a certificate for the node NAME@HOST.

    A node uses it as a client and as a server. Its subject alternative names are
    fastnode://NAME@HOST, HOST, and the names of --dns and --ip. The files are
    NAME_HOST.pem and NAME_HOST-key.pem; a colon in HOST becomes a hyphen.

    Existing files are not overwritten without --renew. With --renew the old files stay
    beside the new ones, with .old appended to their names.

    \b
    Example:
      fastnode ca issue orders@127.0.0.1 --dir certs --dns localhost
    """
    from fastnode.certs.authority import Authority
    from fastnode.certs.signing import check_certifiable

    check_certifiable(node.host)
    authority = Authority.load(directory)
    end = _end_of(authority, days)
    files = files_of(out or directory, node)
    issued = authority.issue(node, dns=dns, ips=ips, not_after=end)
    try:
        files.cert.parent.mkdir(parents=True, exist_ok=True)
        if renew:
            _check_owner(files, node)
            issued.replace(files.cert, files.key)
        else:
            issued.save(files.cert, files.key)
    except ConfigError as error:
        if not renew and files.exist():
            error.hint = "replace them with --renew, or write elsewhere with --out DIR"
        raise
    certificate = issued.certificate()
    click.echo(f"certificate  {files.cert}")
    click.echo(f"key          {files.key}  (keep it secret)")
    click.echo(f"names        {', '.join(certificate.sans)}")
    click.echo(f"valid until  {certificate.not_valid_after:%Y-%m-%d %H:%M} UTC")
    click.echo(f"SHA-256      {certificate.fingerprint}")


def _end_of(authority: Authority, days: float) -> datetime:
    """Return when a certificate of so many days ends: not after its authority.

    Peers refuse a certificate once one of its authorities has expired.

    Raises:
        ConfigError: the authority has expired.
    """
    now = datetime.now(UTC)
    last = authority.x509.not_valid_after_utc
    if last <= now:
        raise ConfigError(
            f"the authority expired on {last:%Y-%m-%d}",
            hint="make a new one with 'fastnode ca init' in another directory",
        )
    end = now + timedelta(days=days)
    if end - last > ROUNDING:
        click.echo(
            f"warning: the certificate ends with its authority, on {last:%Y-%m-%d}",
            err=True,
        )
    return min(end, last)


def _check_owner(files: NodeFiles, node: NodeName) -> None:
    """Raise `ConfigError` if --renew would replace the files of another node.

    Two names can have the same file names: ``a_b@c`` and ``a@b_c``.
    """
    if not files.cert.exists():
        return
    from fastnode.certs.pem import parse_certificates
    from fastnode.certs.sans import sans_of

    try:
        old = parse_certificates(files.cert.read_bytes(), str(files.cert))[0]
    except CertificateError:
        return  # it is damaged, so it may be replaced
    nodes = [san for san in sans_of(old) if san.startswith("fastnode://")]
    if nodes and node.uri not in nodes:
        raise ConfigError(
            f"{files.cert} is the certificate of {nodes[0]}, so it is not replaced",
            hint="write elsewhere with --out DIR",
        )
