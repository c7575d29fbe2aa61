"""Messages whose senders can wait: `Node.send`.

Whoever finds no room in the queue of a link waits in a line, one for each peer and
priority, and whoever comes later stands behind, also when there is room again: so the
messages to one endpoint stay in the order in which they were sent. A line outlasts the
link: when a newer one has succeeded it, what waits takes that one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fastnode.errors import LinkClosed, LinkLost, SendQueueFull, Side
from fastnode.link.link import room
from fastnode.node.deadline import left_until

if TYPE_CHECKING:
    from fastnode.link.link import Link
    from fastnode.node.links import LinkRegistry
    from fastnode.options import Priority
    from fastnode.sending.outbox import QueueBudget

__all__ = ["Sending"]


#: How many links a node tries for one call or message if each is closed in order before
#: the peer has begun it: one of a node that stops, one of the next node that does, and
#: one more.
CLOSED_TRIES = 3


def untouched(error: LinkClosed) -> bool:
    """Whether a link was closed in order because of its peer, and what was sent has not
    begun there, and never will: it may be sent on another link."""
    return (
        error.begun == "no"
        and error.side is Side.REMOTE
        and not isinstance(error, LinkLost)
    )


@dataclass(slots=True)
class Line:
    """Senders that wait for room; one has its turn, the others come after it.

    Attributes:
        turn: held by the first; others get it in the order in which they came.
        length: how many there are.
    """

    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    length: int = 0


class Sending:
    """Sends for one node."""

    def __init__(self, links: LinkRegistry, budget: QueueBudget) -> None:
        self._links = links
        self._budget = budget
        self._lines: dict[tuple[str, bool], Line] = {}

    async def send(
        self,
        connect: Callable[[str], Awaitable[Link]],
        name: str,
        endpoint: str,
        payload: bytes | bytearray | memoryview,
        *,
        confirm: bool,
        priority: Priority | None,
        metadata: Mapping[str, str] | None,
        deadline: float | None,
    ) -> None:
        """See `Node.send`; `connect` makes a link.

        Args:
            deadline: when the sender of a confirmed message gives up, in the time of
                the loop.
        """
        link = self._links.find(name) or await connect(name)
        high = priority == "high"
        waits = self._budget.crowded or (name, high) in self._lines
        tries = CLOSED_TRIES
        while True:
            try:
                if waits:
                    link = await self._wait(connect, name, high, link, payload)
                # Either has queued it before anything else runs.
                if confirm:
                    await link.send_confirmed(
                        endpoint,
                        payload,
                        timeout=left_until(deadline),
                        priority=priority,
                        metadata=metadata,
                        inherit_deadline=False,
                    )
                    return
                link.send(endpoint, payload, priority=priority, metadata=metadata)
                break
            except SendQueueFull:
                waits = True
            except LinkClosed as error:
                tries -= 1
                if not tries or not untouched(error):
                    raise
                link = self._links.find(name) or await connect(name)
        await link.drain()

    async def _wait(
        self,
        connect: Callable[[str], Awaitable[Link]],
        name: str,
        high: bool,
        link: Link,
        payload: bytes | bytearray | memoryview,
    ) -> Link:
        """Wait in line until a link with the peer, mostly `link`, has room."""
        size = payload.nbytes if isinstance(payload, memoryview) else len(payload)
        line = self._lines.setdefault((name, high), Line())
        line.length += 1
        tries = CLOSED_TRIES
        try:
            async with line.turn:
                while True:
                    try:
                        await room(link, size)
                    except LinkClosed as error:
                        # Others may have been sent. This message was not queued.
                        error.begun = "no"
                        newer = self._links.find(name)
                        lost = isinstance(error, LinkLost)
                        tries -= 1
                        if newer is None and tries and untouched(error):
                            # Later senders wait too, so the order is kept.
                            newer = await connect(name)
                        if lost or newer is None or newer is link:
                            raise
                        link = newer
                    else:
                        return link
        finally:
            line.length -= 1
            if not line.length:
                del self._lines[name, high]
