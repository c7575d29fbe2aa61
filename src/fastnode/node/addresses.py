"""Addresses of a dial: from targets to what sockets take, and in which order.

The order is that of RFC 8305 ("Happy Eyeballs"), section 4. The order of routes, or of
the answer of a resolver, is kept. Only the families alternate: if the first address is
an IPv6 address, then the first IPv4 address follows, then the second IPv6 address.
Addresses that could not be reached a short time ago come last.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, zip_longest
from time import monotonic
from typing import TYPE_CHECKING, Any

from fastnode.limits import FAILED_ADDRESS_SECONDS, MAX_FAILED_ADDRESSES

if TYPE_CHECKING:
    from fastnode.node.targets import Target

__all__ = ["Candidate", "FailedAddresses", "in_order", "look_up", "read_literal"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One address that a dial may connect with.

    Attributes:
        target: what was to be dialed; its host may be a name.
        family: of the socket.
        host: an IP address, with a numeric zone if it needs one.
    """

    target: Target
    family: int
    host: str

    @property
    def address(self) -> tuple[str, int]:
        """IP address and port."""
        return self.host, self.target.port

    def __str__(self) -> str:
        if self.host == self.target.host:
            return str(self.target)
        return f"{self.target} ({self.host})"


def read_literal(target: Target) -> list[Candidate] | None:
    """Return the address of a target whose host is an IP address, else None.

    Raises:
        OSError: the zone of an IPv6 address is no interface of this machine.
    """
    try:
        found = socket.getaddrinfo(
            target.host,
            target.port,
            type=socket.SOCK_STREAM,
            flags=socket.AI_NUMERICHOST,
        )
    except socket.gaierror as error:
        if error.errno == socket.EAI_NONAME and "%" not in target.host:
            return None
        raise
    except UnicodeError:
        return None
    return _candidates(target, found)


async def look_up(target: Target) -> list[Candidate]:
    """Return the addresses of a host name, in the order of the system.

    Raises:
        OSError: the name is unknown, or the name service did not answer.
    """
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(
            target.host, target.port, type=socket.SOCK_STREAM
        )
    except UnicodeError as error:
        # The codec of host names refuses some names that look like names.
        raise OSError(f"{target.host!r} is no host name: {error}") from None
    return _candidates(target, found)


def _candidates(target: Target, found: Iterable[Any]) -> list[Candidate]:
    candidates = []
    for family, _, _, _, address in found:
        host = str(address[0])
        if family == socket.AF_INET6 and len(address) > 3 and address[3]:
            host = f"{host.partition('%')[0]}%{address[3]}"
        candidates.append(Candidate(target, family, host))
    # Some systems say each address twice.
    return list(dict.fromkeys(candidates))


def in_order(
    candidates: Sequence[Candidate], failed: FailedAddresses
) -> list[Candidate]:
    """Return candidates in the order in which a dial begins with them.

    Args:
        candidates: in the order of their targets.
        failed: addresses that come last.
    """
    ordered: list[Candidate] = []
    for _, equals in groupby(candidates, key=lambda each: each.target.weight):
        ordered += interleaved(list(equals))
    return sorted(ordered, key=lambda each: each.address in failed)


def interleaved(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return candidates with alternating families. The family of the first one begins,
    and the order within a family is kept."""
    if not candidates:
        return []
    family = candidates[0].family
    first = [each for each in candidates if each.family == family]
    others = [each for each in candidates if each.family != family]
    pairs = zip_longest(first, others)
    return [each for pair in pairs for each in pair if each is not None]


class FailedAddresses:
    """Remembers addresses that could not be reached, for FAILED_ADDRESS_SECONDS.

    Such an address is still tried, after the others.
    """

    def __init__(self) -> None:
        self._until: dict[tuple[str, int], float] = {}

    def add(self, address: tuple[str, int]) -> None:
        """Remember an address from now on."""
        self._until.pop(address, None)
        while len(self._until) >= MAX_FAILED_ADDRESSES:
            del self._until[next(iter(self._until))]
        self._until[address] = monotonic() + FAILED_ADDRESS_SECONDS

    def discard(self, address: tuple[str, int]) -> None:
        """Forget an address: it was reached."""
        self._until.pop(address, None)

    def __contains__(self, address: tuple[str, int]) -> bool:
        until = self._until.get(address)
        if until is None:
            return False
        if until > monotonic():
            return True
        del self._until[address]
        return False

    def __len__(self) -> int:
        return len(self._until)
