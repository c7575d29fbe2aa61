"""Counters of a link, as a snapshot; and what is left at its end."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LinkStats", "Undelivered"]


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


@dataclass(frozen=True, slots=True)
class Undelivered:
    """What a link had not done when it ended.

    Attributes:
        peer: the name of the node at the other end.
        messages: messages and calls that were queued and have not left as a whole. What
            has left may have arrived or not.
        bytes: queued, before TLS, replies and control frames included.
        calls: calls of this side that were not answered.
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
