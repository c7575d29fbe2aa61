"""Dialing: it makes a link with the node of a given name.

A `Dial` tries the addresses of one node until one of them gives a link. The `Dialer` of
a node has one `Dial` for a peer at a time, and callers that want the same peer share
it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastnode.dispatch.user_code import is_cancelled
from fastnode.errors import (
    DuplicateLink,
    HandshakeError,
    HandshakeTimeout,
    LinkClosed,
    Side,
)
from fastnode.limits import MAX_UNAWAITED_DIALS
from fastnode.names import NodeName
from fastnode.node.deadline import wait_cancelled
from fastnode.node.race import Race

if TYPE_CHECKING:
    from fastnode.link.link import Link
    from fastnode.link.protocol import LinkProtocol
    from fastnode.node.attempt import Attempt
    from fastnode.node.context import NodeContext
    from fastnode.node.membership import Membership
    from fastnode.node.targets import Target
    from fastnode.peer import Peer

__all__ = ["Dial", "Dialer", "cancelled"]

#: How long the winner of two simultaneous dials may take to come up on this side. The
#: peer has accepted it, so this is half a round trip.
WINNER_SECONDS = 1.0
#: Seconds to wait before the next attempt when the winner did not come up; multiplied
#: by the number of the attempt.
RETRY_SECONDS = 0.05


class Dial:
    """Connects to one node."""

    def __init__(self, context: NodeContext, name: NodeName) -> None:
        self._context = context
        self._name = name
        self._race: Race | None = None
        self._attempt: asyncio.Task[Attempt] | None = None
        self._superseded = False

    async def run(self) -> Link:
        """Return the link, whether this node dialed it or the peer did meanwhile.

        Raises:
            As `Race.run`, but no `DuplicateLink`.
            NoRoute: also if no address is known.
        """
        try:
            return await self._run()
        finally:
            # The traceback of its error refers to this object.
            self._attempt = None

    async def _run(self) -> Link:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._context.settings.handshake_timeout
        attempts = 0
        while True:
            attempts += 1
            self._superseded = False
            link = await self._welcomed()
            if link is not None:
                return link
            self._attempt = loop.create_task(self._try_targets())
            try:
                attempt = await self._attempt
                assert attempt.link is not None
                return attempt.link
            except DuplicateLink as error:
                duplicate = error.with_traceback(None)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if not self._superseded or (task is not None and task.cancelling()):
                    self._attempt.cancel()
                    raise
                duplicate = DuplicateLink("superseded by an inbound link")
            link = await self._context.links.wait_for(str(self._name), WINNER_SECONDS)
            if link is not None:
                return link
            if loop.time() > deadline:
                raise HandshakeTimeout(
                    f"{self._name} keeps another link with us, which does not come up",
                    peer=str(self._name),
                    side=Side.REMOTE,
                    hint="it will give that link up when its keepalive fails",
                ) from duplicate
            # Jitter, so that two nodes do not stay in step.
            await asyncio.sleep(RETRY_SECONDS * attempts * (0.5 + random.random()))

    async def _welcomed(self) -> Link | None:
        """Return the inbound link of the peer, if it comes up soon."""
        name = str(self._name)
        if not self._context.links.welcomed(name):
            return None
        return await self._context.links.wait_for(name, WINNER_SECONDS)

    # --- simultaneous dials, see fastnode.node.links ----------------------------

    @property
    def hello_sent(self) -> bool:
        """Return whether the peer may be checking this dial now."""
        return self._race is not None and self._race.winner is not None

    @property
    def verifies(self) -> bool:
        """Return whether this dial will verify the peer."""
        if self._context.plaintext:
            return False
        return self._race is None or self._race.verifies

    def supersede(self) -> None:
        """Cancel this attempt. An inbound link of the peer is taken instead."""
        if self._attempt is not None and not self._attempt.done():
            self._superseded = True
            self._attempt.cancel()

    async def attempt_over(self) -> None:
        """Wait until the current attempt has come up or failed."""
        if self._attempt is not None:
            await asyncio.wait([self._attempt])

    # --- what a race asks, see fastnode.node.race ---------------------------------

    async def _try_targets(self) -> Attempt:
        return await self._run_race(
            self._name, await self._context.targets.find(self._name)
        )

    async def _run_race(
        self, wanted: NodeName | Membership, targets: Sequence[Target]
    ) -> Attempt:
        self._race = Race(self._context, self, wanted, targets)
        try:
            return await self._race.run()
        finally:
            self._race = None

    def introducing(self, protocol: LinkProtocol) -> None:
        """The connection is about to say HELLO. Nothing to do for a plain dial."""

    def compare(self, protocol: LinkProtocol, peer: Peer) -> None:
        """Raise if another link with the peer stays; successors have other rules."""
        del protocol
        self._context.links.admit_outbound(peer)


def cancelled(name: str) -> HandshakeError:
    """Return the error for callers of a dial that was cancelled by other code."""
    return HandshakeError(
        f"the dial of {name} was cancelled before it was complete",
        peer=name,
        side=Side.LOCAL,
        hint="connect again",
    )


@dataclass(slots=True)
class SharedDial:
    """A dial that is under way, and how many callers wait for its link.

    Attributes:
        task: runs the dial, and returns the link.
        waiters: how many callers wait.
    """

    task: asyncio.Task[Link]
    waiters: int = 0


class Dialer:
    """Connects one node with others: one dial for a peer, however many callers want
    it.

    A dial goes on when its callers have given up: the next caller finds it further on,
    or finds its link. Otherwise callers that wait for a shorter time than a handshake
    takes would never get a link. The dial ends by its own deadlines.
    """

    def __init__(self, context: NodeContext) -> None:
        self._context = context
        self._links = context.links
        self._shared: dict[str, SharedDial] = {}
        # Tasks of dials that have not ended yet, including cancelled ones.
        self._tasks: set[asyncio.Task[Link]] = set()
        # Dials without a waiting caller, the oldest first.
        self._unawaited: dict[str, SharedDial] = {}
        self._closed = False

    def check(self, name: str) -> NodeName:
        """Parse the name of a node that is going to be dialed.

        Raises:
            ConfigError: `name` is no node name.
            LinkClosed: this node stops.
        """
        parsed = NodeName.parse(name)
        if self._closed:
            raise self.stopped()
        return parsed

    def stopped(self) -> LinkClosed:
        """Return the error for a node that was stopped."""
        return LinkClosed(
            f"node {self._context.name} was stopped",
            side=Side.LOCAL,
            hint="start a new node",
            begun="no",
        )

    async def connect(self, name: str, *, lives_on: bool = True) -> Link:
        """See `Node.connect`.

        Args:
            lives_on: whether the dial goes on when this caller, the last one, is
                cancelled.
        """
        parsed = self.check(name)
        shared = self._shared.get(name) or self._start(name, parsed)
        shared.waiters += 1
        self._unawaited.pop(name, None)
        try:
            link = await asyncio.shield(shared.task)
            # The link may have been replaced before this task continued.
            return self._links.find(name) or link
        except asyncio.CancelledError as error:
            if not shared.task.cancelled() or is_cancelled(error):
                raise
            # Nobody cancelled the caller, so the caller gets an error.
            if self._closed:
                raise self.stopped() from None
            raise cancelled(name) from None
        finally:
            shared.waiters -= 1
            if not shared.waiters and not shared.task.done():
                self._leave(name, shared, lives_on=lives_on)
            # The traceback of its error refers to this frame.
            del shared

    def _leave(self, name: str, shared: SharedDial, *, lives_on: bool) -> None:
        """The last caller has given up."""
        if self._shared.get(name) is not shared:
            return
        if lives_on:
            self._unawaited[name] = shared
        else:
            self._give_up(name, shared)
        if len(self._unawaited) > MAX_UNAWAITED_DIALS:
            oldest = next(iter(self._unawaited))
            self._give_up(oldest, self._unawaited[oldest])

    def _give_up(self, name: str, shared: SharedDial) -> None:
        self._forget(name, shared)
        shared.task.cancel()

    def _start(self, name: str, parsed: NodeName) -> SharedDial:
        dial = Dial(self._context, parsed)
        # In the node's context, because the dial is not only for this caller.
        loop, context = asyncio.get_running_loop(), self._context.registry.context
        task = context.run(loop.create_task, dial.run())
        shared = SharedDial(task)
        self._tasks.add(task)
        self._shared[name] = shared
        self._links.dials[name] = dial

        def over(task: asyncio.Task[Link]) -> None:
            self._tasks.discard(task)
            self._forget(name, shared)
            if not task.cancelled():
                task.exception()  # so that asyncio does not log it if no caller is left

        task.add_done_callback(over)
        return shared

    def _forget(self, name: str, shared: SharedDial) -> None:
        """Let the next caller begin a new dial."""
        if self._shared.get(name) is shared:
            del self._shared[name]
            del self._links.dials[name]
            self._unawaited.pop(name, None)

    async def close(self) -> None:
        """Cancel all dials, and begin no more."""
        self._closed = True
        self.cancel()
        await wait_cancelled(str(self._context.name), tuple(self._tasks))

    def cancel(self) -> None:
        """Cancel the dials that are under way."""
        for task in self._tasks:
            task.cancel()
