"""Node names, hosts and addresses: brought to one form when they are parsed."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, SupportsFloat

from fastnode.errors import ConfigError, Side, no_timeout
from fastnode.limits import MAX_NODE_NAME_BYTES, PARSED_NAMES

__all__ = [
    "RESERVED_PREFIX",
    "NodeName",
    "check_address",
    "check_flag",
    "check_host",
    "check_not_reserved",
    "check_port",
    "check_service",
    "check_timeout",
    "joined",
    "normal_host",
    "verified_host",
]

#: RFC 1035, 2.3.4, in the ASCII form of a name.
MAX_LABEL: Final = 63
MAX_HOST: Final = 253
#: Names of endpoints that begin with this belong to fastnode itself.
RESERVED_PREFIX: Final = "fastnode."

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*\Z")
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_\-]*[a-z0-9_])?\Z")
#: The name of a network interface, behind the % of an IPv6 address.
_ZONE = re.compile(r"[A-Za-z0-9_.\-]+\Z")
_PORT = re.compile(r":[0-9]{1,5}\Z")


def normal_host(text: str) -> str:
    """Return a host in the one form in which hosts are compared.

    - An IP address is written as Python writes it, without brackets:
      ``[0:0:0:0:0:0:0:1]`` is ``::1``. An IPv6 address keeps its zone.
    - A DNS name is in lower case and in its ASCII form, without a trailing dot:
      ``B\u00fccher.example.`` is ``xn--bcher-kva.example``. The rules are those of IDNA
      2003, by which Python's ``socket`` and ``ssl`` convert names.

    Raises:
        ConfigError: neither an IP address nor a DNS name.
    """
    if not text:
        raise _no_host(text, "it is empty")
    inner = text[1:-1] if text[0] == "[" and text[-1] == "]" else None
    address = _address(text if inner is None else inner)
    if address is not None and (inner is None or address.version == 6):
        return str(address)
    if _PORT.search(text):
        raise _no_host(
            text, "", "the port belongs into a Route, or into AcceptorOptions.port"
        )
    try:
        host = text if text.isascii() else text.encode("idna").decode("ascii")
    except UnicodeError as error:
        raise _no_host(text, str(error.__cause__ or error)) from None
    address = _address(host)
    if address is not None:
        return str(address)
    host = host.lower().removesuffix(".")
    if len(host) > MAX_HOST:
        raise _no_host(text, f"a DNS name has at most {MAX_HOST} characters")
    for label in host.split("."):
        if len(label) > MAX_LABEL:
            raise _no_host(
                text, f"a label of a DNS name has at most {MAX_LABEL} characters"
            )
        if not _LABEL.match(label):
            raise _no_host(text, "")
    return host


def verified_host(text: str) -> str:
    """Return a host as it is looked for in a certificate: without an IPv6 zone.

    Raises:
        ConfigError: neither an IP address nor a DNS name.
    """
    return normal_host(text).partition("%")[0]


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    zone = text.partition("%")[2]
    return address if not zone or _ZONE.match(zone) else None


def _no_host(text: str, why: str, hint: str | None = None) -> ConfigError:
    shown = text if len(text) <= MAX_HOST else f"{text[:MAX_HOST]}..."
    return ConfigError(
        f"{shown!r} is no host{f': {why}' if why else ''}",
        hint=hint or "use a DNS name or an IP address",
    )


@dataclass(frozen=True, slots=True)
class NodeName:
    """``name@host``: `host` is a DNS name or an IP address, as `normal_host` writes it.

    `parse` makes it.
    """

    name: str
    host: str

    @classmethod
    def parse(cls, text: str) -> NodeName:
        """Parse ``name@host``, and bring the host to the form of `normal_host`.

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
    try:
        return NodeName(name, normal_host(host))
    except ConfigError as error:
        raise ConfigError(
            f"{text!r} is not a node name: {error.message}", hint=error.hint
        ) from None


def check_service(service: object) -> str:
    """Return the name of a service, checked: the part of a node name before the @.

    Raises:
        ConfigError: `service` cannot be the name of a service.
    """
    if not isinstance(service, str) or not _NAME.match(service):
        shown = f"{service!r:.{MAX_NODE_NAME_BYTES}}"
        raise ConfigError(
            f"{shown} is not the name of a service",
            hint="it is the part of the node names before the @: letters, digits, '_', "
            "'-' and '.'",
        )
    if len(service) > MAX_NODE_NAME_BYTES:
        raise ConfigError(
            f"the name of a service has at most {MAX_NODE_NAME_BYTES} bytes"
        )
    return service


def joined(host: object, port: object) -> str:
    """Return an address as HOST:PORT, with an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"


def check_port(port: object, what: str) -> None:
    """Raise `ConfigError` unless `port` is an int from 0 to 65535."""
    if not isinstance(port, int) or isinstance(port, bool) or not 0 <= port <= 65535:
        raise ConfigError(f"{what} is {port!r}", hint="a port is a number, 0 to 65535")


def check_host(host: object, what: str) -> str:
    """Return a host as sockets take it: an IPv6 address without brackets.

    Args:
        what: says in the error where the host comes from.

    Raises:
        ConfigError: `host` is neither a DNS name nor an IP address.
    """
    if not isinstance(host, str) or not host:
        raise ConfigError(
            f"{what} is {host!r}, not a host",
            hint="a host is a str: a DNS name or an IP address",
        )
    try:
        normal = normal_host(host)
    except ConfigError as error:
        raise ConfigError(f"{what}: {error.message}", hint=error.hint) from None
    return normal if ":" in normal else host


def check_address(address: object) -> tuple[str, int]:
    """Return an address as (host, port), checked.

    Raises:
        ConfigError: it is no pair of a host and a port from 1 to 65535.
    """
    if not isinstance(address, (tuple, list)) or len(address) != 2:
        raise ConfigError(
            f"{address!r} is no address", hint="an address is (host, port)"
        )
    host = check_host(address[0], f"the host of {address!r}")
    port = address[1]
    check_port(port, f"the port of {address!r}")
    if port == 0:
        raise ConfigError(f"the port of {address!r} is 0: nothing can be reached there")
    return host, port


def check_flag(what: str, value: object, *, or_none: bool = False) -> None:
    """Raise `ConfigError` unless `value` is True or False. Another value that is false
    would switch off a check by accident."""
    if not isinstance(value, bool) and not (or_none and value is None):
        raise ConfigError(f"{what} is {value!r}", hint="it is True or False")


def check_not_reserved(endpoint: str) -> None:
    """Raise `ConfigError` if the name of an endpoint has the prefix that fastnode keeps
    for itself."""
    if endpoint.startswith(RESERVED_PREFIX):
        raise ConfigError(
            f"the endpoint name {endpoint!r} is reserved",
            side=Side.LOCAL,
            hint=f"names that begin with {RESERVED_PREFIX!r} belong to fastnode; "
            "choose another name",
        )


def check_timeout(timeout: object) -> float:
    """Return a timeout in seconds, checked. It may be infinite.

    Raises:
        ConfigError: it is no number, or below 0, or not a number (NaN).
    """
    if isinstance(timeout, bool) or not isinstance(timeout, SupportsFloat):
        raise no_timeout(timeout)
    try:
        seconds = float(timeout)
    except (OverflowError, TypeError, ValueError):
        raise no_timeout(timeout) from None
    if not seconds >= 0:
        raise no_timeout(timeout)
    return seconds
