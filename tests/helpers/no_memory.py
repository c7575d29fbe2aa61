"""Allocations that fail: for tests of what happens when memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count

import pytest

try:
    from _testcapi import (  # type: ignore[import-not-found]
        remove_mem_hooks,
        set_nomemory,
    )
except ImportError:  # a Python that was built without its own tests
    set_nomemory = None

__all__ = ["NEEDS_HOOKS", "raises", "starts"]

NEEDS_HOOKS = pytest.mark.skipif(
    set_nomemory is None, reason="this Python has no _testcapi.set_nomemory"
)
#: A step that fails may be one that its code can do without. So many allocations in a
#: row that do not matter mean that no allocation is left to fail.
QUIET = 12


def raises(function: Callable[[], object], start: int, failures: int) -> bool:
    """Call a function while allocations fail, and return whether memory ran out.

    Args:
        start: how many allocations succeed before the first one that fails.
        failures: how many fail then, one after another; 0: all. If all fail, the
            interpreter itself aborts where it handles exceptions of Python code.
    """
    set_nomemory(start, start + failures if failures else 0)
    try:
        function()
    except MemoryError:
        return True
    finally:
        remove_mem_hooks()
    return False


def starts(failed: Callable[[], bool]) -> Iterator[int]:
    """Count up, until nothing fails any more.

    Args:
        failed: tells whether the last number that was returned has made anything fail.
    """
    quiet = 0
    for start in count():
        yield start
        quiet = 0 if failed() else quiet + 1
        if quiet == QUIET:
            assert start > QUIET, "nothing has failed"
            return
