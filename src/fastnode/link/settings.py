"""What all links of one acceptor or dialer have in common."""

from __future__ import annotations

from dataclasses import dataclass

from fastnode.wire.hello import Hello

__all__ = ["LinkSettings"]


@dataclass(frozen=True, slots=True)
class LinkSettings:
    """Limits and times of a link; units as in `NetworkOptions`.

    Attributes:
        hello: what we tell the peer.
    """

    hello: Hello
    handshake_timeout: float
    keepalive_interval: float
    high_water: int
    low_water: int
    max_queued: int
