"""Backoff: how long to wait before the next attempt."""

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
    """Exponential backoff with full jitter. It has no clock and no loop.

    Each pause is a random part of a ceiling, and the ceiling doubles with each pause.
    So nodes that lost the same peer at the same time do not all dial it at the same
    time.

    Args:
        first: the ceiling of the first pause, seconds.
        most: the highest ceiling, seconds.
        stable: a link that was up for so many seconds resets the ceiling.
        random: returns numbers from 0 to 1.
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
        """The longest time that the next pause can take, seconds."""
        return self._ceiling

    def pause(self, least: float = 0.0) -> float:
        """Return the pause before the next attempt, seconds, and raise the ceiling.

        Args:
            least: the peer asked for a pause of so many seconds. It asks many at once,
                so the pause is up to twice as long.
        """
        part = self._random()
        pause = max(self._ceiling * part, least * (1 + part))
        self._ceiling = min(self._ceiling * 2, self._most)
        return pause

    def give_time(self) -> None:
        """Raise the ceiling to its highest value: only a change of settings can
        help."""
        self._ceiling = self._most

    def was_up(self, seconds: float) -> None:
        """Reset the ceiling if a link was up for long enough. A short link does not
        reset it: a peer that accepts and then breaks links must not be dialed without
        a pause."""
        if seconds >= self._stable:
            self._ceiling = self._first
