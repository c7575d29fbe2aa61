"""The worker's end of the way on which it is handed connections."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fastnode.workers.descriptors import receive

if TYPE_CHECKING:
    from fastnode.peer import Address

__all__ = ["Inlet"]


class Inlet:
    """Takes the place of a listening socket in an acceptor; see `Listener`.

    Args:
        sock: of a pair of Unix stream sockets. With each connection comes one byte.
        address: what the group listens on.
        on_taken: called for each connection.

    Attributes:
        ended: no further connection will come.
    """

    def __init__(
        self, sock: socket.socket, address: Address, on_taken: Callable[[], None]
    ) -> None:
        self._sock = sock
        self._address = address
        self._on_taken = on_taken
        self.ended = False

    def setblocking(self, flag: bool, /) -> None:
        """See `Listener`."""
        self._sock.setblocking(flag)

    def getsockname(self) -> Address:
        """See `Listener`."""
        return self._address

    def fileno(self) -> int:
        """See `Listener`."""
        return self._sock.fileno()

    def accept(self) -> tuple[socket.socket, Any]:
        """See `Listener`."""
        data, descriptors = receive(self._sock, 1, 1)
        if not data:
            self.ended = True
            raise EOFError
        self._on_taken()
        if not descriptors:
            # The kernel has closed it already.
            raise OSError(errno.EMFILE, "a connection was lost for want of descriptors")
        try:
            connection = socket.socket(fileno=descriptors[0])
        except OSError as error:
            os.close(descriptors[0])
            raise ConnectionAbortedError from error
        try:
            return connection, connection.getpeername()
        except OSError as error:  # reset meanwhile
            connection.close()
            raise ConnectionAbortedError from error

    def close(self) -> None:
        """See `Listener`."""
        self.ended = True
        self._sock.close()
