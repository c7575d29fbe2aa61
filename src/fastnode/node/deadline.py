"""Bounded waits of a node: until a deadline, and for tasks that were cancelled."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine
from typing import TYPE_CHECKING, Any

from fastnode.dispatch.current import inherited_timeout
from fastnode.errors import Begun, CallTimeout, ConfigError, Side
from fastnode.limits import CANCEL_SECONDS
from fastnode.loggers import fields
from fastnode.names import check_timeout

if TYPE_CHECKING:
    from fastnode.link.link import Link

__all__ = [
    "Deadline",
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
        ConfigError: `timeout` is no number of seconds, or below 0.
    """
    if timeout is not None:
        timeout = check_timeout(timeout)
    return inherited_timeout(timeout, peer)


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
        ConfigError: `timeout` is no number of seconds, or below 0.
    """
    try:
        timeout = check_timeout(timeout)
    except ConfigError:
        what.close()
        raise
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


class Deadline:
    """A time at which something ends, which can become earlier meanwhile.

    Args:
        seconds: from now on.
    """

    def __init__(self, seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self.at = self._loop.time() + seconds
        self._earlier = asyncio.Event()

    @property
    def left(self) -> float:
        """Seconds until then, at least 0."""
        return max(self.at - self._loop.time(), 0.0)

    def shorten(self, seconds: float) -> None:
        """Let it end so many seconds from now, if that is earlier."""
        at = self._loop.time() + seconds
        if at < self.at:
            self.at = at
            self._earlier.set()

    async def wait(self, futures: Collection[asyncio.Future[None]]) -> bool:
        """Wait until all futures are done, or the time is over, or it became shorter.

        Returns:
            Whether it became shorter.
        """
        self._earlier.clear()
        if not futures:
            return False
        earlier = self._loop.create_task(self._earlier.wait())
        done = self._loop.create_task(asyncio.wait(futures))
        try:
            await asyncio.wait(
                [earlier, done],
                timeout=self.left,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            earlier.cancel()
            done.cancel()
        return self._earlier.is_set()


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
            extra=fields("handlers_go_on", node=name, handlers=len(left)),
        )
