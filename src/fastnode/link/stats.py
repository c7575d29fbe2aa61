"""Counters of a link, as a snapshot."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LinkStats"]


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
        handler_errors: one-way messages whose handler raised.
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
