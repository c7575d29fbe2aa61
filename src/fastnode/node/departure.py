"""How a node stops: it says so, goes on serving, and then closes its links in order.

How it works. A node that stops listens no more and sends LEAVING on its links. It goes
on serving what comes. A peer turns away: its new messages and calls take another link,
and it closes the old one in order when nothing of its own is under way there. The node
waits for that, but no longer than its grace. It does not wait for links whose peers do
not know the frame. What is left then is closed in order by this node.

Handlers that are at work may need calls of their own. They take the links that are up,
whoever stops; if the peer has closed its link, they dial it again. A link that this
node dials while it stops is not announced before all others have ended: the peer would
close it before the call is there. After that this node dials no more, and the peers of
these links have their turn.

Two nodes that stop at the same time tell each other, and each closes its side when
nothing of its own is under way. So neither waits for the other.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from fastnode.limits import HANDSHAKE_PATIENCE_SECONDS
from fastnode.link.machine import State
from fastnode.loggers import fields
from fastnode.node.deadline import Deadline

if TYPE_CHECKING:
    from fastnode.link.protocol import LinkProtocol
    from fastnode.link.stats import Undelivered
    from fastnode.node.acceptor import Acceptor
    from fastnode.node.links import LinkRegistry

__all__ = ["Departure"]

log = logging.getLogger("fastnode.node")

#: How often it looks whether handshakes are still under way, seconds.
LOOK_SECONDS = 0.01


class Departure:
    """The end of one node, from its announcement to its last link.

    Args:
        name: the name of the node, for the log.
        grace: seconds for which it goes on serving; 0: it does not announce its end.
        timeout: seconds for all of it. The grace takes at most half of them.
    """

    def __init__(
        self,
        name: str,
        links: LinkRegistry,
        acceptors: Sequence[Acceptor],
        *,
        grace: float,
        timeout: float,
    ) -> None:
        self._name = name
        self._links = links
        self._acceptors = acceptors
        self._clock = asyncio.get_running_loop().time
        self._began = self._clock()
        self._all = Deadline(timeout)
        self._grace = Deadline(min(grace, timeout / 2))
        # All links that were announced, and those of them that are not gone.
        self._announced: list[LinkProtocol] = []
        self._waits: set[LinkProtocol] = set()
        self._news: asyncio.Future[None] | None = None

    @property
    def left(self) -> float:
        """Seconds that are left for all of it."""
        return self._all.left

    def shorten(self, timeout: float) -> None:
        """Let the node have at most so many seconds from now on."""
        self._all.shorten(timeout)
        self._grace.shorten(timeout / 2)

    async def leave(self, stop_dialing: Callable[[], Awaitable[None]]) -> None:
        """Announce the end, and wait until all peers have turned away or the grace is
        over.

        Args:
            stop_dialing: called when the links that were up have ended.
        """
        if not self._grace.left:
            return
        for acceptor in self._acceptors:
            acceptor.stop_listening()
        self._links.on_late = self._came_up
        self._announce_all()
        if self._waits:
            log.info(
                "%s stops: %d peers were told, and are served for up to %.3g s",
                self._name,
                len(self._waits),
                self._grace.left,
                extra=fields("leaving", node=self._name, peers=len(self._waits)),
            )
        await self._turned_away()
        await stop_dialing()
        self._announce_all()
        await self._turned_away()

    async def close(self) -> tuple[Undelivered, ...]:
        """Close all links in order; return what was not delivered."""
        return await self._links.close(self._all, self._announced)

    # --- announcing ----------------------------------------------------------------

    def _came_up(self, protocol: LinkProtocol) -> None:
        """A link came up that was on its way, or that a handler needs."""
        if not protocol.dialer:
            self._announce(protocol)

    def _announce_all(self) -> None:
        for protocol in self._links:
            if protocol.state is State.UP:
                self._announce(protocol)

    def _announce(self, protocol: LinkProtocol) -> None:
        if not protocol.extensions.announce(self._grace.left, self._all.left):
            return
        self._links.turn_away(protocol)
        self._announced.append(protocol)
        self._waits.add(protocol)
        protocol.gone.add_done_callback(lambda _: self._gone(protocol))

    def _gone(self, protocol: LinkProtocol) -> None:
        self._waits.discard(protocol)
        if not self._waits and self._news is not None and not self._news.done():
            self._news.set_result(None)

    # --- waiting -------------------------------------------------------------------

    async def _turned_away(self) -> None:
        """Wait until the links that were announced are gone, and no handshake is under
        way that may come to an end soon; or until the grace is over."""
        loop = asyncio.get_running_loop()
        while self._grace.left and (arriving := self._arriving() or self._waits):
            self._news = loop.create_future()
            if arriving is True:
                loop.call_later(LOOK_SECONDS, self._look, self._news)
            await self._grace.wait([self._news])
        self._news = None

    def _look(self, news: asyncio.Future[None]) -> None:
        if not news.done():
            news.set_result(None)

    def _arriving(self) -> bool:
        """Whether connections may still become links. Those that came before this node
        began to stop are not waited for longer than a handshake takes."""
        since = self._clock() - HANDSHAKE_PATIENCE_SECONDS
        return any(acceptor.arriving_since(since) for acceptor in self._acceptors)
