"""A port of the group: its connections go to the workers, to the idlest first.

A service of a peer wants a link with each worker. If its dial reaches a worker that it
is linked with, the worker says so, and the next connections from that host go to the
other workers for LINKED_SECONDS.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from fastnode.log_limit import LogLimit

if TYPE_CHECKING:
    from fastnode.peer import Address

__all__ = ["Handout", "LinkedHosts", "Taker"]

log = logging.getLogger("fastnode.workers")

#: As in an acceptor: connections taken per readiness event, and the pause when the
#: process is out of file descriptors.
ACCEPTS_PER_TURN = 64
PAUSE_SECONDS = 1.0
#: How long connections from a host go to other workers than one that it is linked with:
#: as long as a service dials again and again, see `fastnode.node.instances`.
LINKED_SECONDS = 2.0
#: Hosts that are remembered for one worker: a peer may have many addresses.
MAX_LINKED_HOSTS = 1024
#: The pause when no worker takes another one: each has hundreds that it has not looked
#: at. The queue of the kernel holds what comes meanwhile.
FULL_SECONDS = 0.02


class Taker(Protocol):
    """A worker that is up."""

    @property
    def load(self) -> int:
        """Its connections."""

    def linked_with(self, host: str) -> bool:
        """Whether a dialer at this host has just told that it is linked with this
        worker and wants another one."""

    def take(self, port: int, connection: socket.socket) -> bool:
        """Whether it has the connection now: a copy, the caller's stays open."""


class Handout:
    """Accepts, and hands out.

    Args:
        index: which port of the group this is.
        address: host, as in the options, and port.
        sockets: listening; they belong to this object.
        takers: gives the workers that are up.
    """

    def __init__(
        self,
        index: int,
        address: Address,
        sockets: Sequence[socket.socket],
        takers: Callable[[], Iterable[Taker]],
    ) -> None:
        self.address = address
        self._index = index
        self._sockets = list(sockets)
        self._takers = takers
        self._loop = asyncio.get_running_loop()
        self._accepting = False
        self._timer: asyncio.TimerHandle | None = None
        # Accepted, but no worker takes it now.
        self._kept: socket.socket | None = None
        self._limit = LogLimit(log)

    def resume(self) -> None:
        """Hand out connections if a worker can take them. Called when one is up."""
        self._stop_timer()
        if self._kept is not None and not self._give(self._kept):
            return
        self._kept = None
        if not self._accepting and any(True for _ in self._takers()):
            self._accepting = True
            for sock in self._sockets:
                self._loop.add_reader(sock, self._readable, sock)

    def descriptors(self) -> list[int]:
        """What a forked child of this program must not keep."""
        kept = [] if self._kept is None else [self._kept]
        return [sock.fileno() for sock in (*self._sockets, *kept)]

    def close(self) -> None:
        """Listen no more."""
        self._pause(None)
        for sock in (*self._sockets, self._kept):
            if sock is not None:
                sock.close()
        self._sockets = []
        self._kept = None

    def _pause(self, seconds: float | None) -> None:
        self._stop_timer()
        if self._accepting:
            self._accepting = False
            for sock in self._sockets:
                self._loop.remove_reader(sock)
        if seconds is not None:
            self._timer = self._loop.call_later(seconds, self.resume)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _readable(self, sock: socket.socket) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            if not self._accepting:
                return
            try:
                connection, _ = sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._limit.say(
                    logging.ERROR,
                    "pause",
                    "accepting on %s:%d pauses for %g s: %s; links go on",
                    *self.address,
                    PAUSE_SECONDS,
                    error,
                    event="accepting_paused",
                    address=self.address,
                    error=error,
                )
                self._pause(PAUSE_SECONDS)
                return
            if not self._give(connection):
                self._kept = connection

    def _give(self, connection: socket.socket) -> bool:
        """Hand it to the idlest worker that takes it; False: none, for now."""
        host = host_of(connection)
        takers = sorted(self._takers(), key=lambda each: rank(each, host))
        for taker in takers:
            if taker.take(self._index, connection):
                connection.close()
                return True
        # Without a worker the next one that is up has us go on.
        self._pause(FULL_SECONDS if takers else None)
        return False


def host_of(connection: socket.socket) -> str:
    """Return the host of the dialer; empty if the connection has ended."""
    try:
        return str(connection.getpeername()[0])
    except OSError:
        return ""


def rank(taker: Taker, host: str) -> tuple[bool, int]:
    """Return by what workers are compared; the lowest gets the connection."""
    return taker.linked_with(host), taker.load


class LinkedHosts:
    """Hosts with a dialer that is linked with one worker and wants another one.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._until: dict[str, float] = {}

    def add(self, host: str) -> None:
        """Remember a host from now on."""
        self._until.pop(host, None)
        while len(self._until) >= MAX_LINKED_HOSTS:
            del self._until[next(iter(self._until))]
        self._until[host] = self._clock() + LINKED_SECONDS

    def __contains__(self, host: str) -> bool:
        until = self._until.get(host)
        if until is None:
            return False
        if until > self._clock():
            return True
        del self._until[host]
        return False

    def __len__(self) -> int:
        return len(self._until)
