"""Waits of a node that have an end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from fastnode.errors import CallTimeout, Side, no_timeout

if TYPE_CHECKING:
    from fastnode.link.link import Link

__all__ = ["connected_within", "within"]


async def within(
    timeout: float, what: Coroutine[Any, Any, Any], text: str, peer: str
) -> Any:
    """The outcome of `what`, or `CallTimeout` with `text` after so many seconds.

    Raises:
        ConfigError: the timeout is below 0.
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
            f"{text} within {timeout:g} s", peer=peer, side=Side.REMOTE
        ) from error


async def connected_within(
    timeout: float | None,
    connect: Callable[[str], Coroutine[Any, Any, Link]],
    name: str,
) -> tuple[Link, float | None]:
    """A link with a node, and what is left of the time."""
    if timeout is None:
        return await connect(name), None
    loop = asyncio.get_running_loop()
    began = loop.time()
    link = await within(timeout, connect(name), f"no link with {name}", name)
    return link, max(timeout - (loop.time() - began), 0.0)
