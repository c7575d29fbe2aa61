"""Bounded waits of a node: until a deadline, and for tasks that were cancelled."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine
from typing import TYPE_CHECKING, Any

from fastnode.dispatch.handler import handler_deadline
from fastnode.errors import Begun, CallTimeout, Side, no_timeout
from fastnode.limits import CANCEL_SECONDS

if TYPE_CHECKING:
    from fastnode.link.link import Link

__all__ = [
    "TimeLimit",
    "connect_with_deadline",
    "inherited",
    "left_until",
    "timed_out",
    "wait_cancelled",
    "with_deadline",
]

log = logging.getLogger("fastnode.node")


def left_until(deadline: float | None) -> float | None:
    """Return the seconds until a time of the running loop, at least 0, or None."""
    if deadline is None:
        return None
    return max(deadline - asyncio.get_running_loop().time(), 0.0)


def inherited(timeout: float | None, peer: str) -> float | None:
    """Return the timeout of what a handler asks for: no more than the handler has left.

    Args:
        timeout: seconds, or None.
        peer: the node name of the peer, for the error.

    Raises:
        CallTimeout: the handler's time is over.
        ConfigError: `timeout` is below 0.
    """
    if timeout is not None and not timeout >= 0:
        raise no_timeout(timeout)
    left = left_until(handler_deadline())
    if left is None:
        return timeout
    if left <= 0:
        raise CallTimeout(
            "nothing was sent: the time of the handler that makes the call is over",
            peer=peer,
            side=Side.LOCAL,
            begun="no",
        )
    return left if timeout is None else min(timeout, left)


class TimeLimit:
    """A time limit that can be brought forward while a task waits for something.

    Args:
        seconds: from now on.
    """

    def __init__(self, seconds: float) -> None:
        self._clock = asyncio.get_running_loop().time
        self._end = self._clock() + seconds
        self._scope: asyncio.Timeout | None = None

    def left(self) -> float:
        """Return the seconds that are left, at least 0."""
        return max(self._end - self._clock(), 0.0)

    def shorten(self, seconds: float) -> bool:
        """Let at most so many seconds be left; return whether that is less."""
        end = self._clock() + seconds
        if end >= self._end:
            return False
        self._end = end
        if self._scope is not None and not self._scope.expired():
            self._scope.reschedule(end)
        return True

    async def wait(self, futures: Collection[asyncio.Future[Any]]) -> None:
        """Wait until all futures are done or the time is over. One task at a time."""
        if not futures:
            return
        try:
            async with asyncio.timeout_at(self._end) as self._scope:
                await asyncio.wait(futures)
        except TimeoutError:
            pass
        finally:
            self._scope = None


async def with_deadline(
    timeout: float,
    what: Coroutine[Any, Any, Any],
    text: str,
    peer: str,
    begun: Begun = "maybe",
) -> Any:
    """Return the result of a coroutine that may take `timeout` seconds.

    Args:
        text: what has not happened in time, for the error.
        peer: the node name of the peer, for the error.
        begun: whether a handler may have begun, for the error.

    Raises:
        CallTimeout: the time was over.
        ConfigError: `timeout` is below 0.
    """
    if not timeout >= 0:
        what.close()
        raise no_timeout(timeout)
    try:
        async with asyncio.timeout(timeout) as scope:
            return await what
    except TimeoutError as error:
        if not scope.expired():
            raise
        raise CallTimeout(
            f"{text} within {timeout:g} s",
            timeout=timeout,
            peer=peer,
            side=Side.REMOTE,
            begun=begun,
        ) from error


async def connect_with_deadline(
    timeout: float | None,
    connect: Callable[[str], Coroutine[Any, Any, Link]],
    name: str,
) -> tuple[Link, float | None]:
    """Connect with a node; return the link, and the seconds that are left.

    Raises:
        As `with_deadline` and `connect`.
    """
    if timeout is None:
        return await connect(name), None
    loop = asyncio.get_running_loop()
    began = loop.time()
    link = await with_deadline(
        timeout, connect(name), f"no link with {name}", name, begun="no"
    )
    return link, max(timeout - (loop.time() - began), 0.0)


def timed_out(
    error: CallTimeout, endpoint: str, timeout: float | None, left: float | None
) -> CallTimeout:
    """Return the error of a call that took too long, for whoever made it.

    Args:
        error: of the link, which knows only the time that connecting has left.
        timeout: the seconds that were given for connecting and for the reply.
        left: the seconds that were left when the link was there.
    """
    if timeout is None or left is None or left == timeout:
        return error
    return CallTimeout(
        f"no reply from {endpoint!r} within {timeout:g} s; connecting took "
        f"{timeout - left:.3g} s of them",
        timeout=timeout,
        peer=error.peer,
        side=error.side,
        begun=error.begun,
    )


async def wait_cancelled(name: str, tasks: Collection[asyncio.Task[Any]]) -> None:
    """Wait CANCEL_SECONDS for tasks that were cancelled; log how many still run.

    Args:
        name: the name of the node, for the log.
    """
    if not tasks:
        return
    _, left = await asyncio.wait(tasks, timeout=CANCEL_SECONDS)
    if left:
        log.error(
            "%s: %d handlers or hooks go on though they were cancelled: they swallow "
            "CancelledError",
            name,
            len(left),
        )
