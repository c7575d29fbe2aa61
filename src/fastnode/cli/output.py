"""What commands print: text that is fit for a terminal, and payloads in full."""

from __future__ import annotations

import select
import sys
from typing import IO, Final

__all__ = ["by_options", "printable", "write_whole"]


#: Words of the library's hints, and the options that do the same.
_OPTIONS: Final = (
    ("set server_name or a SAN", "give --name, or issue it with --dns or --ip"),
    ("this dialer's root_cas", "--ca"),
    ("give this node's cert manager a certificate", "give --cert and --key"),
)


def printable(text: str) -> str:
    """Return a text on one line. Characters that would move the cursor or change
    colours are escaped."""
    return text if text.isprintable() else repr(text)[1:-1]


def by_options(hint: str | None) -> str:
    """Return a hint that names options of commands instead of settings of the
    library."""
    said = hint or ""
    for setting, option in _OPTIONS:
        said = said.replace(setting, option)
    return said


def write_whole(data: bytes, file: IO[bytes] | None = None) -> None:
    """Write all data; `file` None: to standard output.

    With PYTHONUNBUFFERED, standard output has no buffer. A write is then one system
    call, which may take only a part: into a full pipe, once libuv has used io_uring. If
    the descriptor is non-blocking, because of this process or another one that shares
    it, this waits until there is room.
    """
    file = sys.stdout.buffer if file is None else file
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
