"""What the group and a worker say to each other: lines of JSON, and descriptors.

The end of the channel is news too: the other process is gone.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Callable, Sequence
from typing import Any

from fastnode.workers.descriptors import receive

__all__ = ["Channel"]

READ_BYTES = 64 * 1024
MAX_DESCRIPTORS = 64


class Channel:
    """One end. Belongs to the running loop.

    Args:
        sock: of a pair of Unix stream sockets; it belongs to the channel from then on.
        on_message: told of each message, with the descriptors that came with it, which
            belong to whoever is told.
        on_end: told that there will be none any more, once.
    """

    def __init__(
        self,
        sock: socket.socket,
        on_message: Callable[[dict[str, Any], list[int]], None],
        on_end: Callable[[], None],
    ) -> None:
        self._sock = sock
        self._on_message = on_message
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._data = b""
        self._descriptors: list[int] = []
        self._open = True
        sock.setblocking(False)
        self._loop.add_reader(sock, self._readable)

    def fileno(self) -> int:
        """The descriptor; -1: it is closed."""
        return self._sock.fileno()

    def send(self, message: dict[str, Any], descriptors: Sequence[int] = ()) -> bool:
        """Say something; descriptors stay open here.

        Returns:
            False: the other end has not read hundreds of messages, so it is busy, or
            stopped; or there is none any more, of which `on_end` tells.
        """
        if not self._open:
            return False
        line = json.dumps({**message, "descriptors": len(descriptors)}).encode() + b"\n"
        try:
            sent = socket.send_fds(self._sock, [line], list(descriptors))
        except BlockingIOError:
            return False
        except OSError:
            sent = 0
        if sent != len(line):
            # It is gone; or a part of a message was sent, which so short ones are not.
            self._end()
            return False
        return True

    def close(self) -> None:
        """Say and hear nothing any more, without a word to `on_end`."""
        if self._open:
            self._open = False
            self._loop.remove_reader(self._sock)
            self._sock.close()
            for descriptor in self._descriptors:
                os.close(descriptor)

    def _end(self) -> None:
        if self._open:
            self.close()
            self._on_end()

    def drain(self) -> None:
        """Read what has arrived already. The other process has ended.

        The end of the stream may never come: a program that the other process started
        may hold a copy of its socket.
        """
        while self._open and self._read():
            pass

    def _readable(self) -> None:
        self._read()

    def _read(self) -> bool:
        """Read once; False: there was nothing to read."""
        try:
            data, descriptors = receive(self._sock, READ_BYTES, MAX_DESCRIPTORS)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            data, descriptors = b"", []
        self._descriptors += descriptors
        if not data:
            self._end()
            return True
        *lines, self._data = (self._data + data).split(b"\n")
        for line in lines:
            message = json.loads(line)
            count = message.pop("descriptors")
            mine = self._descriptors[:count]
            del self._descriptors[:count]
            self._on_message(message, mine)
            if not self._open:
                break
        return True
