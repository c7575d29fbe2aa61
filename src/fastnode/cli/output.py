"""What commands print: text that is fit for a terminal, and payloads in full."""

from __future__ import annotations

import select
import sys
from typing import IO

__all__ = ["printable", "write_whole"]


def printable(text: str) -> str:
    """Return a text on one line.

    Characters that move the cursor or change colours are escaped.
    """
    return text if text.isprintable() else repr(text)[1:-1]


def write_whole(data: bytes, file: IO[bytes] | None = None) -> None:
    """Write all data.

    With PYTHONUNBUFFERED, standard output has no buffer. A write is then one system
    call, which may take only a part of the data. The descriptor may also be
    non-blocking, because of this process or of another one that shares it. This
    function then waits until there is room.

    Args:
        data: what to write.
        file: where to write; None: standard output.
    """
    if file is None:
        if sys.stdout is None:
            return  # the program was started with standard output closed
        file = sys.stdout.buffer
    rest = memoryview(data)
    while rest:
        try:
            taken = file.write(rest)
        except BlockingIOError as error:  # raised by files with a buffer
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
    """Wait until a pipe or terminal takes more data, or has no reader any more."""
    poll = select.poll()
    poll.register(file.fileno(), select.POLLOUT)
    poll.poll()
