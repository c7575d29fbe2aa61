"""How many links an acceptor may have, in all and with one peer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from fastnode.link.protocol import LinkProtocol

__all__ = ["Full", "LinkQuota"]


class Full(NamedTuple):
    """Why there is no room for a link.

    Attributes:
        option: the option of the acceptor that is the limit.
        links: how many links it counts.
        whose: which links these are, in words; empty: all.
    """

    option: str
    links: int
    whose: str


@dataclass(slots=True, eq=False)
class Unit:
    """What one link takes of the quota, and the links that are going to replace it.

    Attributes:
        identity: the certificate identity of its peer; None: it has none.
        shares: how many links share it.
    """

    identity: Hashable
    shares: int = 0


class LinkQuota:
    """Counts the links that are up, and those that were admitted and may come up.

    A link that is going to replace another one shares the unit of the old link. So
    there are never more links than the quota allows, whichever of the two stays.

    Args:
        most: how many links there may be.
        most_per_peer: how many links peers with one certificate identity may have.
    """

    def __init__(self, most: int, most_per_peer: int) -> None:
        self._most = most
        self._most_per_peer = most_per_peer
        self._units: dict[LinkProtocol, Unit] = {}
        self._count = 0
        self._identities: Counter[Hashable] = Counter()

    def __len__(self) -> int:
        return self._count

    def acquire(
        self,
        protocol: LinkProtocol,
        instead_of: Iterable[LinkProtocol],
        identity: Hashable = None,
    ) -> Full | None:
        """Count a link, if the quota allows it; return why it does not.

        Args:
            instead_of: the links that this one is going to replace. Those that are
                counted here share their unit with it. Others are ignored.
            identity: the certificate identity of the peer. None: it has no certificate,
                and only the number of all links is limited.
        """
        for old in instead_of:
            if old in self._units:
                unit = self._units[old]
                break
        else:
            if self._count >= self._most:
                return Full("max_links", self._count, "")
            known = 0 if identity is None else self._identities[identity]
            if known >= self._most_per_peer:
                whose = "with peers of this certificate identity"
                return Full("max_links_per_peer", known, whose)
            unit = Unit(identity)
            self._count += 1
            if identity is not None:
                self._identities[identity] += 1
        self._units[protocol] = unit
        unit.shares += 1
        return None

    def release(self, protocol: LinkProtocol) -> None:
        """Stop counting a link: it has ended, or will not come up."""
        unit = self._units.pop(protocol, None)
        if unit is None:
            return
        unit.shares -= 1
        if unit.shares:
            return
        self._count -= 1
        if unit.identity is not None:
            self._identities[unit.identity] -= 1
            if not self._identities[unit.identity]:
                del self._identities[unit.identity]
