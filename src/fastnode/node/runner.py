"""`run`: asyncio on uvloop."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["run"]

Result = TypeVar("Result")


def run(main: Coroutine[Any, Any, Result], *, debug: bool | None = None) -> Result:
    """Run a coroutine on a new uvloop loop, as ``asyncio.run`` does on a stock one.

    Raises:
        RuntimeError: a loop is running in this thread already.
    """
    # Here: programs with a loop of their own never need it.
    import uvloop  # noqa: PLC0415

    with asyncio.Runner(debug=debug, loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)
