"""Connections that have not shown a whole first record: a descriptor each, no TLS.

A peer that means it sends its ClientHello at once, mostly before it is accepted. Until
that has come whole, a connection has no TLS object, no buffer and no task here: its
bytes stay in the kernel, which is told not to wake us for fewer than are missing
(SO_RCVLOWAT). So who is silent, sends a byte a second, or half a ClientHello, takes no
handshake from others.

There are `most` connections at the most. Beyond that the oldest of the address that has
the most of them makes room for the newest: a flood pushes itself out.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastnode.errors import (
    FastnodeError,
    ProtocolError,
    Side,
    TooManyHandshakes,
)
from fastnode.limits import MAX_CLIENT_HELLO_BYTES
from fastnode.link import endings

if TYPE_CHECKING:
    from fastnode.peer import Address

__all__ = ["Arrival", "Lobby"]

# RFC 8446, 5.1 and 4: type, version and length of a record; type and length of a
# handshake message.
RECORD_HEAD = 5
HANDSHAKE_HEAD = 4
HANDSHAKE = 22
CLIENT_HELLO = 1
MOST_IN_RECORD = (16 << 10) + 256
#: Plaintext: the head of a frame (docs/wire-format.md).
FRAME_HEAD = 8
#: Enough for nearly all ClientHellos, in one look.
PEEK_BYTES = 2048


@dataclass(slots=True, eq=False)
class Arrival:
    """A connection that was accepted, and is nothing more yet.

    Attributes:
        began: when, by the loop's clock: its handshake's deadline counts from here.
        group: the address, or network, that limits count.
        asked: the bytes for which the kernel was told to wake us; 0: it was not.
        shown: its first record is there.
    """

    sock: socket.socket
    address: Address
    began: float
    group: Hashable
    asked: int = 0
    shown: bool = False


def group_of(address: tuple[Any, ...]) -> Hashable:
    """What limits count as one address: an IPv4 address, an IPv6 /64."""
    host = str(address[0])
    if ":" not in host:
        return host
    return socket.inet_pton(socket.AF_INET6, host.partition("%")[0])[:8]


class Lobby:
    """Keeps arrivals until they have shown their first record, and their turn comes.

    Args:
        most: how many there may be.
        timeout: seconds that each may take.
        plaintext: whether there is no TLS.
        on_shown: told of an arrival whose first record is there; it stays here until
            it is taken with `take`.
        refuse: told of an arrival that is dropped, and why; its socket is closed.
    """

    def __init__(
        self,
        most: int,
        timeout: float,
        *,
        plaintext: bool,
        on_shown: Callable[[Arrival], None],
        refuse: Callable[[Arrival, FastnodeError], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._most = most
        self._timeout = timeout
        self._missing = missing_of_frame if plaintext else missing_of_record
        self._on_shown = on_shown
        self._refuse = refuse
        # All in the order of their coming, and by group.
        self._all: dict[Arrival, None] = {}
        self._groups: dict[Hashable, dict[Arrival, None]] = {}
        # Groups by the number of their arrivals.
        self._by_size: dict[int, dict[Hashable, None]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._all)

    def sockets(self) -> list[socket.socket]:
        """The sockets of all arrivals."""
        return [arrival.sock for arrival in self._all]

    def addresses(self) -> list[Address]:
        """Where all arrivals are from."""
        return [arrival.address for arrival in self._all]

    def enter(self, sock: socket.socket, address: tuple[Any, ...]) -> None:
        """A connection was accepted."""
        arrival = Arrival(
            sock, (address[0], address[1]), self._loop.time(), group_of(address)
        )
        while len(self._all) >= self._most:
            self._drop(self._oldest_of_largest(), crowded(arrival))
        self._add(arrival)
        self._look(arrival)
        if self._timer is None and self._all:
            self._set_timer()

    def take(self, arrival: Arrival) -> None:
        """Its turn has come: whoever takes it has the socket from now on."""
        self._remove(arrival)

    def shed(self) -> int:
        """Drop the older half, for want of descriptors; returns how many."""
        oldest = list(self._all)[: (len(self._all) + 1) // 2]
        for arrival in oldest:
            self._drop(arrival, out_of_descriptors(arrival))
        return len(oldest)

    def close(self) -> None:
        """Drop all, without a word."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for arrival in list(self._all):
            self._remove(arrival)
            arrival.sock.close()

    # --- looking ---------------------------------------------------------------

    def _look(self, arrival: Arrival) -> None:
        """See what has come, without taking it out of the kernel."""
        try:
            missing = self._missing(arrival.sock)
        except (BlockingIOError, InterruptedError):
            missing = RECORD_HEAD
        except OSError as error:
            self._drop(arrival, endings.cut_short(text_of(arrival), error))
            return
        except EOFError:
            self._drop(arrival, endings.cut_short(text_of(arrival)))
            return
        except ProtocolError as error:
            error.peer = text_of(arrival)
            self._drop(arrival, error)
            return
        if missing <= arrival.asked:
            # What is there is all there will be; or this system wakes us too early, and
            # it is for TLS to wait.
            missing = 0
        if missing == 0:
            self._ask(arrival, 0)
            arrival.shown = True
            self._on_shown(arrival)
        else:
            self._ask(arrival, missing)

    def _ask(self, arrival: Arrival, size: int) -> None:
        """Be woken when `size` bytes have come; 0: no more."""
        if arrival.asked == size:
            return
        sock = arrival.sock
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, max(size, 1))
        if size == 0:
            self._loop.remove_reader(sock)
        elif arrival.asked == 0:
            self._loop.add_reader(sock, self._look, arrival)
        arrival.asked = size

    # --- dropping --------------------------------------------------------------

    def _oldest_of_largest(self) -> Arrival:
        groups = self._by_size[max(self._by_size)]
        return next(iter(self._groups[next(iter(groups))]))

    def _drop(self, arrival: Arrival, error: FastnodeError) -> None:
        self._remove(arrival)
        arrival.sock.close()
        self._refuse(arrival, error)

    def _set_timer(self) -> None:
        due = next(iter(self._all)).began + self._timeout
        self._timer = self._loop.call_at(due, self._expire)

    def _expire(self) -> None:
        self._timer = None
        due = self._loop.time() - self._timeout
        while self._all and (arrival := next(iter(self._all))).began <= due:
            self._drop(arrival, endings.too_slow(text_of(arrival), self._timeout))
        if self._all:
            self._set_timer()

    # --- books -----------------------------------------------------------------

    def _add(self, arrival: Arrival) -> None:
        self._all[arrival] = None
        group = self._groups.setdefault(arrival.group, {})
        group[arrival] = None
        self._resize(arrival.group, len(group) - 1, len(group))

    def _remove(self, arrival: Arrival) -> None:
        self._ask(arrival, 0)
        del self._all[arrival]
        group = self._groups[arrival.group]
        del group[arrival]
        if not group:
            del self._groups[arrival.group]
        self._resize(arrival.group, len(group) + 1, len(group))

    def _resize(self, group: Hashable, before: int, after: int) -> None:
        if before:
            same = self._by_size[before]
            del same[group]
            if not same:
                del self._by_size[before]
        if after:
            self._by_size.setdefault(after, {})[group] = None


