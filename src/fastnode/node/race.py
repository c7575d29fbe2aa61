"""A race between the addresses of a peer: one connection becomes the link.

How it works. A race follows RFC 8305 ("Happy Eyeballs", version 2) up to the TLS
handshake. It begins with the first address. While no server has answered, the next
attempt begins every CONNECTION_ATTEMPT_DELAY_SECONDS, or as soon as an attempt has
failed. After the first byte of a server, which is from its ServerHello, no new attempt
begins until that attempt has failed.

The first attempt whose TLS handshake is complete wins. Only the winner sends HELLO. So
the peer checks one connection of this node, and a connection that loses cannot replace
a link. The other attempts are cancelled. If the winner fails because the peer refuses
it, the race continues with the remaining addresses, and with those that lost.

Without TLS the first TCP connection wins.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from fastnode.errors import (
    DuplicateLink,
    FastnodeError,
    HandshakeTimeout,
    NoRoute,
    OutOfResources,
    Side,
    is_exhaustion,
)
from fastnode.limits import (
    CONNECTION_ATTEMPT_DELAY_SECONDS,
    DIAL_TIMEOUTS,
    MAX_DIAL_ADDRESSES,
    MAX_DIAL_ATTEMPTS,
    RESOLUTION_DELAY_SECONDS,
)
from fastnode.loggers import fields
from fastnode.node.addresses import Candidate, in_order, look_up, read_literal
from fastnode.node.attempt import Attempt, describe_os

if TYPE_CHECKING:
    from fastnode.link.protocol import LinkProtocol
    from fastnode.names import NodeName
    from fastnode.node.context import NodeContext
    from fastnode.node.membership import Membership
    from fastnode.node.targets import Target
    from fastnode.peer import Peer

__all__ = ["Race"]

log = logging.getLogger("fastnode.node")


class Dialing(Protocol):
    """The interface of a race to its dial."""

    def introducing(self, protocol: LinkProtocol) -> None:
        """Prepare the connection, which is about to send HELLO."""

    def compare(self, protocol: LinkProtocol, peer: Peer) -> None:
        """Raise `DuplicateLink` if another link with the peer stays."""


class Race:
    """Connects with one of several addresses of a peer.

    Args:
        context: the context of the node.
        dial: the dial that the race belongs to.
        wanted: the node, or the service, that is dialed.
        targets: the targets to try, the best one first.

    Attributes:
        winner: the attempt that has said HELLO; None if none has, or it has failed.
    """

    def __init__(
        self,
        context: NodeContext,
        dial: Dialing,
        wanted: NodeName | Membership,
        targets: Sequence[Target],
    ) -> None:
        self._context = context
        self._dial = dial
        self._wanted = wanted
        self._targets = targets[:MAX_DIAL_ADDRESSES]
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._deadline = loop.time() + DIAL_TIMEOUTS * self._timeout
        # The addresses of each target that is looked up, by its place.
        self._known: dict[int, list[Candidate]] = {}
        self._known_since: float | None = None
        self._look_ups: set[asyncio.Task[None]] = set()
        # The running attempts, and the errors of those that have failed.
        self._running: dict[Attempt, asyncio.Task[None]] = {}
        self._begun: set[Candidate] = set()
        self._failures: dict[object, tuple[int, object, Exception]] = {}
        # Attempts that another one has beaten: with and without an answer of the peer.
        self._beaten: list[Candidate] = []
        self._silent: list[Candidate] = []
        self._duplicate: DuplicateLink | None = None
        self._next_at = 0.0
        self._news = asyncio.Event()
        self.winner: Attempt | None = None
        if len(targets) > MAX_DIAL_ADDRESSES:
            text = "%d addresses of %s are known, of which a dial tries the first %d"
            log.warning(
                text,
                len(targets),
                wanted,
                MAX_DIAL_ADDRESSES,
                extra=fields("too_many_addresses", node=context.name, peer=str(wanted)),
            )

    @property
    def _timeout(self) -> float:
        return self._context.settings.handshake_timeout

    @property
    def verifies(self) -> bool:
        """Return whether the winner, or any attempt, will verify the peer."""
        if self.winner is not None:
            return self.winner.verifies
        if self._context.plaintext:
            return False
        return any(not target.insecure for target in self._targets)

    async def run(self) -> Attempt:
        """Return the attempt whose link is up.

        Raises:
            DuplicateLink: the peer, or this node, keeps another link.
            FastnodeError: the first refusal, in the order of the targets, with the
                other failures as notes.
            NoRoute: no address could be reached.
            OutOfResources: this process has no descriptors or memory left.
        """
        try:
            self._look_up_all()
            while True:
                self._begin_next()
                if not self._running and not self._look_ups:
                    raise self._verdict()
                if self._loop.time() >= self._deadline:
                    raise self._verdict()
                await self._wait()
                for attempt in [a for a, task in self._running.items() if task.done()]:
                    task = self._running.pop(attempt)
                    if task.cancelled():
                        continue
                    task.result()
                    if attempt.error is None:
                        self._context.failed.discard(attempt.candidate.address)
                        return attempt
                    self._failed(attempt)
                if self._duplicate is not None:
                    raise self._duplicate
        finally:
            # The traceback of an error refers to this object.
            self._duplicate = self.winner = None
            self._failures.clear()
            await self._stop()

    async def _wait(self) -> None:
        """Wait until something happens, or the next attempt is due."""
        until = self._deadline
        if self._due is not None:
            until = min(until, self._due)
        timer = self._loop.call_at(until, self._news.set)
        try:
            await self._news.wait()
        finally:
            timer.cancel()
        self._news.clear()

    async def _stop(self) -> None:
        """Give all attempts up that have not come up, and wait for their end."""
        tasks = [*self._running.values(), *self._look_ups]
        for task in tasks:
            task.cancel()
        self._running.clear()
        if tasks:
            # They end in this turn of the loop or the next, whatever the network does.
            await asyncio.wait(tasks)

    # --- addresses ---------------------------------------------------------------

    def _look_up_all(self) -> None:
        for place, target in enumerate(self._targets):
            try:
                found = read_literal(target)
            except OSError as error:
                self._fail(place, target, error)
                self._learn(place, [])
                continue
            if found is not None:
                self._learn(place, found)
                continue
            task = self._loop.create_task(self._look_up(place, target))
            self._look_ups.add(task)
            task.add_done_callback(self._looked_up)

    async def _look_up(self, place: int, target: Target) -> None:
        found: list[Candidate] = []
        try:
            async with asyncio.timeout(self._timeout) as scope:
                found = await look_up(target)
        except OSError as error:
            late = TimeoutError("the name service did not answer in time")
            self._fail(place, target, late if scope.expired() else error)
        self._learn(place, found)

    def _looked_up(self, task: asyncio.Task[None]) -> None:
        self._look_ups.discard(task)
        self._news.set()

    def _learn(self, place: int, found: list[Candidate]) -> None:
        self._known[place] = found[:MAX_DIAL_ADDRESSES]
        if found and self._known_since is None:
            self._known_since = self._loop.time()

    def _next(self) -> Candidate | None:
        """Return the address that the next attempt is for: first those that answered
        and were beaten, then the new ones, then those that were silent."""
        if self._beaten:
            return self._beaten[0]
        known = [each for _, found in sorted(self._known.items()) for each in found]
        for candidate in in_order(known[:MAX_DIAL_ADDRESSES], self._context.failed):
            if candidate not in self._begun:
                return candidate
        if self._silent and not self._look_ups:
            return self._silent[0]
        return None

    # --- attempts ----------------------------------------------------------------

    @property
    def _due(self) -> float | None:
        """When the next attempt is to begin; None: not before something happens."""
        if self.winner is not None or len(self._running) >= MAX_DIAL_ATTEMPTS:
            return None
        if any(attempt.heard for attempt in self._running):
            return None
        if self._next() is None:
            return None
        due = self._next_at if self._running else 0.0
        if 0 not in self._known and self._known_since is not None:
            due = max(due, self._known_since + RESOLUTION_DELAY_SECONDS)
        return due

    def _begin_next(self) -> None:
        """Begin the next attempt if it is time."""
        due = self._due
        if due is None or self._loop.time() < due:
            return
        candidate = self._next()
        assert candidate is not None
        self._begun.add(candidate)
        for again in (self._beaten, self._silent):
            if candidate in again:
                again.remove(candidate)
        attempt = Attempt(self._context, self, self._wanted, candidate)
        task = self._loop.create_task(attempt.run())
        task.add_done_callback(lambda _: self._news.set())
        self._running[attempt] = task
        self._next_at = self._loop.time() + CONNECTION_ATTEMPT_DELAY_SECONDS

    def introduce(self, attempt: Attempt) -> bool:
        """See `fastnode.node.attempt.Rules`."""
        if self.winner is not None or attempt not in self._running:
            return False
        self.winner = attempt
        assert attempt.protocol is not None
        self._dial.introducing(attempt.protocol)
        now = self._loop.time()
        for other, task in list(self._running.items()):
            if other is attempt:
                continue
            del self._running[other]
            task.cancel()
            (self._beaten if other.heard else self._silent).append(other.candidate)
            had = now - other.began
            if not other.heard and had >= CONNECTION_ATTEMPT_DELAY_SECONDS:
                self._context.failed.add(other.candidate.address)
        return True

    def compare(self, protocol: LinkProtocol, peer: Peer) -> None:
        """See `fastnode.node.attempt.Rules`."""
        self._dial.compare(protocol, peer)

    # --- failures ----------------------------------------------------------------

    def _failed(self, attempt: Attempt) -> None:
        unreached = attempt.unreached
        error = attempt.take_error()
        if log.isEnabledFor(logging.DEBUG):
            log.debug(
                "%s through %s: %s",
                self._wanted,
                attempt.candidate,
                error,
                extra=fields(
                    "dial_attempt_failed",
                    node=self._context.name,
                    peer=str(self._wanted),
                    address=attempt.candidate.address,
                    error=error,
                ),
            )
        if attempt is self.winner:
            self.winner = None
        if isinstance(error, DuplicateLink):
            self._duplicate = error
            return
        if unreached:
            self._context.failed.add(attempt.candidate.address)
        place = self._targets.index(attempt.candidate.target)
        self._fail(place, attempt.candidate, error)
        self._next_at = self._loop.time()

    def _fail(self, place: int, where: object, error: Exception) -> None:
        self._failures[where] = (place, where, error.with_traceback(None))

    def _verdict(self) -> FastnodeError:
        """Return the error of the whole dial."""
        failures = sorted(self._failures.values(), key=lambda each: each[0])
        name = str(self._wanted)
        refusals = [e for _, _, e in failures if isinstance(e, FastnodeError)]
        if not refusals and not failures:
            return HandshakeTimeout(
                f"no address of {name} gave a link within "
                f"{DIAL_TIMEOUTS * self._timeout:g} s",
                peer=name,
                side=Side.REMOTE,
                hint="the peer is slow, overloaded, or not a fastnode peer",
            )
        verdict: FastnodeError
        if refusals:
            verdict = refusals[0]
            # Nothing is sent before the link is up, whatever the peer did wrong.
            verdict.begun = "no"
            for _, where, error in failures:
                if error is not verdict:
                    verdict.add_note(f"also tried {where}: {error}")
            return verdict
        reasons = "; ".join(f"{where}: {describe_os(e)}" for _, where, e in failures)
        exhausted = [e for _, _, e in failures if is_exhaustion(e)]
        if exhausted:
            verdict = OutOfResources(
                f"{name} could not be dialed ({reasons})", peer=name, side=Side.LOCAL
            )
            verdict.__cause__ = exhausted[0]
            return verdict
        verdict = NoRoute(
            f"{name} could not be reached ({reasons})",
            peer=name,
            side=Side.LOCAL,
            hint="is it running, and is the route right?",
        )
        verdict.__cause__ = failures[0][2]
        return verdict
