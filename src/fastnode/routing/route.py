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
        try:
            re.compile(self.match)
        except (re.error, TypeError) as error:
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
        insecure = self.insecure_skip_verify
        check_flag("Route.insecure_skip_verify", insecure, or_none=True)
