"""Standard output, as the commands that print what came write it."""

from __future__ import annotations

import sys
from typing import IO

__all__ = ["write_whole"]


def write_whole(data: bytes, file: IO[bytes] | None = None) -> None:
    """Write all of it; `file` None: to standard output.

    That is not buffered where PYTHONUNBUFFERED is set, and then a write is one system
    call, which may take less: into a pipe that is full, once libuv has used io_uring.
    """
    file = sys.stdout.buffer if file is None else file
    rest = memoryview(data)
    while rest:
        # None: it would block.
        rest = rest[file.write(rest) or 0 :]
    file.flush()
