"""Log lines that strangers can cause: not more than one per reason and second."""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic
from typing import Final

from fastnode.limits import LOG_INTERVAL_SECONDS

__all__ = ["LogLimit"]

#: Reasons that are remembered; above it those are forgotten that may be logged again,
#: and with them how many of their lines were left out: peers can make reasons up.
MOST_REASONS: Final = 64


class LogLimit:
    """Logs the first line of a reason, and then at most one per interval, which says
    how many were left out before it.

    Args:
        log: where to.
        clock: seconds.
    """

    __slots__ = ("_clock", "_log", "_seen")

    def __init__(
        self, log: logging.Logger, clock: Callable[[], float] = monotonic
    ) -> None:
        self._log = log
        self._clock = clock
        # Reason -> when it was logged last, and how many lines were left out since.
        self._seen: dict[str, tuple[float, int]] = {}

    def say(
        self,
        level: int,
        reason: str,
        text: str,
        *args: object,
        error: BaseException | None = None,
    ) -> None:
        """Log a line, or count it.

        Args:
            args: formatted into `text` only when the line is logged.
            error: its traceback is logged too.
        """
        if not self._log.isEnabledFor(level):
            return
        now = self._clock()
        last, left_out = self._seen.get(reason, (-LOG_INTERVAL_SECONDS, 0))
        if now - last < LOG_INTERVAL_SECONDS:
            self._seen[reason] = (last, left_out + 1)
            return
        if len(self._seen) >= MOST_REASONS:
            self._forget(now)
        self._seen[reason] = (now, 0)
        if left_out:
            text, args = text + " (and %d more like it before)", (*args, left_out)
        self._log.log(level, text, *args, exc_info=error)

    def _forget(self, now: float) -> None:
        self._seen = {
            reason: seen
            for reason, seen in self._seen.items()
            if now - seen[0] < LOG_INTERVAL_SECONDS
        }
