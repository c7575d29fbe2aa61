"""Snapshots of the counters of a link, and of the unfinished work at its end."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from operator import add
from typing import Final, Protocol

__all__ = ["COUNTERS", "GAUGES", "LinkStats", "LinkTotals", "Undelivered"]

#: The counts of `LinkProtocol.counters`, in this order. No count decreases.
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
#: The values of `LinkProtocol.gauges`, in this order.
GAUGES: Final = (
    "calls_under_way",
    "calls_unanswered",
    "handlers_running",
    "windows_full",
    "links_without_credit",
)


@dataclass(frozen=True, slots=True)
class LinkStats:
    """The traffic of a link since it came up.

    Attributes:
        messages_sent, messages_received: one-way messages.
        calls_sent, calls_received: calls.
        bytes_sent, bytes_received: bytes on the wire, after TLS.
        queued_bytes: bytes that wait to be sent, before TLS.
        credit_bytes: bytes that the peer takes before its next grant.
        unhandled_messages: one-way messages received for endpoints without a handler.
        handler_errors: messages and calls whose handler raised, or returned a value
            that is no reply.
        messages_dropped_by_peer: one-way messages sent to endpoints that the peer does
            not have, as far as the peer has reported them.
        calls_expired: calls and confirmed messages received whose deadline was over
            before their handler began. They did not begin.
        calls_expired_at_peer: the same for calls and confirmed messages sent, as far as
            the peer has reported them.
        calls_refused: calls and confirmed messages of the peer that were refused with
            `Busy`, because too many wait here.
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
    """The part of a link that has its counters."""

    def counters(self) -> tuple[int, ...]:
        """Return the counts of the link, in the order of `COUNTERS`."""


class LinkTotals:
    """The counters of all links that a node ever had.

    A link that has ended is added once, when its counters cannot change any more. So
    each message changes only the counters of its link.
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
    """The unfinished work of a link at its end.

    Attributes:
        peer: the name of the node at the other end.
        messages: messages and calls that were queued and have not left completely.
            Messages that have left may or may not have arrived.
        bytes: queued bytes before TLS, with replies and control frames.
        calls: calls of this side that got no answer, without those that the peer has
            certainly not begun.
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
