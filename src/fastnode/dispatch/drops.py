"""Reports about dropped one-way messages to the peer that sent them.

A one-way message has no reply. If a message is for an endpoint that does not exist, the
receiver drops the message and reports it in a DROPPED frame. The first drop is reported
at once. Further drops within a second are reported together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from fastnode.limits import LOG_INTERVAL_SECONDS, MAX_DROPPED_NAMES

__all__ = ["Drops"]

#: The count of a DROPPED frame has four bytes.
MOST: Final = (1 << 32) - 1


class Drops:
    """Counts what one link dropped, and tells the peer.

    Args:
        tell: is called with a count and the name of an endpoint.
    """

    __slots__ = ("_counts", "_tell", "_timer")

    def __init__(self, tell: Callable[[int, str], None]) -> None:
        self._tell: Callable[[int, str], None] | None = tell
        self._counts: dict[str, int] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, name: str) -> None:
        """Count a message to an endpoint that does not exist."""
        if self._tell is None:
            return
        if self._timer is None:
            self._tell(1, name)
            self._wait()
        elif name in self._counts or len(self._counts) < MAX_DROPPED_NAMES:
            self._counts[name] = min(self._counts.get(name, 0) + 1, MOST)

    def close(self) -> None:
        """Report nothing more, because the link has ended."""
        self._tell = None
        self._counts.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wait(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(LOG_INTERVAL_SECONDS, self._tell_all)

    def _tell_all(self) -> None:
        """Report the drops of the last second."""
        self._timer = None
        counts, self._counts = self._counts, {}
        for name, count in counts.items():
            if self._tell is not None:
                self._tell(count, name)
        if counts and self._tell is not None:
            self._wait()
