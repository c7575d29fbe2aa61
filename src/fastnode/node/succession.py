"""Succession: a new link replaces an old one, without loss and in order.

How it works. `fastnode.link.succession` says what happens on the two links.
`fastnode.node.links` decides which link may succeed which. This module decides
which side acts:

- The side that dialed the old link dials the new one, in a *round*. A link has one
  round at a time, however many callers want a successor.
- The side that accepted the old link sends RECONNECT. The dialer then begins a round.
  If it gets no new link, it answers STAY with the reason.

A caller of `reconnect` needs a handshake that begins after the call, because only such
a handshake shows the current certificate. So a caller shares a round that has not begun
to dial. If a round has begun to dial, the caller waits for it and then needs the next
one. The accepting side applies the same rule: if the connection of the new link is
older than the call, it asks for a successor of the new link in turn.

A link can only be succeeded when it holds nothing back for its own predecessor. Both
sides wait for that. Up to MAX_RETIRING_LINKS older links may still exist, because calls
on them are under way.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fastnode.dispatch.user_code import is_cancelled
from fastnode.errors import (
    CallTimeout,
    CloseReason,
    DuplicateLink,
    FastnodeError,
    HandshakeError,
    LinkClosed,
    LinkLost,
    Side,
    renewed,
)
from fastnode.limits import MAX_HANDSHAKES, MAX_RETIRING_LINKS
from fastnode.link.machine import State
from fastnode.names import NodeName
from fastnode.node.attempt import Attempt
from fastnode.node.deadline import wait_cancelled
from fastnode.node.dial import RETRY_SECONDS, Dial, cancelled
from fastnode.node.links import older
from fastnode.node.membership import Membership

if TYPE_CHECKING:
    from fastnode.link.link import Link
    from fastnode.link.protocol import LinkProtocol
    from fastnode.node.context import NodeContext
    from fastnode.peer import Address, Peer

__all__ = ["Successions"]

#: How often the successor of a link is dialed, if instances answer that are linked with
#: this node by another link.
SUCCESSOR_DIALS: Final = 4


class Successor(Dial):
    """Dials a link that succeeds another one.

    It checks more than a plain dial: the peer must be as well verified, and if it is
    the same instance, it must know the old link.
    """

    def __init__(self, context: NodeContext, old: LinkProtocol) -> None:
        assert old.peer is not None
        super().__init__(context, NodeName.parse(old.peer.name))
        self._old = old
        # The attempt that has dialed the old link.
        self._before = old.owner

    async def succeed(self) -> LinkProtocol:
        """Dial, and return the new link when it is up.

        Another instance may answer, for example another worker of a group. If that one
        is linked already, the instance of the old link may answer the next dial.

        Raises:
            As `Dial.run`. The old link stays.
        """
        number = 0
        while True:
            number += 1
            try:
                attempt = await self._try_targets()
            except DuplicateLink as error:
                duplicate = error.with_traceback(None)
            else:
                assert attempt.protocol is not None
                return attempt.protocol
            if number == SUCCESSOR_DIALS or self._old.state is not State.UP:
                raise HandshakeError(
                    duplicate.message,
                    hint="try again later",
                    peer=duplicate.peer,
                    side=duplicate.side,
                ) from duplicate
            await asyncio.sleep(RETRY_SECONDS * number * (0.5 + random.random()))

    async def _try_targets(self) -> Attempt:
        before = self._before
        if isinstance(before, Attempt) and isinstance(before.wanted, Membership):
            # The link leads to an instance of a service at one address, which no route
            # knows.
            return await self._run_race(before.wanted, [before.target])
        return await super()._try_targets()

    def introducing(self, protocol: LinkProtocol) -> None:
        """Show the ticket of the old link in the HELLO. Another instance that answers
        must tell who it is."""
        protocol.succession.predecessor = self._old
        protocol.additional = True

    def compare(self, protocol: LinkProtocol, peer: Peer) -> None:
        """Raise if the new link cannot succeed the old one."""
        old = self._old
        assert old.peer is not None
        if old.state is State.CLOSED and protocol.succession.claimed is None:
            # There is no link to succeed any more: this is a link like any other.
            protocol.succession.predecessor = None
            super().compare(protocol, peer)
        elif old.state is State.CLOSED:
            # The peer does not know yet that the old link has ended, and would hold the
            # new one until it does. A link that is dialed again replaces the old one at
            # once.
            raise self._unfit(peer, "that was lost meanwhile", "connect again")
        elif peer.verified != old.peer.verified:
            raise self._unfit(
                peer,
                "one of the two certificates was verified and the other not",
                "is there another route to it by now?",
            )
        elif peer.instance != old.peer.instance:
            # Another instance of the node answers: another worker, another pod, or the
            # node after a restart. It does not know the old link, so the new one comes
            # up beside it.
            protocol.succession.predecessor = None
            super().compare(protocol, peer)
        elif protocol.succession.claimed != old.succession.ticket:
            raise self._unfit(
                peer,
                "it does not know the old link, or still has too many that are older",
                "try again later, or close the link and connect again",
            )

    def _unfit(self, peer: Peer, why: str, hint: str) -> HandshakeError:
        return HandshakeError(
            f"the new link with {peer.name} cannot succeed the old one: {why}",
            peer=peer,
            side=Side.LOCAL,
            hint=hint,
        )


@dataclass(slots=True, eq=False)
class Round:
    """One attempt to replace a link that this node dialed.

    Attributes:
        old: the link to replace.
        begun: whether it has begun to dial. It is then too late for callers that need a
            new handshake.
        asked: whether the peer asked for it, and must be told if it fails.
    """

    old: LinkProtocol
    begun: bool = False
    asked: bool = False


class Successions:
    """Replaces the links of one node."""

    def __init__(self, context: NodeContext) -> None:
        self._context = context
        self._links = context.links
        self._rounds: dict[LinkProtocol, tuple[Round, asyncio.Task[LinkProtocol]]] = {}
        self._closed = False
        self._turn = asyncio.Semaphore(MAX_HANDSHAKES)
        self._links.on_asked = self._asked

    async def close(self) -> None:
        """Cancel all rounds. Links are not closed."""
        self._closed = True
        tasks = [task for _, task in self._rounds.values()]
        for task in tasks:
            task.cancel()
        # A round may be in a resolver or an `authorize` hook that ignores cancellation.
        await wait_cancelled(str(self._context.name), tasks)

    # --- callers of reconnect ------------------------------------------------------

    async def replace(
        self,
        name: str | None,
        timeout: float,
        connect: Callable[[str], Awaitable[Link]],
    ) -> None:
        """See `Node.reconnect`."""
        # A connection that was accepted in this turn of the loop, with the certificate
        # of that time, is registered in the next turn.
        await asyncio.sleep(0)
        known = frozenset(self._links)
        # A pending connection has not begun its handshake. Its peer may still show an
        # older certificate.
        waiting = frozenset(
            address for each in self._links.pending for address in each.addresses()
        )
        if name is None:
            olds = self._links.in_use()
        else:
            began = asyncio.get_running_loop().time()
            if self._links.find(name) is None:
                fresh = name not in self._links.dials
                await self._within(timeout, connect(name), name)
                if fresh:
                    return
            timeout = max(timeout - (asyncio.get_running_loop().time() - began), 0.0)
            olds = self._links.in_use(name)
        outcomes = await asyncio.gather(
            *(self._replace(old, known, waiting, timeout) for old in olds),
            return_exceptions=True,
        )
        raise_first(each for each in outcomes if each is not None)

    async def renew(self, old: LinkProtocol) -> LinkProtocol:
        """Replace one link, and return its successor as soon as that is up. The old
        link ends by itself, when what was begun there is finished.

        Raises:
            As `Node.reconnect`. The old link stays.
        """
        async with self._turn:
            if old.dialer:
                _, new = await self._dialed(old)
            else:
                _, new = await self._accepted(old, frozenset(), frozenset())
        return new

    async def _within(self, timeout: float, made: Awaitable[Link], name: str) -> None:
        try:
            async with asyncio.timeout(timeout) as scope:
                await made
        except TimeoutError:
            if not scope.expired():
                raise
            raise no_new_link(name, timeout) from None

    async def _replace(
        self,
        old: LinkProtocol,
        known: frozenset[LinkProtocol],
        waiting: frozenset[Address],
        timeout: float,
    ) -> None:
        name = old.peer_text()
        waits: list[LinkProtocol] = []
        try:
            async with asyncio.timeout(timeout) as scope:
                async with self._turn:
                    if old.dialer:
                        old, new = await self._dialed(old)
                    else:
                        old, new = await self._accepted(old, known, waiting)
                waits = [old, *(each for each in older(new) if each is not old)]
                for each in waits:
                    # An old link ends when the handler that calls this has ended.
                    if not each.awaited_here:
                        await each.wait_gone()
        except TimeoutError:
            if not scope.expired():
                raise
            left = [each for each in waits if each.state is not State.CLOSED]
            if not waits:
                raise no_new_link(name, timeout) from None
            if left:
                raise not_ended(left, timeout) from None
        for each in (*waits, new):
            if isinstance(each.error, LinkLost):
                raise renewed(each.error)

    async def _dialed(self, old: LinkProtocol) -> tuple[LinkProtocol, LinkProtocol]:
        """Return old and new link, where this node dials."""
        while True:
            # A round that is older than this call may have replaced the link meanwhile.
            old = newest(old)
            entry, task = self._rounds.get(old) or self._begin(old)
            shared = not entry.begun
            try:
                new = await asyncio.shield(task)
            except asyncio.CancelledError as error:
                if not task.cancelled() or is_cancelled(error):
                    raise
                # The caller itself was not cancelled, so the caller gets an error.
                if self._closed:
                    raise self._stopped() from None
                raise cancelled(old.peer_text()) from None
            except FastnodeError:
                if shared:
                    raise
                continue
            if shared:
                return old, new
            old = new

    async def _accepted(
        self,
        old: LinkProtocol,
        known: frozenset[LinkProtocol],
        waiting: frozenset[Address],
    ) -> tuple[LinkProtocol, LinkProtocol]:
        """Return old and new link, where the peer dials."""
        while True:
            old = newest(old)
            check(old)
            new = await asyncio.shield(old.succession.ask())
            if new not in known and new.address not in waiting:
                return old, new
            old = new

    # --- rounds -------------------------------------------------------------------

    def _asked(self, old: LinkProtocol) -> None:
        """Begin a round for a link that this node dialed, because the peer asks for
        it."""
        if self._closed or old.state is not State.UP:
            return
        entry, _ = self._rounds.get(old) or self._begin(old)
        entry.asked = True

    def _begin(self, old: LinkProtocol) -> tuple[Round, asyncio.Task[LinkProtocol]]:
        if self._closed:
            raise self._stopped()
        entry = Round(old)
        # The dial runs in the node's context, as every dial does.
        loop, context = asyncio.get_running_loop(), self._context.registry.context
        task = context.run(loop.create_task, self._run(entry))
        self._rounds[old] = entry, task

        def over(task: asyncio.Task[LinkProtocol]) -> None:
            del self._rounds[old]
            if not task.cancelled():
                task.exception()  # so that asyncio does not log it if no caller is left

        task.add_done_callback(over)
        return self._rounds[old]

    def _stopped(self) -> LinkClosed:
        return LinkClosed(
            f"node {self._context.name} was stopped",
            side=Side.LOCAL,
            hint="start a new node",
            begun="no",
        )

    async def _run(self, entry: Round) -> LinkProtocol:
        old = entry.old
        try:
            check(old)
            while len(crowd := older(old)) >= MAX_RETIRING_LINKS:
                await asyncio.wait(
                    [each.gone for each in crowd], return_when=asyncio.FIRST_COMPLETED
                )
            while (held := old.succession.held) is not None:
                await asyncio.wait([held])
            check(old)
            entry.begun = True
            dial = Successor(self._context, old)
            new = await dial.succeed()
            self._part(old, new)
            return new
        except Exception as error:
            if entry.asked and old.state is State.UP:
                old.succession.stay(error)
            if isinstance(old.error, LinkLost):
                raise renewed(old.error) from error
            raise

    def _part(self, old: LinkProtocol, new: LinkProtocol) -> None:
        """If another instance answered, there is no succession. Close the old link in
        order; new messages take the new one."""
        assert old.peer is not None
        assert new.peer is not None
        if new.peer.instance != old.peer.instance:
            self._links.prefer(new)
            old.begin_close(CloseReason.REPLACED)


def newest(protocol: LinkProtocol) -> LinkProtocol:
    """Return the last successor of a link, or the link itself."""
    while (successor := protocol.succession.successor) is not None:
        protocol = successor
    return protocol


def check(old: LinkProtocol) -> None:
    """Raise if a link cannot be succeeded."""
    assert old.peer is not None
    if old.error is not None:
        raise renewed(old.error)
    if old.state is not State.UP:
        raise LinkClosed(
            f"the link with {old.peer.name} is closing", peer=old.peer, begun="no"
        )
    if not old.succession.agreed:
        raise HandshakeError(
            f"{old.peer.name} cannot hand a link over to another one",
            peer=old.peer,
            side=Side.REMOTE,
            hint="it runs an older version: close the link and connect again",
        )


def raise_first(failures: Iterable[BaseException]) -> None:
    """Raise the first failure, with the others as its notes."""
    first = None
    for error in failures:
        if first is None:
            first = error
        else:
            first.add_note(f"also: {type(error).__name__}: {error}")
    if first is not None:
        raise first


def no_new_link(name: str, timeout: float) -> CallTimeout:
    """Return the error for a new link that did not come up in time."""
    return CallTimeout(
        f"no new link with {name} came up within {timeout:g} s",
        timeout=timeout,
        peer=name,
        side=Side.REMOTE,
        hint="the old one stays in use; is the peer overloaded?",
        begun="no",
    )


def not_ended(left: list[LinkProtocol], timeout: float) -> CallTimeout:
    """Return the error for old links that did not end in time."""
    what = "; ".join(each.succession.outstanding() for each in left)
    return CallTimeout(
        f"the link with {left[0].peer_text()} was replaced, but the old one has not "
        f"ended within {timeout:g} s: {what}",
        timeout=timeout,
        peer=left[0].peer,
        side=Side.LOCAL,
        hint="the new one is in use; the old one ends by itself when that is done",
        begun="no",
    )
