"""Loggers that outlive their handlers: a full disk for logs stops no node."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from time import monotonic
from typing import Final

from fastnode.limits import LOG_INTERVAL_SECONDS

__all__ = ["LOGGERS", "CarefulLogger", "make_careful"]

#: All that nodes write to.
LOGGERS: Final = (
    "fastnode.acceptor",
    "fastnode.certs",
    "fastnode.discovery",
    "fastnode.link",
    "fastnode.node",
    "fastnode.tls",
    "fastnode.workers",
)


class CarefulLogger(logging.Logger):
    """A logger whose handlers may raise: the line is lost, and standard error says so.

    Handlers of the standard library catch what their streams raise; others do not, and
    an error would come out of whatever callback of a link had something to say.
    """

    def handle(self, record: logging.LogRecord) -> None:
        """See `logging.Logger`."""
        try:
            super().handle(record)
        except Exception as error:
            if logging.raiseExceptions:
                _last_words.say(error)


class _LastWords:
    """Says on standard error what the log cannot."""

    def __init__(self) -> None:
        self._last = -LOG_INTERVAL_SECONDS

    def say(self, error: Exception) -> None:
        now = monotonic()
        if now - self._last < LOG_INTERVAL_SECONDS:
            return
        self._last = now
        with suppress(Exception):
            kind = type(error).__name__
            sys.stderr.write(f"fastnode: a log line was lost: {kind}: {error}\n")


_last_words = _LastWords()


def make_careful(*names: str) -> None:
    """Make these loggers careful ones; modules that use them may be loaded later."""
    for name in names:
        found = logging.getLogger(name)
        # Not those of an application that has a logger class of its own.
        if type(found) is logging.Logger:
            found.__class__ = CarefulLogger
