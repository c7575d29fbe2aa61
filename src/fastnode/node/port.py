"""Listening: the first free port of a range, on all addresses of a host."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Sequence
from typing import Any

from fastnode.errors import ConfigError
from fastnode.limits import ANY_PORT_TRIES, DEFAULT_PORT, LISTEN_BACKLOG

__all__ = ["open_port", "warn_of_other_port"]

log = logging.getLogger("fastnode.node")


async def open_port(host: str, port: int, port_range: int) -> list[socket.socket]:
    """Listen on the first free port of a range.

    Args:
        host: a DNS name or an address.
        port: the first port to try; 0: any free port.
        port_range: how many ports to try.

    Returns:
        A non-blocking socket for each address of the host, all on one port.

    Raises:
        ConfigError: no port of the range is free, or the host is not an address of this
            machine.
    """
    last = min(port + port_range - 1, 65535) if port else 0
    ports: Sequence[int] = range(port, last + 1) if port else (0,) * ANY_PORT_TRIES
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(
            host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host!r}: {error.strerror or error}",
            hint="give AcceptorOptions.host an address of this machine",
        ) from error
    addresses = list(dict.fromkeys((item[0], item[4]) for item in found))
    for each in ports:
        if opened := _listen(host, addresses, each):
            return opened
    raise ConfigError(
        f"port {port} is in use on {host}"
        if port and port == last
        else f"no port from {port} to {last} is free on {host}",
        hint="stop what listens there, widen port_range, or use port 0",
    )


def _listen(
    host: str, addresses: Sequence[tuple[int, tuple[Any, ...]]], port: int
) -> list[socket.socket]:
    """Listen on a port of all addresses; return no socket if one of them has it in
    use."""
    opened: list[socket.socket] = []
    for family, address in addresses:
        sock = socket.socket(family, socket.SOCK_STREAM)
        opened.append(sock)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if port == 0 and len(opened) > 1:
                # The first address got this port. The others take the same one.
                port = opened[0].getsockname()[1]
            sock.bind((address[0], port, *address[2:]))
            sock.listen(LISTEN_BACKLOG)
        except OSError as error:
            for each in opened:
                each.close()
            if error.errno == errno.EADDRINUSE:
                return []
            raise ConfigError(
                f"cannot listen on {host}:{port}: {error.strerror}",
                hint="give AcceptorOptions.host an address of this machine, and a "
                "port that this user may open",
            ) from error
    return opened


def warn_of_other_port(name: str, wanted: int, port: int) -> None:
    """Warn if an acceptor did not get the port that its options name.

    Args:
        name: the name of the node.
        wanted: the port in the options; 0 means any port.
        port: the port on which it listens.
    """
    if wanted in (0, port):
        return
    log.warning(
        "%s: port %d is in use, listening on %d: peers %s will not find this node",
        name,
        wanted,
        port,
        "without a route" if wanted == DEFAULT_PORT else f"whose route says {wanted}",
    )
