"""Read FILE or standard input for the commands that send it."""

from __future__ import annotations

import asyncio
import os
import stat
import threading
from contextlib import suppress
from typing import IO

__all__ = ["Input"]

#: Bytes that are read at once from a pipe or a terminal.
READ_BYTES = 1 << 16


class Input:
    """Reads a file without blocking the event loop.

    A pipe or a terminal may be silent for long. Keepalives, the timeout and Ctrl-C work
    meanwhile.

    Attributes:
        size: bytes in all; None if this is not known.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.size: int | None = None
        self._descriptor: int | None = None
        try:
            descriptor = file.fileno()
        except (OSError, ValueError):  # the file is in memory
            return
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode):
            self.size = status.st_size
        else:
            self._descriptor = descriptor

    async def read(self, size: int) -> bytes:
        """Return the next `size` bytes, or fewer at the end."""
        if self._descriptor is None:
            return self._file.read(size)
        loop = asyncio.get_running_loop()
        done: asyncio.Future[bytes] = loop.create_future()
        descriptor = self._descriptor

        def tell(result: bytes | OSError) -> None:
            if done.done():
                return
            if isinstance(result, bytes):
                done.set_result(result)
            else:
                done.set_exception(result)

        def work() -> None:
            result: bytes | OSError
            try:
                result = read_all(descriptor, size)
            except OSError as error:
                result = error
            with suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(tell, result)

        # The thread is a daemon, so that the program can end while the thread waits. It
        # reads the descriptor, because a file object would hold a lock.
        threading.Thread(target=work, daemon=True).start()
        return await done


def read_all(descriptor: int, size: int) -> bytes:
    """Read `size` bytes, or fewer at the end."""
    parts = []
    while size and (part := os.read(descriptor, min(size, READ_BYTES))):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
