"""Limits log lines that strangers can cause to one for each reason and second."""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic
from typing import Any, Final

from fastnode.limits import LOG_INTERVAL_SECONDS
from fastnode.loggers import fields

__all__ = ["LogLimit"]

#: Reasons that are remembered; above it those are forgotten that may be logged again,
#: and with them how many of their lines were left out: peers can make reasons up.
MOST_REASONS: Final = 64


class LogLimit:
    """Logs the first line of a reason, and then at most one line per interval. That
    line says how many lines were left out before it.

    Args:
        log: the logger.
        clock: returns seconds.
        node: the name of this node, for the fields of all records.
    """

    __slots__ = ("_clock", "_log", "_node", "_seen")

    def __init__(
        self,
        log: logging.Logger,
        clock: Callable[[], float] = monotonic,
        *,
        node: str | None = None,
    ) -> None:
        self._log = log
        self._clock = clock
        self._node = node
        # Reason -> when it was logged last, and how many lines were left out since.
        self._seen: dict[str, tuple[float, int]] = {}

    def say(
        self,
        level: int,
        reason: str,
        text: str,
        *args: object,
        event: str,
        traceback: BaseException | None = None,
        **found: Any,
    ) -> None:
        """Log a line, or count it.

        Args:
            args: formatted into `text` only when the line is logged.
            event: the event of the record. It and `found` are arguments of
                `fastnode.loggers.fields`, which is called only when the line is logged.
            traceback: an error whose traceback is logged too. It is also the ``error``
                of the fields, unless `found` has another one.
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
            found["left_out"] = left_out
        if traceback is not None:
            found.setdefault("error", traceback)
        found.setdefault("node", self._node)
        # The record names the caller of this method.
        self._log.log(
            level,
            text,
            *args,
            exc_info=traceback,
            extra=fields(event, **found),
            stacklevel=2,
        )

    def _forget(self, now: float) -> None:
        self._seen = {
            reason: seen
            for reason, seen in self._seen.items()
            if now - seen[0] < LOG_INTERVAL_SECONDS
        }
