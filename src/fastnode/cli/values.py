"""Types of the values that arguments and options take. Each says why it refuses one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import click

from fastnode.cli.hints import by_options
from fastnode.errors import ConfigError

if TYPE_CHECKING:
    from fastnode.names import NodeName

    # The class is generic for type checkers, and with later versions of click only.
    AnyType = click.ParamType[Any]
else:
    AnyType = click.ParamType

__all__ = [
    "ADDRESS",
    "COMMON_NAME",
    "DAYS",
    "DNS_NAME",
    "HOST",
    "INTERVAL",
    "IP_ADDRESS",
    "NODE_NAME",
    "SECONDS",
]


class FiniteRange(click.FloatRange):
    """A `click.FloatRange` that refuses NaN, which would be in every range."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Any:
        """Convert a value, or fail as click does."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


class Checked(AnyType):
    """A value that the library checks. Its `ConfigError` becomes a usage error."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Any:
        """Convert a value, or fail with the reason and the remedy of the library."""
        if not isinstance(value, str):  # click may convert a value twice
            return value
        try:
            return self.parse(value)
        except ConfigError as error:
            remedy = f" Remedy: {by_options(error.hint)}." if error.hint else ""
            self.fail(f"{by_options(error.message)}.{remedy}", param, ctx)

    def parse(self, text: str) -> Any:
        """Return the value of a text, or raise `ConfigError`."""
        return text


class NodeNameType(Checked):
    """``NAME@HOST``."""

    name = "NAME@HOST"

    def parse(self, text: str) -> NodeName:
        """Parse a node name."""
        from fastnode.names import NodeName

        return NodeName.parse(text)


class HostType(Checked):
    """A DNS name or an IP address."""

    name = "HOST"

    def parse(self, text: str) -> str:
        """Check a host."""
        from fastnode.names import check_host

        return check_host(text, "the host")


class DnsNameType(Checked):
    """A DNS name for a certificate."""

    name = "NAME"

    def parse(self, text: str) -> str:
        """Bring a DNS name to the form that certificates have."""
        from fastnode.certs.signing import dns_name

        return dns_name(text)


class IpAddressType(Checked):
    """An IP address for a certificate."""

    name = "ADDRESS"

    def parse(self, text: str) -> str:
        """Bring an IP address to the form that certificates have."""
        from fastnode.certs.signing import ip_address

        return ip_address(text)


class CommonNameType(Checked):
    """The Common Name of an authority."""

    name = "TEXT"

    def parse(self, text: str) -> str:
        """Check a Common Name."""
        from fastnode.certs.signing import check_common_name

        return check_common_name(text)


class AddressType(Checked):
    """``HOST:PORT``, as a tuple of host and port. Brackets around an IPv6 address make
    it easier to read, but are not required."""

    name = "HOST:PORT"

    def parse(self, text: str) -> tuple[str, int]:
        """Parse an address."""
        from fastnode.names import check_host

        host, _, port = text.rpartition(":")
        hint = "write HOST:PORT, as in 127.0.0.1:15000 or [::1]:15000"
        if not host or not (port.isascii() and port.isdigit()):
            raise ConfigError(f"{text!r} is not an address", hint=hint)
        if not 0 < int(port) < 65536:
            raise ConfigError(
                f"the port of {text!r} is not a number from 1 to 65535", hint=hint
            )
        return check_host(host, f"the host of {text!r}"), int(port)


#: How long a certificate is valid, days.
DAYS = FiniteRange(0.01, 36500)
#: How long a command may take, seconds.
SECONDS = FiniteRange(0, 86400, min_open=True)
#: The pause between two round trips, seconds.
INTERVAL = FiniteRange(0, 86400)

ADDRESS = AddressType()
COMMON_NAME = CommonNameType()
DNS_NAME = DnsNameType()
HOST = HostType()
IP_ADDRESS = IpAddressType()
NODE_NAME = NodeNameType()
