"""Replacing links in order, so that a new certificate takes effect everywhere.

Theory of operation. What happens on the two links is in `fastnode.link.succession`;
which link may succeed which is decided in `fastnode.node.links`. Here is who acts:

- The side that dialed the old link dials the new one, in a *round*. There is one round
  for a link at a time, whoever wants it and how many they are.
- The side that accepted it sends RECONNECT, and the dialer begins a round, or answers
  STAY with the reason why it has no new link.

Whoever calls `reconnect` wants a handshake that begins after the call: only that shows
the certificate of now. So a call shares a round that has not begun to dial; after one
that has, it wants the next. On the accepting side, a new link whose connection is older
than the call is not enough either, and is asked for a successor in its turn.

Before a link can be succeeded it must not hold anything any more for the sake of the
one before it; both sides wait for that. Older links may still be there, because calls
on them are under way: up to MAX_RETIRING_LINKS.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

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
from fastnode.node.deadline import wait_cancelled
from fastnode.node.dial import Dial
from fastnode.node.links import older

if TYPE_CHECKING:
    from fastnode.link.link import Link
    from fastnode.link.protocol import LinkProtocol
    from fastnode.node.foundation import Foundation
    from fastnode.options import NetworkOptions
    from fastnode.peer import Address, Peer
    from fastnode.routing import RouteTable
    from fastnode.tls.engine import TlsEngine

__all__ = ["Handover"]


class Successor(Dial):
    """Dials the link that is to succeed another one. Judges more than a plain dial: the
    same run of the same peer, as well verified, that knows the old link."""

    def __init__(
        self,
        foundation: Foundation,
        old: LinkProtocol,
        *,
        routes: RouteTable,
        network: NetworkOptions,
    ) -> None:
        assert old.peer is not None
        super().__init__(
            foundation,
            NodeName.parse(old.peer.name),
            routes=routes,
            resolver=network.resolver,
            insecure_skip_verify=network.insecure_skip_verify,
        )
        self._old = old

    async def succeed(self) -> LinkProtocol:
        """The new link, once it is up.

        Raises:
            As `Dial.run`; the old link stays.
        """
        try:
            await self._try_targets()
        except DuplicateLink as error:
            raise HandshakeError(
                error.message, hint=error.hint, peer=error.peer, side=error.side
            ) from error
        assert self._protocol is not None
        return self._protocol

    def _make(self, engine: TlsEngine) -> LinkProtocol:
        protocol = super()._make(engine)
        protocol.succession.predecessor = self._old
        return protocol

    def _compare(self, protocol: LinkProtocol, peer: Peer) -> None:
        old = self._old
        assert old.peer is not None
        if old.state is State.CLOSED and protocol.peer_hello.succeeds is None:
            # There is nothing to hand over any more: a link like any other.
            protocol.succession.predecessor = None
            super()._compare(protocol, peer)
        elif old.state is State.CLOSED:
            # The peer does not know yet, and would hold this one until it does. Dialed
            # once more, it replaces the old one at once.
            raise self._unfit(peer, "that was lost meanwhile", "connect again")
        elif peer.is_sibling_of(old.peer) and peer.verified == old.peer.verified:
            # Another worker of its group, which cannot know the old link: the new one
            # comes up beside it.
            protocol.succession.predecessor = None
            super()._compare(protocol, peer)
        elif peer.instance != old.peer.instance:
            raise self._unfit(peer, "another run of it answered", "it was restarted?")
        elif peer.verified != old.peer.verified:
            raise self._unfit(
                peer,
                "one of the two certificates was verified and the other not",
                "is there another route to it by now?",
            )
        elif protocol.peer_hello.succeeds != old.succession.ticket:
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
    """One attempt to replace a link that we dialed.

    Attributes:
        begun: it has begun to dial: too late for those who want a new handshake.
        asked: the peer wants it, and has to be told if it fails.
    """

    old: LinkProtocol
    begun: bool = False
    asked: bool = False


class Handover:
    """Replaces the links of one node."""

    def __init__(
        self, foundation: Foundation, routes: RouteTable, network: NetworkOptions
    ) -> None:
        self._foundation = foundation
        self._links = foundation.links
        self._routes = routes
        self._network = network
        self._rounds: dict[LinkProtocol, tuple[Round, asyncio.Task[LinkProtocol]]] = {}
        self._closed = False
        self._turn = asyncio.Semaphore(MAX_HANDSHAKES)
        self._links.on_asked = self._asked

    async def close(self) -> None:
        """Give up all rounds; the links are for others to close."""
        self._closed = True
        tasks = [task for _, task in self._rounds.values()]
        for task in tasks:
            task.cancel()
        # One may be in a resolver or an `authorize` that swallows cancellation.
        await wait_cancelled(str(self._foundation.name), tasks)

    # --- for whoever wants new links ---------------------------------------------

    async def replace(
        self,
        name: str | None,
        timeout: float,
        connect: Callable[[str], Awaitable[Link]],
    ) -> None:
        """See `Node.reconnect`."""
        # A connection that was accepted in this turn of the loop, under the
        # certificate of then, is registered in its next.
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
        """Old and new link, where we dial."""
        while True:
            # An older round than this call may have replaced it meanwhile.
            old = newest(old)
            entry, task = self._rounds.get(old) or self._begin(old)
            shared = not entry.begun
            try:
                new = await asyncio.shield(task)
            except asyncio.CancelledError:
                if task.cancelled() and self._closed:
                    raise self._stopped() from None
                raise
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
        """Old and new link, where the peer dials."""
        while True:
            old = newest(old)
            check(old)
            new = await asyncio.shield(old.succession.ask())
            if new not in known and new.address not in waiting:
                return old, new
            old = new

    # --- rounds -------------------------------------------------------------------

    def _asked(self, old: LinkProtocol) -> None:
        """The peer wants a successor of a link that we dialed."""
        if self._closed or old.state is not State.UP:
            return
        entry, _ = self._rounds.get(old) or self._begin(old)
        entry.asked = True

    def _begin(self, old: LinkProtocol) -> tuple[Round, asyncio.Task[LinkProtocol]]:
        if self._closed:
            raise self._stopped()
        entry = Round(old)
        task = asyncio.get_running_loop().create_task(self._run(entry))
        self._rounds[old] = entry, task

        def over(task: asyncio.Task[LinkProtocol]) -> None:
            del self._rounds[old]
            if not task.cancelled():
                task.exception()  # whoever waited has it; nobody may be left

        task.add_done_callback(over)
        return self._rounds[old]

    def _stopped(self) -> LinkClosed:
        return LinkClosed(
            f"node {self._foundation.name} was stopped",
            side=Side.LOCAL,
            hint="start a new node",
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
            dial = Successor(
                self._foundation, old, routes=self._routes, network=self._network
            )
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
        """Where another worker answered, nothing is handed over: the old link ends in
        order, and what is sent from now on takes the new one."""
        assert old.peer is not None
        assert new.peer is not None
        if new.peer.is_sibling_of(old.peer):
            self._links.prefer(new)
            old.begin_close(CloseReason.REPLACED)


def newest(protocol: LinkProtocol) -> LinkProtocol:
    """The link that has taken the place of this one, or itself."""
    while (successor := protocol.succession.successor) is not None:
        protocol = successor
    return protocol


def check(old: LinkProtocol) -> None:
    """Raise unless a link can be succeeded."""
    assert old.peer is not None
    if old.error is not None:
        raise renewed(old.error)
    if old.state is not State.UP:
        raise LinkClosed(f"the link with {old.peer.name} is closing", peer=old.peer)
    if not old.succession.agreed:
        raise HandshakeError(
            f"{old.peer.name} cannot hand a link over to another one",
            peer=old.peer,
            side=Side.REMOTE,
            hint="it runs an older version: close the link and connect again",
        )


def raise_first(failures: Iterable[BaseException]) -> None:
    """Raise the first of them, the others as its notes."""
    first = None
    for error in failures:
        if first is None:
            first = error
        else:
            first.add_note(f"also: {type(error).__name__}: {error}")
    if first is not None:
        raise first


def no_new_link(name: str, timeout: float) -> CallTimeout:
    """The time was over before there was a new link."""
    return CallTimeout(
        f"no new link with {name} came up within {timeout:g} s",
        peer=name,
        side=Side.REMOTE,
        hint="the old one stays in use; is the peer overloaded?",
    )


def not_ended(left: list[LinkProtocol], timeout: float) -> CallTimeout:
    """The time was over before the old links had ended."""
    what = "; ".join(each.succession.outstanding() for each in left)
    return CallTimeout(
        f"the link with {left[0].peer_text()} was replaced, but the old one has not "
        f"ended within {timeout:g} s: {what}",
        peer=left[0].peer,
        side=Side.LOCAL,
        hint="the new one is in use; the old one ends by itself when that is done",
    )
