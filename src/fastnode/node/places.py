"""The places that an acceptor has for links."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastnode.link.protocol import LinkProtocol

__all__ = ["Places"]


class Places:
    """Gives a place to each link that is up, or was admitted and is about to be.

    A link that makes way for another one, when that comes up, shares its place with it:
    never more links stay than there are places, whichever of the two it is.

    Args:
        most: how many there are.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken: dict[LinkProtocol, object] = {}
        self._shares: Counter[object] = Counter()

    def __len__(self) -> int:
        return len(self._shares)

    def take(self, protocol: LinkProtocol, instead_of: Iterable[LinkProtocol]) -> bool:
        """Give a link the place of one of those that it takes the place of, which may
        have none here, or a free one. False: there is none."""
        for old in instead_of:
            if old in self._taken:
                place = self._taken[old]
                break
        else:
            if len(self._shares) >= self._most:
                return False
            place = object()
        self._taken[protocol] = place
        self._shares[place] += 1
        return True

    def leave(self, protocol: LinkProtocol) -> None:
        """The link is over, or will not be."""
        place = self._taken.pop(protocol, None)
        if place is None:
            return
        self._shares[place] -= 1
        if not self._shares[place]:
            del self._shares[place]
