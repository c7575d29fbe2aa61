"""Options that say who we are and whom we trust; several commands share them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fastnode.cli.files import files_of
from fastnode.errors import ConfigError
from fastnode.names import NodeName

if TYPE_CHECKING:
    from fastnode import CertAuthManager, Certificate

__all__ = ["FILE", "FOLDER", "Identity", "identity_options", "name_in", "pair_of"]

Command = TypeVar("Command", bound=Callable[..., Any])

FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)

_URI = "fastnode://"


@dataclass(frozen=True, slots=True)
class Identity:
    """The files of a certificate, its key and the authorities to trust.

    Attributes:
        cert: the certificate chain, PEM.
        key: the private key, PEM; None: it is in `cert`.
        ca: the authorities, PEM.
    """

    cert: Path
    key: Path | None
    ca: Path

    def manager(self, server_name: str | None = None) -> CertAuthManager:
        """Return a manager that shows this certificate and requires certificates that
        `ca` has signed.

        Args:
            server_name: the name to verify in the certificates of servers; None: the
                host that is dialed.
        """
        from fastnode import CertAuthManager, Certificate, CertPool, ClientAuth

        pool = CertPool.load(self.ca)
        return CertAuthManager(
            Certificate.load(self.cert, self.key),
            client_cas=pool,
            client_auth=ClientAuth.REQUIRE_AND_VERIFY_CLIENT_CERT,
            root_cas=pool,
            server_name=server_name,
        )

    def node_name(self, chosen: NodeName | None) -> NodeName:
        """Return the chosen node name, or else the one in the certificate.

        Raises:
            ConfigError: none was chosen, and the certificate has none.
        """
        from fastnode import Certificate

        found = chosen or name_in(Certificate.load(self.cert, self.key))
        if found is None:
            raise ConfigError(
                f"{self.cert} holds no fastnode:// name",
                hint="say who you are with --as NAME@HOST",
            )
        return found


def name_in(certificate: Certificate | None) -> NodeName | None:
    """Return the first node name in a certificate, or None."""
    for san in certificate.sans if certificate is not None else ():
        if san.startswith(_URI):
            return NodeName.parse(san.removeprefix(_URI))
    return None


def pair_of(
    directory: Path | None, name: NodeName | None, cert: Path | None, key: Path | None
) -> tuple[Path | None, Path | None]:
    """Return the files of certificate and key: --cert and --key, or those of a node in
    a directory that ``fastnode ca`` made."""
    if directory is None or name is None or cert is not None:
        return cert, key
    files = files_of(directory, name)
    return files.cert, key or files.key


def identity_options(command: Command) -> Command:
    """Add --cert, --key, --ca and --dir. The command gets them as `identity`."""

    @click.option("--cert", type=FILE, help="The certificate chain to show, PEM.")
    @click.option(
        "--key", type=FILE, help="The private key, PEM.  [default: in --cert]"
    )
    @click.option("--ca", type=FILE, help="The authorities to trust, PEM.")
    @click.option(
        "--dir",
        "directory",
        type=FOLDER,
        help="A directory made by 'fastnode ca'. It replaces --cert, --key and --ca.",
    )
    @functools.wraps(command)
    def wrapper(
        *args: Any,
        cert: Path | None,
        key: Path | None,
        ca: Path | None,
        directory: Path | None,
        **kwargs: Any,
    ) -> Any:
        name = kwargs.get("own") or kwargs.get("own_name")
        cert, key = pair_of(directory, name, cert, key)
        if directory is not None:
            ca = ca or directory / "ca.pem"
        for option, value in (("--cert", cert), ("--ca", ca)):
            if value is None:
                instead = "--dir" if name else "--dir and --as"
                raise click.UsageError(f"{option} is missing. Give it, or {instead}.")
        assert cert is not None
        assert ca is not None
        return command(*args, identity=Identity(cert, key, ca), **kwargs)

    return wrapper  # type: ignore[return-value]
