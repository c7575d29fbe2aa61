"""How many links an acceptor may have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastnode.link.protocol import LinkProtocol

__all__ = ["LinkQuota"]


class LinkQuota:
    """Counts the links that are up, and those that were admitted and may come up.

    A link that is going to replace another one shares the unit of the old link. So
    there are never more links than the quota allows, whichever of the two stays.

    Args:
        most: how many links there may be.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._units: dict[LinkProtocol, object] = {}
        self._shares: Counter[object] = Counter()

    def __len__(self) -> int:
        return len(self._shares)

    def acquire(
        self, protocol: LinkProtocol, instead_of: Iterable[LinkProtocol]
    ) -> bool:
        """Count a link, if the quota allows it; return whether it does.

        Args:
            instead_of: the links that this one is going to replace. Those that are
                counted here share their unit with it. Others are ignored.
        """
        for old in instead_of:
            if old in self._units:
                unit = self._units[old]
                break
        else:
            if len(self._shares) >= self._most:
                return False
            unit = object()
        self._units[protocol] = unit
        self._shares[unit] += 1
        return True

    def release(self, protocol: LinkProtocol) -> None:
        """Stop counting a link: it has ended, or will not come up."""
        unit = self._units.pop(protocol, None)
        if unit is None:
            return
        self._shares[unit] -= 1
        if not self._shares[unit]:
            del self._shares[unit]
