"""One route."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING

from fastnode.errors import ConfigError
from fastnode.limits import DEFAULT_PORT
from fastnode.names import normal_host, verified_host
from fastnode.options import check_port

if TYPE_CHECKING:
    from fastnode.certs.manager import CertManager

__all__ = ["Route"]


@dataclass(frozen=True, slots=True)
class Route:
    """Where to connect for node names that `match` finds.

    Attributes:
        match: a regular expression, looked for anywhere in the node name
            (``re.search``).
        host, port: where to connect.
        weight: routes that match are tried from the heaviest to the lightest.
        cert_manager: certificate and trust for this destination; None: the node's.
        server_name: the name sent as SNI and verified against the server's SANs;
            None: that of the cert manager, else `host`.
        insecure_skip_verify: None: the node's value.
    """

    match: str
    host: str
    port: int = DEFAULT_PORT
    _: KW_ONLY
    weight: int = 100
    cert_manager: CertManager | None = None
    server_name: str | None = None
    insecure_skip_verify: bool | None = None

    def __post_init__(self) -> None:
        try:
            re.compile(self.match)
        except (re.error, TypeError) as error:
            raise ConfigError(
                f"Route.match {self.match!r} is no regular expression: {error}"
            ) from None
        if not isinstance(self.host, str) or not self.host:
            raise ConfigError(f"Route.host is {self.host!r}, not a host")
        normal = _checked("host", normal_host, self.host)
        if ":" in normal:
            # Brackets belong to URLs; sockets take none.
            object.__setattr__(self, "host", normal)
        if self.server_name is not None:
            name = _checked("server_name", verified_host, self.server_name)
            object.__setattr__(self, "server_name", name)
        check_port(self.port, "Route.port")
        if self.port == 0:
            raise ConfigError("Route.port is 0: nothing can be reached there")


def _checked(setting: str, normalize: Callable[[str], str], value: object) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"Route.{setting} is {value!r}, not a host")
    try:
        return normalize(value)
    except ConfigError as error:
        raise ConfigError(
            f"Route.{setting}: {error.message}", hint=error.hint
        ) from None