# --- what has come ---------------------------------------------------------------


def missing_of_frame(sock: socket.socket) -> int:
    """The bytes that have to be there before there is something to judge; 0: they are.

    Raises:
        EOFError: the connection has ended.
    """
    data = sock.recv(FRAME_HEAD, socket.MSG_PEEK)
    if not data:
        raise EOFError
    return FRAME_HEAD if len(data) < FRAME_HEAD else 0


def missing_of_record(sock: socket.socket) -> int:
    """As `missing_of_frame`, of TLS.

    Raises:
        EOFError: the connection has ended.
        ProtocolError: the ClientHello is too large.
    """
    data = sock.recv(PEEK_BYTES, socket.MSG_PEEK)
    if not data:
        raise EOFError
    if len(data) < RECORD_HEAD:
        return RECORD_HEAD
    size = int.from_bytes(data[3:RECORD_HEAD])
    if data[0] != HANDSHAKE or data[1] != 3 or not size <= MOST_IN_RECORD:
        return 0  # OpenSSL has a word for it
    if data[5:6] == bytes([CLIENT_HELLO]) and size >= HANDSHAKE_HEAD:
        announced = int.from_bytes(data[6:9].ljust(3, b"\0"))
        if announced > MAX_CLIENT_HELLO_BYTES:
            raise ProtocolError(
                f"the peer announced a ClientHello of {announced} bytes",
                side=Side.REMOTE,
            )
    whole = RECORD_HEAD + size
    if len(data) < min(whole, PEEK_BYTES):
        return whole
    if whole > PEEK_BYTES and len(sock.recv(whole, socket.MSG_PEEK)) < whole:
        return whole
    return 0


# --- why -------------------------------------------------------------------------


def text_of(arrival: Arrival) -> str:
    """Host and port, for errors."""
    return f"{arrival.address[0]}:{arrival.address[1]}"


def crowded(arrival: Arrival) -> TooManyHandshakes:
    """There is one more than there may be."""
    return TooManyHandshakes(
        "it had not begun a handshake, and made room for another connection",
        peer=text_of(arrival),
        side=Side.LOCAL,
        hint="somebody opens many connections and does not use them",
    )


def out_of_descriptors(arrival: Arrival) -> TooManyHandshakes:
    """There are no file descriptors left."""
    return TooManyHandshakes(
        "it had not begun a handshake, and file descriptors are short",
        peer=text_of(arrival),
        side=Side.LOCAL,
        hint="allow the process more (ulimit -n)",
    )
