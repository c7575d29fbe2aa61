"""Handlers that outlast their node."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from typing import Any

from fastnode.limits import CANCEL_SECONDS

__all__ = ["wait_cancelled"]

log = logging.getLogger("fastnode.node")


async def wait_cancelled(name: str, tasks: Collection[asyncio.Task[Any]]) -> None:
    """Wait for tasks that were cancelled, and say so if some do not care."""
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
