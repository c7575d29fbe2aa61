"""Changes of a directory as Linux reports them; other systems report nothing.

This uses inotify through ctypes, so that it needs no further library. Who uses it also
looks at the directory from time to time: the system limits how many programs may watch,
and file systems of other hosts report nothing.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

__all__ = ["DirectoryChanges"]

#: From <sys/inotify.h>: a file was closed after writing, which also happens when its
#: process dies; it was moved here or away; it was removed.
EVENTS: Final = 0x8 | 0x40 | 0x80 | 0x200
#: Room for some hundred events. They are read and thrown away.
READ_BYTES: Final = 16384


class DirectoryChanges:
    """Calls a function when something in a directory may have changed.

    Args:
        callback: called in the running loop.
    """

    def __init__(self, callback: Callable[[], object]) -> None:
        self._callback = callback
        self._loop = asyncio.get_running_loop()
        self._process = os.getpid()
        self._descriptor = _open()
        if self._descriptor is not None:
            self._loop.add_reader(self._descriptor, self._readable)

    def watch(self, path: Path) -> None:
        """Watch a directory. If the path leads to a new directory, watch that one."""
        if self._descriptor is not None:
            # For a directory that is watched already this changes nothing. It fails
            # where the user has too many watches; then the regular looks have to do.
            _libc.inotify_add_watch(self._descriptor, os.fsencode(path), EVENTS)

    def close(self) -> None:
        """Watch no more."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            self._loop.remove_reader(descriptor)
            os.close(descriptor)

    def _readable(self) -> None:
        if self._descriptor is None:
            return
        try:
            os.read(self._descriptor, READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            self.close()
        self._callback()


_libc: Final = ctypes.CDLL(None)


def _open() -> int | None:
    """Return a descriptor that does not block, or None."""
    if not sys.platform.startswith("linux"):
        return None
    descriptor = int(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
    return descriptor if descriptor >= 0 else None
