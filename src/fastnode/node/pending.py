"""Pending connections: accepted, but without a complete first record yet.

A peer that wants a link sends its ClientHello at once, mostly before the connection is
accepted. Until the whole ClientHello has come, a connection costs a file descriptor. It
has no TLS object, no buffer and no task. Its bytes stay in the kernel, and SO_RCVLOWAT
tells the kernel to wake the loop only when the missing bytes have come. So a peer that
is silent, or sends one byte a second, or half a ClientHello, takes no handshake from
others.

The number of pending connections is limited. When there is one too many, the oldest
connection of the address that has the most is dropped. So a flood drops its own
connections. The peer of a connection that is dropped is told to try again later. With
TLS this is the alert user_canceled: "the sender is canceling the handshake for some
reason unrelated to a protocol failure" (RFC 8446, section 6.1). In plaintext it is a
GOODBYE.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastnode.buffers.pool import BufferPool
from fastnode.errors import (
    FastnodeError,
    Side,
    TooManyConnections,
    TooManyHandshakes,
)
from fastnode.limits import MAX_CLIENT_HELLO_BYTES
from fastnode.link import endings
from fastnode.tls.alerts import USER_CANCELED, alert
from fastnode.wire.encoder import Encoder
from fastnode.wire.goodbye import encode_goodbye
from fastnode.wire.kinds import kind_named

if TYPE_CHECKING:
    from fastnode.peer import Address

__all__ = ["PendingConnection", "PendingConnections"]

# RFC 8446, 5.1 and 4: a record begins with type, version and length; a handshake
# message begins with type and length.
RECORD_HEAD = 5
HANDSHAKE_HEAD = 4
HANDSHAKE = 22
CLIENT_HELLO = 1
MOST_IN_RECORD = (16 << 10) + 256
#: Without TLS: the head of a frame (docs/wire-format.md).
FRAME_HEAD = 8
GOODBYE = kind_named("GOODBYE").number
#: Bytes to look at. Enough for nearly every ClientHello.
PEEK_BYTES = 2048
#: How IPv6 addresses begin that stand for the IPv4 address in their last four bytes.
#: The first is used by an IPv6 socket that also takes IPv4 connections (RFC 4291,
#: 2.5.5.2), and the second by translators between the protocols (RFC 6052, 2.1). As
#: IPv6 networks, each would be one /64 for all of IPv4.
IPV4_PREFIXES = (
    bytes.fromhex("00000000000000000000ffff"),
    bytes.fromhex("0064ff9b0000000000000000"),
)


@dataclass(slots=True, eq=False)
class PendingConnection:
    """A connection that was accepted and has not begun its handshake.

    Attributes:
        sock: its socket.
        address: host and port of the peer.
        began: when it was accepted, by the clock of the loop. The deadline of its
            handshake counts from here.
        group: the address, or network, that limits count.
        awaited: how many bytes the kernel waits for before it wakes the loop; 0: the
            loop does not wait for this socket.
        ready: whether its first record has come.
    """

    sock: socket.socket
    address: Address
    began: float
    group: Hashable
    awaited: int = 0
    ready: bool = False


def group_of(address: tuple[Any, ...]) -> Hashable:
    """Return what limits count as one address: an IPv4 address, or an IPv6 /64.

    An IPv6 address that stands for an IPv4 address counts as that IPv4 address.
    """
    host = str(address[0])
    if ":" not in host:
        return host
    packed = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    if packed.startswith(IPV4_PREFIXES):
        return socket.inet_ntop(socket.AF_INET, packed[12:])
    return packed[:8]


class PendingConnections:
    """Keeps connections until their first record has come and a handshake may begin.

    Args:
        most: how many connections there may be.
        timeout: seconds after which a connection is dropped.
        plaintext: whether there is no TLS.
        on_ready: called with a connection whose first record has come. The connection
            stays pending until `take`.
        on_dropped: called with a connection that was dropped, and the reason. Its
            socket is closed.
    """

    def __init__(
        self,
        most: int,
        timeout: float,
        *,
        plaintext: bool,
        on_ready: Callable[[PendingConnection], None],
        on_dropped: Callable[[PendingConnection, FastnodeError], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._most = most
        self._timeout = timeout
        self._missing = missing_of_frame if plaintext else missing_of_record
        self._on_ready = on_ready
        self._on_dropped = on_dropped
        self._no_room = no_room_in_plaintext() if plaintext else alert(USER_CANCELED)
        # All connections in the order in which they were accepted; the same by group.
        self._all: dict[PendingConnection, None] = {}
        self._groups: dict[Hashable, dict[PendingConnection, None]] = {}
        # Groups by the number of their connections.
        self._by_size: dict[int, dict[Hashable, None]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._all)

    def sockets(self) -> list[socket.socket]:
        """Return the sockets of all connections."""
        return [pending.sock for pending in self._all]

    def recent(self, since: float) -> bool:
        """Whether a connection was accepted after a time of the loop's clock."""
        return any(each.began > since for each in reversed(self._all))

    def addresses(self) -> list[Address]:
        """Return the addresses of all peers."""
        return [pending.address for pending in self._all]

    def add(self, sock: socket.socket, address: tuple[Any, ...]) -> None:
        """Keep a connection that was accepted; drop another one if there are too
        many."""
        pending = PendingConnection(
            sock, (address[0], address[1]), self._loop.time(), group_of(address)
        )
        while len(self._all) >= self._most:
            oldest = self._oldest_of_largest()
            self._turn_away(oldest, crowded(oldest))
        self._insert(pending)
        self._peek(pending)
        if self._timer is None and self._all:
            self._set_timer()

    def take(self, pending: PendingConnection) -> None:
        """Remove a connection whose handshake begins. The caller owns its socket."""
        self._remove(pending)

    def drop_older_half(self) -> int:
        """Drop the older half, because descriptors are short; return how many."""
        oldest = list(self._all)[: (len(self._all) + 1) // 2]
        for pending in oldest:
            self._turn_away(pending, out_of_descriptors(pending))
        return len(oldest)

    def close(self) -> None:
        """Close all connections. Nothing is reported."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for pending in list(self._all):
            self._remove(pending)
            pending.sock.close()

    # --- waiting for the first record ------------------------------------------

    def _peek(self, pending: PendingConnection) -> None:
        """Look at the bytes that have come, without taking them out of the kernel."""
        try:
            missing = self._missing(pending.sock)
        except (BlockingIOError, InterruptedError):
            missing = RECORD_HEAD
        except OSError as error:
            self._drop(pending, endings.cut_short(text_of(pending), error))
            return
        except EOFError:
            self._drop(pending, endings.cut_short(text_of(pending)))
            return
        if missing <= pending.awaited:
            # All of it has come. Or the peer has sent its last byte, or this system
            # wakes the loop too early. Then TLS waits for the rest.
            self._stop_waiting(pending)
            pending.ready = True
            self._on_ready(pending)
            return
        try:
            self._wait_for(pending, missing)
        except (OSError, RuntimeError) as error:
            # macOS and BSD refuse options of a socket whose peer has reset it. asyncio
            # raises RuntimeError if it still has a transport for a closed descriptor.
            self._drop(pending, endings.cut_short(text_of(pending), error))

    def _wait_for(self, pending: PendingConnection, size: int) -> None:
        """Wake the loop when `size` bytes have come.

        Raises:
            OSError: the socket cannot be waited for.
        """
        sock = pending.sock
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)
        if not pending.awaited:
            self._loop.add_reader(sock, self._peek, pending)
        pending.awaited = size

    def _stop_waiting(self, pending: PendingConnection) -> None:
        """Let the loop wait for this socket no more. Raises nothing."""
        if pending.awaited:
            self._loop.remove_reader(pending.sock)
            pending.awaited = 0
            # This fails if the connection has ended. The next read reports the end.
            with suppress(OSError):
                pending.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)

    # --- dropping --------------------------------------------------------------

    def _oldest_of_largest(self) -> PendingConnection:
        groups = self._by_size[max(self._by_size)]
        return next(iter(self._groups[next(iter(groups))]))

    def _turn_away(self, pending: PendingConnection, error: FastnodeError) -> None:
        """Drop a connection, and tell its peer to try again later."""
        with suppress(OSError):
            # Bytes that were not read would make the kernel send a reset after the
            # alert, and the reset could arrive first.
            with suppress(BlockingIOError):
                pending.sock.recv(MOST_IN_RECORD)
            pending.sock.send(self._no_room)
        self._drop(pending, error)

    def _drop(self, pending: PendingConnection, error: FastnodeError) -> None:
        self._remove(pending)
        pending.sock.close()
        self._on_dropped(pending, error)

    def _set_timer(self) -> None:
        due = next(iter(self._all)).began + self._timeout
        self._timer = self._loop.call_at(due, self._expire)

    def _expire(self) -> None:
        self._timer = None
        due = self._loop.time() - self._timeout
        while self._all and (pending := next(iter(self._all))).began <= due:
            self._drop(pending, endings.too_slow(text_of(pending), self._timeout))
        if self._all:
            self._set_timer()

    # --- counting by group -----------------------------------------------------

    def _insert(self, pending: PendingConnection) -> None:
        self._all[pending] = None
        group = self._groups.setdefault(pending.group, {})
        group[pending] = None
        self._resize(pending.group, len(group) - 1, len(group))

    def _remove(self, pending: PendingConnection) -> None:
        self._stop_waiting(pending)
        del self._all[pending]
        group = self._groups[pending.group]
        del group[pending]
        if not group:
            del self._groups[pending.group]
        self._resize(pending.group, len(group) + 1, len(group))

    def _resize(self, group: Hashable, before: int, after: int) -> None:
        if before:
            same = self._by_size[before]
            del same[group]
            if not same:
                del self._by_size[before]
        if after:
            self._by_size.setdefault(after, {})[group] = None


# --- the first record ------------------------------------------------------------


def missing_of_frame(sock: socket.socket) -> int:
    """Return how many bytes must come before a handshake can begin; 0: all have come.

    Raises:
        EOFError: the connection has ended.
    """
    data = sock.recv(FRAME_HEAD, socket.MSG_PEEK)
    if not data:
        raise EOFError
    return FRAME_HEAD if len(data) < FRAME_HEAD else 0


def missing_of_record(sock: socket.socket) -> int:
    """Return the same as `missing_of_frame`, for TLS.

    Raises:
        EOFError: the connection has ended.
    """
    data = sock.recv(PEEK_BYTES, socket.MSG_PEEK)
    if not data:
        raise EOFError
    if len(data) < RECORD_HEAD:
        return RECORD_HEAD
    size = int.from_bytes(data[3:RECORD_HEAD])
    if data[0] != HANDSHAKE or data[1] != 3 or not size <= MOST_IN_RECORD:
        return 0  # OpenSSL refuses it and says why
    if data[5:6] == bytes([CLIENT_HELLO]) and size >= HANDSHAKE_HEAD:
        announced = int.from_bytes(data[6:9].ljust(3, b"\0"))
        if announced > MAX_CLIENT_HELLO_BYTES:
            return 0  # fastnode.link.handshake refuses it, with an alert
    whole = RECORD_HEAD + size
    if len(data) < min(whole, PEEK_BYTES):
        return whole
    if whole > PEEK_BYTES and len(sock.recv(whole, socket.MSG_PEEK)) < whole:
        return whole
    return 0


# --- errors ----------------------------------------------------------------------


def text_of(pending: PendingConnection) -> str:
    """Return host and port, for errors."""
    return f"{pending.address[0]}:{pending.address[1]}"


def crowded(pending: PendingConnection) -> TooManyHandshakes:
    """Return the error for a connection that was dropped for a newer one."""
    return TooManyHandshakes(
        "it had not begun a handshake, and made room for another connection",
        peer=text_of(pending),
        side=Side.LOCAL,
        hint="where good peers come at once, raise max_pending or the number of file "
        "descriptors (ulimit -n); else see who opens so many connections",
    )


def no_room_in_plaintext() -> bytes:
    """Return the GOODBYE for a connection that is dropped, where there is no TLS."""
    encoder = Encoder(BufferPool())
    text = "too many connections wait here"
    hint = f"try again in {TooManyConnections.retry_after:g} s"
    try:
        body = encode_goodbye(TooManyConnections.close_reason, text, hint)
        encoder.add_frame(GOODBYE, 0, body)
        return encoder.take()
    finally:
        encoder.clear()


def out_of_descriptors(pending: PendingConnection) -> TooManyHandshakes:
    """Return the error for a connection that was dropped to free its descriptor."""
    return TooManyHandshakes(
        "it had not begun a handshake, and file descriptors are short",
        peer=text_of(pending),
        side=Side.LOCAL,
        hint="allow the process more (ulimit -n)",
    )
