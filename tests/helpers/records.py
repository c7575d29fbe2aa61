"""Log records that a test waits for."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: No wait is longer.
WAIT_SECONDS = 45.0


class Records(logging.Handler):
    """What one logger said; wakes up who waits for more."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.all: list[logging.LogRecord] = []
        self._more = threading.Condition()

    def emit(self, record: logging.LogRecord) -> None:
        with self._more:
            self.all.append(record)
            self._more.notify_all()

    def texts(self, level: int = logging.DEBUG) -> list[str]:
        """The messages of at least this level."""
        return [r.getMessage() for r in list(self.all) if r.levelno >= level]

    @property
    def warnings(self) -> list[str]:
        return self.texts(logging.WARNING)

    def wait(self, condition: Callable[[], object]) -> None:
        """Wait until a condition holds that may change with each record; bounded."""
        with self._more:
            assert self._more.wait_for(condition, WAIT_SECONDS), self.texts()


@contextmanager
def recorded(name: str) -> Iterator[Records]:
    """Record a logger, from DEBUG on."""
    logger = logging.getLogger(name)
    before, records = logger.level, Records()
    logger.setLevel(logging.DEBUG)
    logger.addHandler(records)
    try:
        yield records
    finally:
        logger.removeHandler(records)
        logger.setLevel(before)
