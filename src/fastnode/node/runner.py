"""`run`: asyncio on uvloop, where there is one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from fastnode.loggers import fields

__all__ = ["run"]

Result = TypeVar("Result")

log = logging.getLogger("fastnode.node")


def run(main: Coroutine[Any, Any, Result], *, debug: bool | None = None) -> Result:
    """Run a coroutine on a new uvloop loop, as ``asyncio.run`` does on a stock one.

    Without uvloop it runs on a stock loop, and a warning says so.

    Raises:
        RuntimeError: a loop is running in this thread already.
    """
    with asyncio.Runner(debug=debug, loop_factory=loop_factory()) as runner:
        return runner.run(main)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return the function that makes uvloop loops; None: there is no uvloop."""
    try:
        # Here: programs with a loop of their own never need it.
        import uvloop  # noqa: PLC0415
    except ImportError as error:
        log.warning(
            "the loop of asyncio is used, which is slower: %s",
            error,
            extra=fields("uvloop_missing", error=error),
        )
        return None
    return uvloop.new_event_loop
