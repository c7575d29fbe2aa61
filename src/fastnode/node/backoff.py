"""How long to wait before the next attempt. Pure: no clock, no loop."""

from __future__ import annotations

import random as random_numbers
from collections.abc import Callable

from fastnode.limits import (
    REDIAL_FIRST_SECONDS,
    REDIAL_MOST_SECONDS,
    REDIAL_STABLE_SECONDS,
)

__all__ = ["Backoff"]


class Backoff:
    """Exponential backoff with full jitter.

    A pause is a random part of a ceiling that doubles with each of them, so that those
    who lost the same peer at the same time do not come back at the same time.

    Args:
        first: the ceiling of the first pause, seconds.
        most: what the ceiling grows to, seconds.
        stable: a link that was up for so long, seconds, starts it over.
        random: gives numbers from 0 to 1.
    """

    def __init__(
        self,
        *,
        first: float = REDIAL_FIRST_SECONDS,
        most: float = REDIAL_MOST_SECONDS,
        stable: float = REDIAL_STABLE_SECONDS,
        random: Callable[[], float] = random_numbers.random,
    ) -> None:
        self._first = first
        self._most = most
        self._stable = stable
        self._random = random
        self._ceiling = first

    @property
    def ceiling(self) -> float:
        """The next pause is not longer, seconds."""
        return self._ceiling

    def pause(self) -> float:
        """The pause before the next attempt, seconds; the one after may be longer."""
        pause = self._ceiling * self._random()
        self._ceiling = min(self._ceiling * 2, self._most)
        return pause

    def give_time(self) -> None:
        """Somebody has to change something first: the ceiling is at its most."""
        self._ceiling = self._most

    def was_up(self, seconds: float) -> None:
        """There was a link for so long. A short one starts nothing over: a peer that
        accepts and breaks is not to be dialed without a pause."""
        if seconds >= self._stable:
            self._ceiling = self._first
