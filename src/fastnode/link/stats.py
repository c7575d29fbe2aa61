"""Counters of a link, as a snapshot; and what is left at its end."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from operator import add
from typing import Final, Protocol

__all__ = ["COUNTERS", "GAUGES", "LinkStats", "LinkTotals", "Undelivered"]

#: What `LinkProtocol.counters` counts, in this order. No count goes back.
COUNTERS: Final = (
    "messages_sent",
    "messages_received",
    "calls_sent",
    "calls_received",
    "bytes_sent",
    "bytes_received",
    "unhandled_messages",
    "handler_errors",
    "messages_dropped_by_peer",
    "calls_expired",
    "calls_expired_at_peer",
    "calls_refused",
    "windows_filled",
)
#: What `LinkProtocol.gauges` tells of a moment, in this order.
GAUGES: Final = (
    "calls_under_way",
    "calls_unanswered",
    "handlers_running",
    "windows_full",
    "links_without_credit",
)


@dataclass(frozen=True, slots=True)
class LinkStats:
    """What went over a link since it came up.

    Attributes:
        messages_sent, messages_received: one-way messages.
        calls_sent, calls_received: calls.
        bytes_sent, bytes_received: on the wire, as TLS made them.
        queued_bytes: waiting to be sent, before TLS.
        credit_bytes: what the peer takes before it grants more.
        unhandled_messages: one-way messages received for endpoints without handler.
        handler_errors: messages and calls whose handler raised, or returned what is no
            reply.
        messages_dropped_by_peer: one-way messages sent to endpoints that the peer does
            not have, as far as the peer has said so.
        calls_expired: calls and confirmed messages received whose time was over before
            their handler began. They did not begin.
        calls_expired_at_peer: the same of those sent, as far as the peer has said so.
        calls_refused: calls and confirmed messages of the peer that were refused with
            `Busy`, because too much waits here.
    """

    messages_sent: int
    messages_received: int
    calls_sent: int
    calls_received: int
    bytes_sent: int
    bytes_received: int
    queued_bytes: int
    credit_bytes: int
    unhandled_messages: int
    handler_errors: int
    messages_dropped_by_peer: int = 0
    calls_expired: int = 0
    calls_expired_at_peer: int = 0
    calls_refused: int = 0


class Counted(Protocol):
    """A link, as far as its counters are concerned."""

    def counters(self) -> tuple[int, ...]:
        """Return its counts, in the order of `COUNTERS`."""


class LinkTotals:
    """The counters of all links that a node ever had.

    A link that has ended is added once, when its counters cannot change any more. So a
    message costs nothing more than its link's own counters.
    """

    def __init__(self) -> None:
        self._ended: tuple[int, ...] = (0,) * len(COUNTERS)

    def add(self, link: Counted) -> None:
        """Add a link whose counters do not change any more."""
        self._ended = tuple(map(add, self._ended, link.counters()))

    def with_links(self, links: Iterable[Counted]) -> dict[str, int]:
        """Return all totals by name.

        Args:
            links: the links that were not added yet.
        """
        counts = [self._ended, *(link.counters() for link in links)]
        return dict(zip(COUNTERS, map(sum, zip(*counts, strict=True)), strict=True))


@dataclass(frozen=True, slots=True)
class Undelivered:
    """What a link had not done when it ended.

    Attributes:
        peer: the name of the node at the other end.
        messages: messages and calls that were queued and have not left as a whole. What
            has left may have arrived or not.
        bytes: queued, before TLS, replies and control frames included.
        calls: calls of this side that were not answered, without those that the peer
            has certainly not begun.
        handlers: handlers that had not finished.
    """

    peer: str
    messages: int
    bytes: int
    calls: int
    handlers: int

    def __str__(self) -> str:
        return (
            f"{self.peer}: {self.messages} messages ({self.bytes} bytes) not sent, "
            f"{self.calls} calls not answered, {self.handlers} handlers not finished"
        )
