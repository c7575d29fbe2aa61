"""The handshake limiter of an acceptor: who may begin a handshake, and who is ended.

At most `max_handshakes` handshakes are under way, and at most
`max_handshakes_per_address` from one address. A connection whose first record has come
(fastnode.node.pending) waits while there is no slot for it.

A slot becomes free when a handshake ends. A handshake that has stalled can also be
ended to make a slot free. A handshake has stalled if it has waited for its peer for
HANDSHAKE_PATIENCE_SECONDS, or if it was refused and its socket only lingers. A
handshake that waits for a decision of this node has not stalled. Where good peers are
slow, because all of them dial at once, the limiter has more patience: four times as
long as the handshakes took that became links, up to MAX_HANDSHAKE_PATIENCE_SECONDS.
Strangers get no link, so they have no influence on that.

An address at its own limit loses one of its own stalled handshakes. Otherwise any
stalled handshake can be ended: a refused connection first, then one of the address that
has the most, then the one that has made the least progress, then the oldest.

The next handshake is for the address that has the fewest under way. Of one address, the
newest connection is next, because its peer is most likely still there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastnode.errors import Side, TooManyHandshakes
from fastnode.limits import (
    HANDSHAKE_PATIENCE_SECONDS,
    MAX_HANDSHAKE_PATIENCE_SECONDS,
)
from fastnode.link.machine import State

if TYPE_CHECKING:
    from fastnode.link.protocol import LinkProtocol
    from fastnode.node.pending import PendingConnection

__all__ = ["HandshakeLimiter"]

#: The states in which a handshake waits for its peer.
WAITS_FOR_PEER = (State.TLS, State.HELLO)
#: The patience, as a multiple of the time that handshakes take, and how many handshakes
#: that time is averaged over.
PATIENT = 4
AVERAGED = 8


@dataclass(slots=True, eq=False)
class Slot:
    """A handshake that is under way, or a refused connection that lingers.

    Attributes:
        protocol: the connection.
        group: the address that limits count.
        began: when the handshake began, by the clock of the loop.
    """

    protocol: LinkProtocol
    group: Hashable
    began: float


class HandshakeLimiter:
    """Lets connections begin their handshakes, a limited number at a time.

    Args:
        most: how many handshakes may be under way.
        most_per_group: how many may be under way from one address.
        start: begins the handshake of a connection and returns its protocol, or None if
            that failed.
    """

    def __init__(
        self,
        most: int,
        most_per_group: int,
        start: Callable[[PendingConnection], LinkProtocol | None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._most = most
        self._most_per_group = most_per_group
        self._start = start
        self._slots: dict[LinkProtocol, Slot] = {}
        self._groups: dict[Hashable, dict[Slot, None]] = {}
        self._ready: dict[Hashable, dict[PendingConnection, None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        # No handshake can stall before this time. Only one that ends frees a slot.
        self._blocked_until = 0.0
        self._serving = False
        # How long handshakes take that become links: a moving average.
        self._typical = 0.0
        self._patience = HANDSHAKE_PATIENCE_SECONDS

    def __len__(self) -> int:
        return len(self._slots)

    def recent(self, since: float) -> bool:
        """Whether a handshake is under way that began after a time of the loop's
        clock."""
        return any(
            slot.began > since and slot.protocol.state is not State.CLOSED
            for slot in self._slots.values()
        )

    def add(self, pending: PendingConnection) -> None:
        """Let a connection begin its handshake, now or when a slot is free."""
        self._ready.setdefault(pending.group, {})[pending] = None
        self._serve()

    def discard(self, pending: PendingConnection) -> None:
        """Forget a connection that was dropped before its handshake began."""
        ready = self._ready.get(pending.group)
        if ready is not None:
            ready.pop(pending, None)
            if not ready:
                del self._ready[pending.group]

    def came_up(self, protocol: LinkProtocol) -> None:
        """A handshake has become a link: learn how long that takes, free its slot."""
        slot = self._slots.get(protocol)
        if slot is not None:
            took = self._loop.time() - slot.began
            self._typical += (took - self._typical) / AVERAGED
            self._patience = min(
                max(HANDSHAKE_PATIENCE_SECONDS, PATIENT * self._typical),
                MAX_HANDSHAKE_PATIENCE_SECONDS,
            )
        self.release(protocol)

    def release(self, protocol: LinkProtocol) -> None:
        """Free the slot of a handshake: it has become a link, or its socket is
        closed."""
        if protocol in self._slots:
            self._free(protocol)
        self.wake()

    def wake(self) -> None:
        """Look for free slots again, because a connection has ended."""
        self._blocked_until = 0.0
        if self._ready:
            self._serve()

    def close(self) -> None:
        """Begin no more handshakes. Those that are under way go on."""
        self._ready.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # --- slots -----------------------------------------------------------------

    def _serve(self) -> None:
        if self._serving:
            return  # the end of a handshake calls this method again
        self._serving = True
        try:
            self._serve_ready(self._loop.time())
        finally:
            self._serving = False
        if self._ready and self._timer is None:
            self._timer = self._loop.call_later(
                HANDSHAKE_PATIENCE_SECONDS / 4, self._again
            )

    def _serve_ready(self, now: float) -> None:
        if len(self._slots) >= self._most and now < self._blocked_until:
            return
        waits: set[Hashable] = set()
        while groups := [group for group in self._ready if group not in waits]:
            group = min(groups, key=self._size)
            if not self._room(group, now):
                waits.add(group)
                if len(self._slots) >= self._most:
                    break
                continue
            pending, _ = self._ready[group].popitem()
            if not self._ready[group]:
                del self._ready[group]
            protocol = self._start(pending)
            if protocol is not None:
                slot = Slot(protocol, group, now)
                self._slots[protocol] = slot
                self._groups.setdefault(group, {})[slot] = None

    def _again(self) -> None:
        self._timer = None
        self._serve()

    def _size(self, group: Hashable) -> int:
        return len(self._groups.get(group, ()))

    def _room(self, group: Hashable, now: float) -> bool:
        """Whether one more of this group may begin, after a stalled one was ended if
        necessary."""
        if self._size(group) >= self._most_per_group and not self._make_room(
            self._groups[group], now
        ):
            return False
        if len(self._slots) < self._most:
            return True
        if self._make_room(self._slots.values(), now):
            return True
        youngest = min(slot.began for slot in self._slots.values())
        self._blocked_until = youngest + self._patience
        return False

    def _make_room(self, slots: Iterable[Slot], now: float) -> bool:
        since = now - self._patience
        stalled = [slot for slot in slots if has_stalled(slot, since)]
        if not stalled:
            return False
        victim = min(
            stalled,
            key=lambda slot: (
                slot.protocol.state is not State.CLOSED,
                -self._size(slot.group),
                slot.protocol.state,
                slot.began,
            ),
        )
        protocol = victim.protocol
        self._free(protocol)
        error = TooManyHandshakes(
            "its handshake had stalled, and made room for another",
            peer=protocol.peer_text(),
            side=Side.LOCAL,
            hint="raise max_handshakes or max_handshakes_per_address, or see who "
            "opens so many connections",
        )
        if protocol.state is State.HELLO:
            # TLS is up, so the peer can be told. Its memory is freed at once.
            protocol.refuse(error)
        else:
            protocol.terminate(error)
            protocol.abort()
        return True

    def _free(self, protocol: LinkProtocol) -> None:
        slot = self._slots.pop(protocol)
        group = self._groups[slot.group]
        del group[slot]
        if not group:
            del self._groups[slot.group]


def has_stalled(slot: Slot, since: float) -> bool:
    """Whether a handshake may be ended to free its slot: if it began before `since`."""
    state = slot.protocol.state
    if state is State.CLOSED:
        return True
    return state in WAITS_FOR_PEER and slot.began <= since
