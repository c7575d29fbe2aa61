"""What all links of one acceptor or dialer have in common."""

from __future__ import annotations

from dataclasses import dataclass

from fastnode.limits import LEAST_PEER_KEEPALIVE_SECONDS
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

    def interval_with(self, peer: Hello) -> float:
        """The keepalive interval of a link with this peer, seconds: the smaller one.

        So both sides find out at about the same time that the other is gone. A peer
        cannot have us probe more often than each LEAST_PEER_KEEPALIVE_SECONDS.
        """
        if peer.keepalive_ms == 0:
            return self.keepalive_interval
        theirs = max(peer.keepalive_ms / 1000, LEAST_PEER_KEEPALIVE_SECONDS)
        return min(self.keepalive_interval, theirs)
