"""One route."""

from __future__ import annotations

import re
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING

from fastnode.errors import ConfigError
from fastnode.limits import DEFAULT_PORT
from fastnode.names import check_flag, check_host, check_port, verified_host

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
        if not isinstance(self.match, str):
            raise ConfigError(
                f"Route.match is {self.match!r}",
                hint="a pattern is a str, as node names are",
            )
        if isinstance(self.weight, bool) or not isinstance(self.weight, int):
            raise ConfigError(
                f"Route.weight is {self.weight!r}", hint="a weight is a whole number"
            )
        try:
            re.compile(self.match)
        except (re.error, RecursionError, OverflowError) as error:
            raise ConfigError(
                f"Route.match {self.match!r} is no regular expression: {error}"
            ) from None
        object.__setattr__(self, "host", check_host(self.host, "Route.host"))
        check_port(self.port, "Route.port")
        if self.port == 0:
            raise ConfigError("Route.port is 0: nothing can be reached there")
        if self.server_name is not None:
            name = verified_host(check_host(self.server_name, "Route.server_name"))
            object.__setattr__(self, "server_name", name)
        manager = self.cert_manager
        # Not by its class, which would be loaded for it, with cryptography.
        if manager is not None and not hasattr(manager, "client_context"):
            raise ConfigError(
                f"Route.cert_manager is a {type(manager).__name__}",
                hint="pass a CertManager or CertAuthManager",
            )
        insecure = self.insecure_skip_verify
        check_flag("Route.insecure_skip_verify", insecure, or_none=True)
