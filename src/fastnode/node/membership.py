"""Which instances belong to a service.

An address that discovery found says nothing about who listens there. So an instance
belongs to a service only if its own node name has the name of the service, and its
verified certificate says so too. A certificate can say so in two ways:

- It has a URI SAN ``fastnode://service@host``, whatever the host is.
- One of its DNS or IP SANs covers a host that the caller has fixed (``server_name=``).

A DNS or IP SAN that covers the host in the name of the peer is not enough. Everyone who
owns a host can call a node ``billing@`` that host, and a poisoned directory could name
that host.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fastnode.errors import ConfigError
from fastnode.names import NodeName, verified_host
from fastnode.tls.identity import covers_host, node_uris

if TYPE_CHECKING:
    from cryptography import x509

__all__ = ["Membership", "belongs"]

#: The name part of a node name, see `fastnode.names`.
_SERVICE: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*\Z")


@dataclass(frozen=True, slots=True)
class Membership:
    """Whom a caller takes for an instance of a service.

    Args:
        service: the name part of the node names of all instances.
        server_name: a host that certificates of the service cover, fixed by the caller;
            None: only a URI SAN counts. `of` brings it to the form in which hosts are
            compared.
    """

    service: str
    server_name: str | None = None

    @classmethod
    def of(cls, service: str, server_name: str | None = None) -> Membership:
        """Return the membership in a service, checked.

        Raises:
            ConfigError: `service` is not the name part of a node name, or `server_name`
                is neither a DNS name nor an IP address.
        """
        if not isinstance(service, str) or not _SERVICE.match(service):
            raise ConfigError(
                f"{service!r} is not the name of a service",
                hint="write the part of the node names before the @, such as 'billing'",
            )
        if server_name is not None:
            if not isinstance(server_name, str):
                raise ConfigError(
                    f"server_name is {server_name!r}, not a host",
                    hint="a host is a str: a DNS name or an IP address",
                )
            server_name = verified_host(server_name)
        return cls(service, server_name)

    def __str__(self) -> str:
        return f"service {self.service}"

    @property
    def remedy(self) -> str:
        """What to do about an instance that does not belong to it, for hints."""
        host = self.server_name or f"the host that server_name= of {self} names"
        return (
            f"issue it a certificate with a URI SAN fastnode://{self.service}@host, or "
            f"with a DNS or IP SAN for {host}; or see who put its address into the "
            "directory"
        )


def belongs(
    certificate: x509.Certificate | None,
    authorities: Sequence[bytes],
    name: NodeName,
    wanted: Membership,
) -> str | None:
    """Return why a peer does not belong to a service; None if it belongs to it.

    Args:
        certificate: of the peer, verified; None: it has none that was verified.
        authorities: the certificates of its verified chain that carry name constraints,
            DER; others may be among them.
        name: the node name of the peer, which its certificate has to cover besides.
        wanted: the service.
    """
    if name.name != wanted.service:
        return f"{name} is not a node name of {wanted}"
    if certificate is None:
        return f"{name} has no certificate that was verified"
    if any(uri.name == wanted.service for uri in node_uris(certificate, authorities)):
        return None
    host = wanted.server_name
    if host is None:
        return f"the certificate of {name} has no URI SAN of {wanted}"
    if covers_host(certificate, host, authorities):
        return None
    return (
        f"the certificate of {name} has no URI SAN of {wanted} and does not cover "
        f"{host}"
    )
