"""Options that several commands share: identity, trust, and ranges of numbers."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fastnode.errors import ConfigError

if TYPE_CHECKING:
    from fastnode import CertAuthManager

__all__ = ["DAYS", "SECONDS", "Identity", "identity_options"]

Command = TypeVar("Command", bound=Callable[..., Any])
_file = click.Path(path_type=Path, dir_okay=False)


class FiniteRange(click.FloatRange):
    """A `click.FloatRange` that refuses NaN, which would be in every range."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Any:
        """Convert a value, or fail as click does."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is no number.", param, ctx)
        return number


#: How long a certificate is valid, days.
DAYS = FiniteRange(0.01, 36500)
#: How long a command may take, seconds.
SECONDS = FiniteRange(0, 86400, min_open=True)


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

    def node_name(self, chosen: str | None) -> str:
        """Return the chosen node name, or else the one in the certificate."""
        from fastnode import Certificate

        if chosen:
            return chosen
        prefix = "fastnode://"
        for san in Certificate.load(self.cert, self.key).sans:
            if san.startswith(prefix):
                return san.removeprefix(prefix)
        raise ConfigError(
            f"{self.cert} holds no fastnode:// name",
            hint="say who you are with --as NAME@HOST",
        )


def identity_options(command: Command) -> Command:
    """Add --cert, --key, --ca and --dir. The command gets them as `identity`."""

    @click.option("--cert", type=_file, help="Certificate chain, PEM.")
    @click.option(
        "--key", type=_file, help="Its private key, PEM.  [default: in --cert]"
    )
    @click.option("--ca", type=_file, help="Authorities to trust, PEM.")
    @click.option(
        "--dir",
        "directory",
        type=click.Path(path_type=Path, file_okay=False),
        help="A directory made by 'fastnode ca': stands for --cert, --key and --ca.",
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
        if directory is not None and name and cert is None:
            cert = directory / f"{name}.pem"
            key = key or directory / f"{name}-key.pem"
        if directory is not None:
            ca = ca or directory / "ca.pem"
        for option, value in (("--cert", cert), ("--ca", ca)):
            if value is None:
                raise click.UsageError(
                    f"{option} is missing (or --dir"
                    + ("" if name else " and --as")
                    + ")."
                )
        assert cert is not None
        assert ca is not None
        return command(*args, identity=Identity(cert, key, ca), **kwargs)

    return wrapper  # type: ignore[return-value]
