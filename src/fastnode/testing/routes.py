"""Routes between the nodes of a test. The hosts in their names do not matter."""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from fastnode import ConfigError, Route
from fastnode.names import NodeName
from fastnode.node.node import Node
from fastnode.peer import Address

__all__ = ["address_of", "introduce", "is_loopback", "route_to"]

#: Where nodes listen whose names have a host that is not of this machine.
LOOPBACK: Final = "127.0.0.1"


def introduce(node: Node, other: Node) -> None:
    """Add a route for another node, which leads to its first acceptor.

    Raises:
        ConfigError: `other` has no acceptor, or `node` has such a route.
    """
    node.add_route(route_to(other, address_of(other)))


def route_to(node: Node, address: Address) -> Route:
    """Return a route for the name of a node, which leads to an address.

    The certificate of the node has to cover the host in its name, as in production. It
    does not have to cover the address.
    """
    host = NodeName.parse(node.name).host
    return Route(
        f"^{re.escape(node.name)}$",
        *address,
        server_name=None if address[0] == host else host,
    )


def address_of(node: Node) -> Address:
    """Return an address at which this process reaches a node.

    Raises:
        ConfigError: the node has no acceptor.
    """
    if not node.acceptors:
        raise ConfigError(
            f"{node.name} cannot be dialed, because it has no acceptor",
            hint="start it with an acceptor, or introduce only the other direction",
        )
    host, port = node.acceptors[0].address
    if host in ("0.0.0.0", "::"):  # noqa: S104  # it listens on all addresses
        host = LOOPBACK if host == "0.0.0.0" else "::1"  # noqa: S104
    return host, port


def is_loopback(host: str) -> bool:
    """Whether a host, as node names have it, is this machine and no other."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
