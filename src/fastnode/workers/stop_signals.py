"""The signals that stop a program, and the time that the program has then.

How it works. The first SIGTERM or SIGINT asks for an orderly end, the second one for a
quick end, and the third one ends the process at once. The handlers are those of the
module `signal` and not of the event loop: they also run while a handler of the user
blocks the loop, unless it blocks in C code. They tell the loop what to do.

An orderly end has a time limit, and code of the user may ignore it: it blocks the loop,
swallows its cancellation, or has a thread that never ends. So a timer of `faulthandler`
runs from the first signal on. It needs neither the loop nor the GIL. When the time is
over, it writes the stacks of all threads to standard error, and ends the process.

Process 1 of a container needs handlers for another reason: Linux ignores a signal to
process 1 that has none.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final

from fastnode.limits import WORKER_GRACE_SECONDS
from fastnode.node.fork import handled_signals

__all__ = ["SIGNALLED", "HardLimit", "StopSignals", "hard_seconds"]

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
#: The exit code of a process that a signal has ended is this plus its number.
SIGNALLED: Final = 128


class HardLimit:
    """Ends this process when a time is over, whatever its threads do."""

    def __init__(self) -> None:
        self._file: IO[Any] | None = None

    def start(self, seconds: float) -> None:
        """End the process so many seconds from now; an earlier call counts no more."""
        if self._file is None:
            self._file = stack_file()
        faulthandler.dump_traceback_later(seconds, exit=True, file=self._file)

    def cancel(self) -> None:
        """The process ends by itself."""
        if self._file is not None:
            faulthandler.cancel_dump_traceback_later()
            self._file.close()
            self._file = None


class StopSignals:
    """Counts the signals of one run of a program.

    Attributes:
        count: how many have come.
        seconds: the time that an orderly end may take.
        limit: ends the process after that.
    """

    def __init__(self, seconds: float) -> None:
        self.count = 0
        self.seconds = seconds
        self.limit = HardLimit()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._told: Callable[[signal.Signals], object] | None = None

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Handle signals, in the main thread."""
        before = [signal.signal(number, self._handle) for number in STOP_SIGNALS]
        try:
            with handled_signals(*STOP_SIGNALS):
                yield
        finally:
            for number, handler in zip(STOP_SIGNALS, before, strict=True):
                signal.signal(number, handler)
            self.limit.cancel()

    def tell(self, told: Callable[[signal.Signals], object]) -> None:
        """Call `told` in the running loop for each signal that comes from now on."""
        self._loop = asyncio.get_running_loop()
        self._told = told

    def _handle(self, number: int, frame: object) -> None:
        del frame
        self.count += 1
        if self.count > 2:
            os._exit(SIGNALLED + number)
        self.limit.start(self.seconds if self.count == 1 else hard_seconds(0.0))
        if self._loop is not None and self._told is not None:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._told, signal.Signals(number))


def hard_seconds(shutdown_timeout: float) -> float:
    """Return the time after which a program has to be gone, in seconds.

    Args:
        shutdown_timeout: what the links have. What `setup` does at its end has
            WORKER_GRACE_SECONDS more, and the rest of the program as much again.
    """
    return shutdown_timeout + 2 * WORKER_GRACE_SECONDS


def stack_file() -> IO[Any]:
    """Return a file for the stacks: standard error, if there is one."""
    try:
        return os.fdopen(os.dup(sys.stderr.fileno()), "wb", buffering=0)
    except (AttributeError, OSError, ValueError):
        return Path(os.devnull).open("wb", buffering=0)
