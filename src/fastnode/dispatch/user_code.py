"""What fastnode does when code of the user raises: handlers, hooks and resolvers.

Whatever such code raises, `BaseException` included, ends at most its own call. Two
cases need care:

- `asyncio.CancelledError` has two meanings. The task that runs the code may have been
  cancelled: then the cancellation has to go on. Or the code raised it by itself, for
  example from ``.result()`` of a future that somebody else cancelled: then it is an
  error like any other.
- `KeyboardInterrupt` and `SystemExit` end the program, but in order: the caller is
  answered first, and the exception is raised from a callback of the loop. Both loops
  let it out of `run_forever` from there. uvloop swallows it where it comes out of a
  protocol, and asyncio logs it as a task's lost exception.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextvars import Context
from typing import Any, Final

from fastnode.limits import MAX_REASON_BYTES

__all__ = [
    "HookFailed",
    "awaited",
    "contain",
    "end_program",
    "is_cancelled",
    "name_of",
    "settle",
    "text_of",
]

ENDS_PROGRAM: Final = (KeyboardInterrupt, SystemExit)


class HookFailed(Exception):
    """A hook raised. Never leaves fastnode.

    Attributes:
        error: what the hook raised.
    """

    def __init__(self, error: BaseException) -> None:
        super().__init__(f"{name_of(error)}: {text_of(error)}")
        self.error = error


def name_of(error: BaseException) -> str:
    """Return the name of an exception's type; never raises."""
    try:
        return _plain(type(error).__name__)
    except BaseException:
        return "an exception without a name"


def text_of(error: BaseException) -> str:
    """Return ``str(error)``, cut to MAX_REASON_BYTES characters; never raises.

    An exception whose ``str()`` raises is described by the name of its type.
    """
    try:
        return _plain(str(error))
    except BaseException:
        return name_of(error)


def _plain(text: str) -> str:
    # `str()` may return a subclass, whose methods are the user's too.
    return str.__str__(text)[:MAX_REASON_BYTES]


def end_program(error: BaseException) -> None:
    """End the program if the exception asks for it; every other one is left alone."""
    if isinstance(error, ENDS_PROGRAM):
        loop = asyncio.get_running_loop()
        loop.call_soon(_raise, error, context=Context())


def _raise(error: BaseException) -> None:
    raise error


def is_cancelled(error: BaseException) -> bool:
    """Whether the exception is the cancellation of the task that runs now."""
    if not isinstance(error, asyncio.CancelledError):
        return False
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def contain(error: BaseException) -> HookFailed:
    """Return what is raised instead of an exception of user code."""
    end_program(error)
    return HookFailed(error)


async def awaited(awaitable: Awaitable[Any]) -> Any:
    """Return a coroutine for an awaitable that is none, such as a future."""
    return await awaitable


async def settle(awaitable: Awaitable[Any]) -> Any:
    """Wait for what a hook returned.

    Raises:
        HookFailed: it raised; a cancellation of the current task is not contained.
    """
    task = asyncio.current_task()
    try:
        return await awaitable
    except BaseException as error:
        if is_cancelled(error):
            raise
        if isinstance(error, GeneratorExit) and not _runs(task):
            raise  # this coroutine is closed: nobody waits for it any more
        raise contain(error) from error


def _runs(task: asyncio.Task[Any] | None) -> bool:
    try:
        return task is not None and asyncio.current_task() is task
    except RuntimeError:  # no loop runs
        return False
