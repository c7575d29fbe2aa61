"""Listening: the first free port of a range, on all addresses of a host."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Sequence
from typing import Any

from fastnode.errors import (
    ConfigError,
    FastnodeError,
    is_exhaustion,
    out_of_resources,
)
from fastnode.limits import ANY_PORT_TRIES, DEFAULT_PORT, LISTEN_BACKLOG
from fastnode.loggers import fields

__all__ = ["open_port", "warn_of_other_port"]

log = logging.getLogger("fastnode.node")

#: An address of a host name that this machine does not have, or a family that its
#: kernel does not have.
NOT_HERE = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT})


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
        OutOfResources: this process has no descriptors left.
    """
    last = min(port + port_range - 1, 65535) if port else 0
    ports: Sequence[int] = range(port, last + 1) if port else (0,) * ANY_PORT_TRIES
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(
            host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            f"cannot listen on {host!r}: {getattr(error, 'strerror', None) or error}",
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
    failed: OSError | None = None
    for family, address in addresses:
        # The first address got this port. The others take the same one.
        wanted = opened[0].getsockname()[1] if opened else port
        try:
            opened.append(_listening(family, (address[0], wanted, *address[2:])))
        except OSError as error:
            if error.errno in NOT_HERE:
                # The name has good addresses beside it, as localhost has on a machine
                # without IPv6.
                log.debug(
                    "not listening on %s: %s",
                    address[0],
                    error,
                    extra=fields(
                        "address_skipped", address=(address[0], port), error=error
                    ),
                )
                failed = error
                continue
            _close(opened)
            if error.errno == errno.EADDRINUSE:
                return []
            raise _cannot(host, port, error) from error
    if not opened and failed is not None:
        raise _cannot(host, port, failed) from failed
    return opened


def _listening(family: int, address: tuple[Any, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen(LISTEN_BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _close(sockets: Sequence[socket.socket]) -> None:
    for each in sockets:
        each.close()


def _cannot(host: str, port: int, error: OSError) -> FastnodeError:
    if is_exhaustion(error):
        return out_of_resources(f"cannot listen on {host}:{port}", error)
    return ConfigError(
        f"cannot listen on {host}:{port}: {error.strerror}",
        hint="give AcceptorOptions.host an address of this machine, and a port that "
        "this user may open",
    )


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
        extra=fields("other_port", node=name, wanted=wanted, port=port),
    )
