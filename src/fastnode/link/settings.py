"""The common settings of all links of one acceptor or dialer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from fastnode import limits
from fastnode.limits import LEAST_PEER_KEEPALIVE_SECONDS
from fastnode.link.busy_poll import BusyPoll
from fastnode.sending.outbox import QueueBudget
from fastnode.wire.hello import Hello

if TYPE_CHECKING:
    from fastnode.names import NodeName
    from fastnode.options import NetworkOptions

__all__ = ["LinkSettings"]


@dataclass(frozen=True, slots=True)
class LinkSettings:
    """Limits and times of a link; units as in `NetworkOptions`.

    Attributes:
        hello: the HELLO that we send to the peer.
        budget: counts the queued bytes of all links of the node, which share it.
        poll: keeps the node's loop awake for replies. All links of the node share it.
        workers: number of workers in the group of the node; 1 if it is in no group.
    """

    hello: Hello
    handshake_timeout: float
    keepalive_interval: float
    high_water: int
    low_water: int
    max_queued: int
    max_window: int
    budget: QueueBudget = field(default_factory=QueueBudget)
    poll: BusyPoll = field(default_factory=BusyPoll)
    workers: int = 1

    @classmethod
    def of(
        cls,
        network: NetworkOptions,
        name: NodeName,
        instance: bytes,
        workers: int = 1,
    ) -> Self:
        """Return the settings of links by the options of a node."""
        return cls(
            hello=Hello(
                name=name,
                instance=instance,
                max_message=network.max_message_size,
                max_frame=limits.MAX_FRAME_BYTES,
                window=network.window,
                endpoints=limits.ENDPOINT_DICTIONARY_SIZE,
                keepalive_ms=int(network.keepalive_interval * 1000),
            ),
            handshake_timeout=network.handshake_timeout,
            keepalive_interval=network.keepalive_interval,
            high_water=network.high_water,
            low_water=network.low_water,
            max_queued=network.max_queued,
            max_window=network.max_window,
            budget=QueueBudget(network.max_node_queued),
            poll=BusyPoll(network.busy_poll),
            workers=workers,
        )

    def interval_with(self, peer: Hello) -> float:
        """Return the keepalive interval of a link with this peer, in seconds.

        It is the smaller interval of the two sides. So both sides find out at about the
        same time that the other is gone. A peer cannot make us probe more often than
        every LEAST_PEER_KEEPALIVE_SECONDS.
        """
        if peer.keepalive_ms == 0:
            return self.keepalive_interval
        theirs = max(peer.keepalive_ms / 1000, LEAST_PEER_KEEPALIVE_SECONDS)
        return min(self.keepalive_interval, theirs)
