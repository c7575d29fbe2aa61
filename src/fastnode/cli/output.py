"""Standard output, as the commands that print what came write it."""

from __future__ import annotations

import select
import sys
from typing import IO

__all__ = ["write_whole"]


def write_whole(data: bytes, file: IO[bytes] | None = None) -> None:
    """Write all of it; `file` None: to standard output.

    That is not buffered where PYTHONUNBUFFERED is set, and then a write is one system
    call, which may take less: into a pipe that is full, once libuv has used io_uring.
    Where it was made non-blocking, by us or by another process that has it too, this
    waits until there is room.
    """
    file = sys.stdout.buffer if file is None else file
    rest = memoryview(data)
    while rest:
        try:
            taken = file.write(rest)
        except BlockingIOError as error:  # of a file that is buffered
            taken = error.characters_written
        rest = rest[taken or 0 :]
        if rest and not taken:
            wait_for_room(file)
    while True:
        try:
            file.flush()
        except BlockingIOError:
            wait_for_room(file)
        else:
            return


def wait_for_room(file: IO[bytes]) -> None:
    """Wait until a pipe or terminal takes more, or nobody reads it any more."""
    poll = select.poll()
    poll.register(file.fileno(), select.POLLOUT)
    poll.poll()
