"""The rules for exceptions of user code: handlers, hooks and resolvers.

An exception of such code, `BaseException` included, ends at most its own call. Two
cases need care:

- `asyncio.CancelledError` has two meanings. If the task that runs the code was
  cancelled, the cancellation has to go on. If the code raised it by itself, it is an
  error like any other. An example is ``.result()`` of a cancelled future.
- `KeyboardInterrupt` and `SystemExit` end the program in order. The caller is answered
  first, and then the exception is raised from a callback of the loop. Both loops let it
  out of `run_forever` from there. uvloop would swallow an exception that comes out of a
  protocol, and asyncio would only log the exception of a task.
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
    """A hook raised an exception. Users never get this error.

    Attributes:
        error: what the hook raised.
    """

    def __init__(self, error: BaseException) -> None:
        super().__init__(f"{name_of(error)}: {text_of(error)}")
        self.error = error


def name_of(error: BaseException) -> str:
    """Return the name of an exception's type. This function never raises."""
    try:
        return _plain(type(error).__name__)
    except BaseException:
        return "an exception without a name"


def text_of(error: BaseException) -> str:
    """Return ``str(error)``, cut to MAX_REASON_BYTES characters.

    If ``str()`` raises, the result is the name of the exception's type. This function
    never raises.
    """
    try:
        return _plain(str(error))
    except BaseException:
        return name_of(error)


def _plain(text: str) -> str:
    # `str()` may return a subclass of `str`, whose methods are user code too.
    return str.__str__(text)[:MAX_REASON_BYTES]


def end_program(error: BaseException) -> None:
    """End the program if the exception is `SystemExit` or `KeyboardInterrupt`."""
    if isinstance(error, ENDS_PROGRAM):
        loop = asyncio.get_running_loop()
        loop.call_soon(_raise, error, context=Context())


def _raise(error: BaseException) -> None:
    raise error


def is_cancelled(error: BaseException) -> bool:
    """Return whether the exception is the cancellation of the current task."""
    if not isinstance(error, asyncio.CancelledError):
        return False
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def contain(error: BaseException) -> HookFailed:
    """Return the error that is raised instead of an exception of user code."""
    end_program(error)
    return HookFailed(error)


async def awaited(awaitable: Awaitable[Any]) -> Any:
    """Wait for an awaitable that is no coroutine, such as a future."""
    return await awaitable


async def settle(awaitable: Awaitable[Any]) -> Any:
    """Wait for the awaitable that a hook returned.

    Raises:
        HookFailed: the hook raised. A cancellation of the current task is raised as it
            is.
    """
    task = asyncio.current_task()
    try:
        return await awaitable
    except BaseException as error:
        if is_cancelled(error):
            raise
        if isinstance(error, GeneratorExit) and not _runs(task):
            raise  # this coroutine is closed, and no code waits for it any more
        raise contain(error) from error


def _runs(task: asyncio.Task[Any] | None) -> bool:
    try:
        return task is not None and asyncio.current_task() is task
    except RuntimeError:  # no loop runs
        return False
