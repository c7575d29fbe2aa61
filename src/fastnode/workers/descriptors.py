"""Descriptors that come over a Unix socket."""

from __future__ import annotations

import array
import os
import socket

__all__ = ["receive"]

ITEM_BYTES = array.array("i").itemsize
#: The programs that this process starts must not have them. `socket.recv_fds` takes
#: flags, and forgets them.
CLOSE_ON_EXEC: int = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


def receive(sock: socket.socket, size: int, most: int) -> tuple[bytes, list[int]]:
    """What has come: at most `size` bytes, and the descriptors beside them.

    Fewer descriptors than were sent, if there are more than `most` or this process may
    have no more; the others are closed.

    Raises:
        OSError: as `socket.recv`.
    """
    space = socket.CMSG_LEN(most * ITEM_BYTES)
    data, ancillary, _, _ = sock.recvmsg(size, space, CLOSE_ON_EXEC)
    descriptors = array.array("i")
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(content[: len(content) // ITEM_BYTES * ITEM_BYTES])
    if not CLOSE_ON_EXEC:
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
    return data, descriptors.tolist()
