"""The gate of an acceptor: whose handshake is next, and whose makes room.

At most `max_handshakes` are under way, and `max_handshakes_per_address` from one
address. What has shown its first record (fastnode.node.lobby) and finds no room waits.
Its turn comes when a handshake ends, or when one has stalled: after
HANDSHAKE_PATIENCE_SECONDS a handshake that waits for its peer, and at once a refused
connection that only lingers, makes room. An address that is at its limit makes room
itself; otherwise whoever has the most. Of those, the one that has come least far, then
the oldest. A handshake that waits for our own judgement stays.

The next is from the address with the fewest handshakes, and of one address the newest:
it is the likeliest to be still there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastnode.errors import Side, TooManyHandshakes
from fastnode.limits import HANDSHAKE_PATIENCE_SECONDS
from fastnode.link.machine import State

if TYPE_CHECKING:
    from fastnode.link.protocol import LinkProtocol
    from fastnode.node.lobby import Arrival

__all__ = ["Gate"]

#: Where a handshake waits for its peer.
WAITS_FOR_PEER = (State.TLS, State.HELLO)


@dataclass(slots=True, eq=False)
class Slot:
    """A handshake under way, or a refused connection that lingers."""

    protocol: LinkProtocol
    group: Hashable
    began: float


class Gate:
    """Lets arrivals begin their handshakes.

    Args:
        most: handshakes at once.
        most_per_group: the same from one address.
        start: begins the handshake of an arrival; None: that failed.
    """

    def __init__(
        self,
        most: int,
        most_per_group: int,
        start: Callable[[Arrival], LinkProtocol | None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._most = most
        self._most_per_group = most_per_group
        self._start = start
        self._slots: dict[LinkProtocol, Slot] = {}
        self._groups: dict[Hashable, dict[Slot, None]] = {}
        self._ready: dict[Hashable, dict[Arrival, None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        # Nothing can make room before, unless something ends.
        self._blocked_until = 0.0
        self._serving = False

    def __len__(self) -> int:
        return len(self._slots)

    def ready(self, arrival: Arrival) -> None:
        """An arrival has shown its first record."""
        self._ready.setdefault(arrival.group, {})[arrival] = None
        self._serve()

    def forget(self, arrival: Arrival) -> None:
        """It was dropped."""
        ready = self._ready.get(arrival.group)
        if ready is not None:
            ready.pop(arrival, None)
            if not ready:
                del self._ready[arrival.group]

    def leave(self, protocol: LinkProtocol) -> None:
        """A handshake has become a link, or its socket is closed."""
        if protocol in self._slots:
            self._free(protocol)
        self.stirred()

    def stirred(self) -> None:
        """Something has ended: there may be room."""
        self._blocked_until = 0.0
        if self._ready:
            self._serve()

    def close(self) -> None:
        """Begin no more handshakes."""
        self._ready.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # --- whose turn ------------------------------------------------------------

    def _serve(self) -> None:
        if self._serving:
            return  # a handshake that makes room tells of its end
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
            arrival, _ = self._ready[group].popitem()
            if not self._ready[group]:
                del self._ready[group]
            protocol = self._start(arrival)
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
        """Whether one more of that group may begin; makes room if it can."""
        if self._size(group) >= self._most_per_group and not self._make_room(
            self._groups[group], now
        ):
            return False
        if len(self._slots) < self._most:
            return True
        if self._make_room(self._slots.values(), now):
            return True
        youngest = min(slot.began for slot in self._slots.values())
        self._blocked_until = youngest + HANDSHAKE_PATIENCE_SECONDS
        return False

    def _make_room(self, slots: Iterable[Slot], now: float) -> bool:
        stalled = [slot for slot in slots if has_stalled(slot, now)]
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
        protocol.end(
            TooManyHandshakes(
                "its handshake had stalled, and made room for another",
                peer=protocol.peer_text(),
                side=Side.LOCAL,
                hint="raise max_handshakes or max_handshakes_per_address, or see who "
                "opens so many connections",
            )
        )
        protocol.abort()
        return True

    def _free(self, protocol: LinkProtocol) -> None:
        slot = self._slots.pop(protocol)
        group = self._groups[slot.group]
        del group[slot]
        if not group:
            del self._groups[slot.group]


def has_stalled(slot: Slot, now: float) -> bool:
    """Whether it may have to make room."""
    state = slot.protocol.state
    if state is State.CLOSED:
        return True
    return state in WAITS_FOR_PEER and now - slot.began >= HANDSHAKE_PATIENCE_SECONDS
