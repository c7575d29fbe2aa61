"""The form of node names and of port numbers.

A node name is parsed once, and trusted from then on.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from functools import lru_cache

from fastnode.errors import ConfigError
from fastnode.limits import MAX_NODE_NAME_BYTES, PARSED_NAMES

__all__ = ["NodeName", "check_address", "check_flag", "check_host", "check_port"]

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*\Z")
_HOST = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_]([A-Za-z0-9_\-]*[A-Za-z0-9_])?"
                   r"(\.[A-Za-z0-9_]([A-Za-z0-9_\-]*[A-Za-z0-9_])?)*\Z")  # fmt: skip

_PORT = re.compile(r":[0-9]{1,5}\Z")


@dataclass(frozen=True, slots=True)
class NodeName:
    """``name@host``: `host` is a DNS name or an IP address (IPv6 without brackets)."""

    name: str
    host: str

    @classmethod
    def parse(cls, text: str) -> NodeName:
        """Parse ``name@host``.

        Raises:
            ConfigError: not of that form, or longer than 512 bytes.
        """
        if not isinstance(text, str):
            raise ConfigError(f"a node name is a str, not {type(text).__name__}")
        return _parse(text)

    @property
    def uri(self) -> str:
        """The URI that a certificate may carry as a SAN to cover this name."""
        return f"fastnode://{self}"

    def __str__(self) -> str:
        return f"{self.name}@{self.host}"


@lru_cache(PARSED_NAMES)
def _parse(text: str) -> NodeName:
    name, at, host = text.partition("@")
    if not at or not name or not host:
        raise ConfigError(f"{text!r} is not a node name", hint="write it as name@host")
    if len(text.encode("utf-8", "replace")) > MAX_NODE_NAME_BYTES:
        raise ConfigError(f"a node name has at most {MAX_NODE_NAME_BYTES} bytes")
    if not _NAME.match(name):
        raise ConfigError(
            f"{text!r} is not a node name: {name!r} before the @ is not allowed",
            hint="use letters, digits, '_', '-' and '.'",
        )
    if not _HOST.match(host) and not _is_ip(host):
        raise ConfigError(
            f"{text!r} is not a node name: {host!r} is no host",
            hint="the port belongs into a Route, or into AcceptorOptions.port"
            if _PORT.search(host)
            else "use a DNS name or an IP address after the @",
        )
    return NodeName(name, host)


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def check_port(port: object, what: str) -> None:
    """Raise `ConfigError` unless `port` is an int from 0 to 65535."""
    if not isinstance(port, int) or isinstance(port, bool) or not 0 <= port <= 65535:
        raise ConfigError(f"{what} is {port!r}", hint="a port is a number, 0 to 65535")


def check_host(host: object, what: str) -> None:
    """Raise `ConfigError` unless `host` is a host that can be looked up: a DNS name, or
    an IP address without brackets."""
    if not isinstance(host, str) or not host:
        raise ConfigError(
            f"{what} is {host!r}, not a host",
            hint="a host is a str: a DNS name or an IP address",
        )
    try:
        # The codec by which Python's sockets encode names.
        host.encode("idna")
    except UnicodeError as error:
        raise ConfigError(
            f"{what} is {host!r}, which is no DNS name: {error}",
            hint="each label of a DNS name has 1 to 63 characters",
        ) from None
    if any(char <= " " or char == "\x7f" or char in "[]/@" for char in host):
        raise ConfigError(
            f"{what} is {host!r}, which is no host",
            hint="leave out spaces, brackets and control characters; an IPv6 address "
            "stands without brackets",
        )


def check_address(address: object) -> tuple[str, int]:
    """Return an address as (host, port), checked.

    Raises:
        ConfigError: it is no pair of a host and a port from 1 to 65535.
    """
    if not isinstance(address, (tuple, list)) or len(address) != 2:
        raise ConfigError(
            f"{address!r} is no address", hint="an address is (host, port)"
        )
    host, port = address
    check_host(host, f"the host of {address!r}")
    check_port(port, f"the port of {address!r}")
    if port == 0:
        raise ConfigError(f"the port of {address!r} is 0: nothing can be reached there")
    return host, port


def check_flag(what: str, value: object, *, or_none: bool = False) -> None:
    """Raise `ConfigError` unless `value` is True or False: what else is false would
    switch a check off that nobody meant to switch off."""
    if not isinstance(value, bool) and not (or_none and value is None):
        raise ConfigError(f"{what} is {value!r}", hint="it is True or False")
