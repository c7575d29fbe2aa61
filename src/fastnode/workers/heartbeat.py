"""Finds a worker whose loop is blocked, says where, and has it replaced."""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
from collections.abc import Sequence
from typing import IO, Any, Protocol

from fastnode.workers.main import STACK_SIGNAL

__all__ = ["Heartbeat"]

log = logging.getLogger("fastnode.workers")

#: A worker that answers is asked again after this part of the timeout. It is also the
#: delay of the group's own loop after which the group does not judge its workers.
PART = 0.25
#: How long a worker may take to write its stacks. It needs a few milliseconds.
STACK_SECONDS = 0.5
#: Of the stacks that are logged.
STACK_BYTES = 32 * 1024


class Beating(Protocol):
    """A worker, as far as it is needed here."""

    def say(self, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        """Tell it something."""

    def listen_to_it(self) -> None:
        """Read what it has said already."""

    def log_fields(self, event: str) -> dict[str, Any]:
        """Return the fields of a log record about the worker."""

    def signal(self, number: int) -> None:
        """Send its process a signal."""

    def leave(self) -> None:
        """Hand it no connections any more."""

    def kill(self) -> None:
        """End it at once."""


class Heartbeat:
    """Asks a worker again and again. Belongs to the running loop.

    Args:
        timeout: seconds that an answer may take.
        worker: who is asked.
    """

    def __init__(self, timeout: float, worker: Beating) -> None:
        self._timeout = timeout
        self._worker = worker
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._waiting = False
        self._stacks: IO[bytes] | None = None

    def start(self) -> None:
        """The worker is up."""
        try:
            self._stacks = memory_file()
        except OSError as error:
            log.warning(
                "a worker that hangs will be replaced without a stack: %s",
                error,
                extra=self._worker.log_fields("stack_not_available"),
            )
        else:
            self._worker.say({"do": "write stacks"}, [self._stacks.fileno()])
        self._ask()

    def stop(self) -> None:
        """The worker is being ended, or has ended."""
        if self._timer is not None:
            self._timer.cancel()
        self._waiting = False
        if self._stacks is not None:
            self._stacks.close()
            self._stacks = None

    def answered(self) -> None:
        """The worker has answered."""
        if self._waiting:
            self._waiting = False
            assert self._timer is not None
            self._timer.cancel()
            self._timer = self._loop.call_later(self._timeout * PART, self._ask)

    def _ask(self) -> None:
        self._waiting = True
        self._worker.say({"do": "ping"})
        due = self._loop.time() + self._timeout
        self._timer = self._loop.call_at(due, self._judge, due)

    def _judge(self, due: float) -> None:
        # The answer may have arrived while this process was busy or stopped.
        self._worker.listen_to_it()
        if not self._waiting:
            return
        if self._loop.time() - due > self._timeout * PART:
            self._ask()  # the worker may have been stopped together with this process
            return
        log.error(
            "%s has not answered for %g s: its loop is blocked, and it will be killed",
            self._worker,
            self._timeout,
            extra=self._worker.log_fields("worker_hangs"),
        )
        stacks, self._stacks = self._stacks, None
        self._worker.leave()  # which stops this object
        self._stacks = stacks
        if stacks is not None:
            self._worker.signal(STACK_SIGNAL)
        self._timer = self._loop.call_later(STACK_SECONDS, self._end)

    def _end(self) -> None:
        if self._stacks is not None:
            data = os.pread(self._stacks.fileno(), STACK_BYTES, 0)
            text = data.decode(errors="replace").rstrip()
            log.error(
                "stacks of %s:\n%s",
                self._worker,
                text or "none: it is stopped, or hangs in the kernel",
                extra=self._worker.log_fields("worker_stacks"),
            )
        self._worker.kill()


def memory_file() -> IO[bytes]:
    """A file that no other process can open."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("fastnode-stacks"), "rb", buffering=0)
    return tempfile.TemporaryFile(buffering=0)
