"""The instances of a service: found by a discovery, dialed, and kept linked.

How it works. `Members` follows the discovery of one service. For each target that it
should reach it has a `Place`, which keeps links with the instance there: one link, or
one with each worker of a group. Every instance with a link is a `Candidate`.

Calls look at two lists. `ready` are the candidates that take calls. `candidates` are
all of them, those included that are ejected or stop. `refresh` makes `ready` anew. It
is called when something has changed, and when an ejection ends.

A service links with `max_instances` targets at most. Which ones is random, but it stays
the same: targets have an order of their own in every node. A target that cannot be
reached makes room for the next one (`_choose_places`). As many of the unreachable
targets are still dialed now and then. If no target can be reached, all of them are
tried again in rounds, with pauses that grow.

A target that the discovery does not name any more gets no calls from then on. Its links
are closed FORGET_SECONDS later, unless it has come back.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Coroutine, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Protocol

from fastnode.backoff import Backoff
from fastnode.discovery.target import normal_targets
from fastnode.dispatch.user_code import (
    awaited,
    end_program,
    is_cancelled,
    name_of,
    text_of,
)
from fastnode.errors import (
    DuplicateLink,
    FastnodeError,
    HandshakeError,
    LinkClosed,
    NoInstance,
    Side,
)
from fastnode.limits import (
    CANCEL_SECONDS,
    FORGET_SECONDS,
    SERVICE_DIALS,
    SETTLE_SECONDS,
    SLOW_START_SECONDS,
)
from fastnode.link.link import protocol_of
from fastnode.log_limit import LogLimit
from fastnode.loggers import fields
from fastnode.names import joined
from fastnode.service.balancer import Candidate, in_order
from fastnode.service.outliers import Outliers
from fastnode.service.status import InstanceState, InstanceStatus

if TYPE_CHECKING:
    from fastnode.discovery.protocol import Discovery
    from fastnode.discovery.target import Target
    from fastnode.link.link import Link

__all__ = ["Members", "ServiceNode"]

log = logging.getLogger("fastnode.node")

#: The weight of a target that nobody gave a weight counts as 1.0.
USUAL_WEIGHT: Final = 100
#: A target that could not be reached so often makes room for another one.
MANY_FAILURES: Final = 3


class ServiceNode(Protocol):
    """What a service needs of its node."""

    @property
    def name(self) -> str:
        """``name@host``."""

    @property
    def instance(self) -> str:
        """The instance id of the node, 32 hexadecimal digits."""

    def begin(self, work: Coroutine[Any, Any, Any], /) -> asyncio.Task[Any]:
        """Run a coroutine as a task, in the context of the node."""

    async def dial(self, target: Target, /, *, additional: bool) -> Link:
        """Return a link with the instance at a target, if it belongs to the service.

        Args:
            additional: a link with another worker of the group than those that are
                linked already.

        Raises:
            DuplicateLink: the worker that answered is linked already.
            FastnodeError: no link.
        """

    def link_with(self, name: str, instance: str, /) -> Link | None:
        """Return the link with one instance that new messages may take."""

    def workers_of(self, link: Link, /) -> int:
        """Return how many workers the group of a peer has; 1: it is alone."""

    def hold(self, name: str, instance: str, /) -> None:
        """The service uses the links with an instance from now on."""

    def release(self, name: str, instance: str, /) -> None:
        """The service does not use the links with an instance any more."""

    def watch(self, callback: Callable[[], None], /) -> None:
        """Call a function whenever a link with an instance may be used from now on, or
        not any more."""

    def unwatch(self) -> None:
        """Call the functions of `watch` no more."""


class Place:
    """Keeps links with the instance, or the workers, at one target.

    Attributes:
        target: where to dial.
        candidates: the instances there that have a link.
        wanted: whether the discovery names the target, and it is one of those that the
            service should reach.
        failures: dials that failed since the last one that did not.
        error: why the last dial failed; None if none has, or a link came up since.
        tried: whether a dial has ended.
    """

    def __init__(self, members: Members, target: Target) -> None:
        self._members = members
        self.target = target
        self.candidates: list[Candidate] = []
        self.wanted = True
        self.failures = 0
        self.error: BaseException | None = None
        self.tried = False
        self._wake: asyncio.Future[None] | None = None
        self._backoff = Backoff()
        self._next_dial = 0.0
        self._complete_since: float | None = None
        self._unwanted_since = 0.0
        self.task = members.node.begin(self._run())

    @property
    def is_down(self) -> bool:
        """Whether no instance can be reached here, as far as is known."""
        return self.error is not None and not self.candidates

    def wake(self) -> None:
        """Something has changed: look again."""
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def want(self, wanted: bool) -> None:
        """The discovery names the target, or does not name it any more."""
        if wanted == self.wanted:
            return
        self.wanted = wanted
        self._next_dial = 0.0
        if not wanted:
            self._unwanted_since = monotonic()
        self.wake()

    async def _run(self) -> None:
        while True:
            self._replace_links()
            now = monotonic()
            if not self.wanted:
                left = self._unwanted_since + FORGET_SECONDS - now
                if left <= 0 or not self.candidates:
                    break
                await self._sleep(left)
            elif self._is_complete():
                if self._complete_since is None:
                    self._complete_since = now
                await self._sleep(None)
            elif self._complete_since is not None:
                # A link has ended. A peer that accepts links and then breaks them must
                # not be dialed without a pause.
                self._backoff.was_up(now - self._complete_since)
                self._complete_since = None
                self._next_dial = now + self._backoff.pause()
            elif now < self._next_dial:
                pause = self._next_dial - now
                await self._sleep(None if math.isinf(pause) else pause)
            else:
                await self._dial()
        self._members.removed(self)

    def _is_complete(self) -> bool:
        """Whether there are as many links as the target has workers. Links whose peer
        stops do not count."""
        links = [each.link for each in self.candidates if each.link is not None]
        lasting = [link for link in links if not link.closed and not link.leaving]
        workers = max(map(self._members.node.workers_of, links), default=1)
        return len(lasting) >= workers

    def _replace_links(self) -> None:
        """Take the links that have succeeded others; forget instances without one."""
        for each in tuple(self.candidates):
            if each.link is None or each.link.closed:
                each.link = self._members.node.link_with(each.name, each.instance)
            if each.link is None:
                self.candidates.remove(each)
                self._members.lost(each)

    async def _sleep(self, seconds: float | None) -> None:
        """Wait until a link ends, `wake` is called, or the time is over."""
        self._wake = asyncio.get_running_loop().create_future()
        ends = [
            protocol_of(each.link).gone
            for each in self.candidates
            if each.link is not None
        ]
        await asyncio.wait(
            [self._wake, *ends], timeout=seconds, return_when=asyncio.FIRST_COMPLETED
        )
        self._wake = None

    async def _dial(self) -> None:
        """Dial once."""
        members = self._members
        additional = bool(self.candidates)
        least = 0.0
        # Targets that were not reached before do not hold up the others.
        turn = members.turn_again if self.failures else members.turn
        try:
            async with turn:
                members.dials += 1
                link = await members.node.dial(self.target, additional=additional)
        except LinkClosed:
            # The node stops, and will close this service.
            self._next_dial = math.inf
            return
        except FastnodeError as error:
            self.error = error.with_traceback(None)
            least = getattr(error, "retry_after", 0.0)
        except BaseException as error:
            if is_cancelled(error) or isinstance(error, GeneratorExit):
                raise
            address = joined(self.target.host, self.target.port)
            self.error = HandshakeError(
                f"dialing {address} failed: {name_of(error)}: {text_of(error)}",
                side=Side.LOCAL,
                hint="see the traceback in the log; a later attempt follows",
            )
            log.error(
                "service %s: dialing %s failed",
                members.service,
                address,
                exc_info=error,
                extra=fields(
                    "internal_error",
                    node=members.node.name,
                    address=(self.target.host, self.target.port),
                    error=error,
                ),
            )
            end_program(error)
        else:
            self.error = None
            self._take(link)
        self.tried = True
        if self.error is None:
            self.failures = 0
            members.reached(self)
            return
        self._next_dial = monotonic() + self._backoff.pause(least)
        if additional and isinstance(self.error, DuplicateLink):
            # Some workers of the group are linked, and the others do not answer. They
            # may have failed, and will be replaced.
            self.error = None
        else:
            self.failures += 1
            members.failed(self)

    def _take(self, link: Link) -> None:
        """A link has come up, or one with this instance was there already."""
        name, instance = link.peer.name, link.peer.instance
        weight = self.target.weight / USUAL_WEIGHT
        candidate = self._members.find(name, instance)
        if candidate is None:
            candidate = Candidate(name, instance, weight)
        # An instance that has moved follows its new target.
        candidate.weight = weight
        candidate.address = (self.target.host, self.target.port)
        is_new = candidate not in self.candidates
        if is_new:
            # Two targets may lead to one instance. Then both places have it.
            self.candidates.append(candidate)
            self._members.node.hold(name, instance)
        candidate.link = link
        self._members.came(candidate)

    def statuses(self, now: float) -> list[InstanceStatus]:
        """Describe the instances here, or the target if there is none."""
        if not self.candidates:
            state: InstanceState = "down" if self.error is not None else "connecting"
            return [
                InstanceStatus(
                    address=(self.target.host, self.target.port),
                    name=None,
                    instance=None,
                    state=state,
                    weight=self.target.weight,
                    last_error=self.error,
                )
            ]
        describe = self._members.status
        return [describe(each, self.target, now) for each in self.candidates]


class Members:
    """The instances of one service.

    Args:
        node: dials, and knows the links.
        service: the name of the service.
        discovery: names the targets.
        max_instances: how many targets to reach.
        on_change: called when the candidates may have changed.
    """

    def __init__(
        self,
        node: ServiceNode,
        service: str,
        discovery: Discovery,
        max_instances: int,
        on_change: Callable[[], None],
    ) -> None:
        self.node = node
        self.service = service
        self._discovery = discovery
        self._most = max_instances
        self._on_change = on_change
        self.outliers = Outliers(monotonic())
        #: For dials of targets, and of those that were not reached the last time.
        self.turn = asyncio.Semaphore(SERVICE_DIALS)
        self.turn_again = asyncio.Semaphore(SERVICE_DIALS)
        #: How many dials there were, and how many of them gave no link.
        self.dials = 0
        self.dials_failed = 0
        #: Whether the discovery has named the targets at least once.
        self.answered = False
        #: Why the discovery does not answer; None if it does.
        self.discovery_error: BaseException | None = None
        self._targets: tuple[Target, ...] = ()
        self._places: dict[tuple[str, int], Place] = {}
        # Targets that cannot be reached, and make room for others.
        self._unreached: set[tuple[str, int]] = set()
        # Every target was tried since one could be reached, and none can be. When the
        # next round begins.
        self._all_failed = False
        self._next_round: asyncio.TimerHandle | None = None
        self._round_backoff = Backoff()
        self._seed = f"{node.instance} {service}".encode()
        self._settled = False
        self._settling: asyncio.TimerHandle | None = None
        self._closed = False
        self._began: float | None = None
        self._change: asyncio.Future[None] | None = None
        self._limit = LogLimit(log, node=node.name)
        node.watch(self._links_changed)
        self._following = node.begin(self._follow())

    # --- what calls ask ------------------------------------------------------------

    def candidates(self) -> list[Candidate]:
        """Return all instances that have a link and that are wanted."""
        found = (
            each
            for place in self._places.values()
            if place.wanted
            for each in place.candidates
        )
        return list(dict.fromkeys(found))

    def find(self, name: str, instance: str) -> Candidate | None:
        """Return the instance with this node name and instance id, if it has a link."""
        for place in self._places.values():
            for each in place.candidates:
                if (each.name, each.instance) == (name, instance):
                    return each
        return None

    def ready(self, now: float) -> list[Candidate]:
        """Return the instances that take calls: those that stop only if there are no
        others, and those that are ejected only if there are none at all."""
        ready, leaving, ejected = self._sorted(now)
        return ready or leaving or ejected

    def next_return(self, now: float) -> float | None:
        """Return when the next ejection ends, seconds; None if no instance is
        ejected."""
        return self.outliers.next_return(now)

    def usable(self, now: float) -> list[Candidate]:
        """Return the instances that take calls, without those that stop or are
        ejected."""
        return self._sorted(now)[0]

    def _sorted(
        self, now: float
    ) -> tuple[list[Candidate], list[Candidate], list[Candidate]]:
        """Return the instances that take calls, those that stop, and those that are
        ejected."""
        ready: list[Candidate] = []
        leaving: list[Candidate] = []
        ejected: list[Candidate] = []
        for each in self.candidates():
            if each.link is not None and each.link.closed:
                each.link = self.node.link_with(each.name, each.instance)
            if each.link is None:
                continue
            if each.link.leaving:
                leaving.append(each)
            elif self.outliers.is_ejected(each, now):
                ejected.append(each)
            else:
                ready.append(each)
        return ready, leaving, ejected

    @property
    def settled(self) -> bool:
        """Whether every target was tried once, or SETTLE_SECONDS have passed since the
        first answer. Before that a key might find another instance than later."""
        if not self._settled:
            self._settled = self.answered and all(
                place.tried or place.candidates
                for place in self._places.values()
                if place.wanted
            )
        return self._settled

    def _settle(self) -> None:
        """Some targets do not answer. Calls with a key wait for them no longer."""
        self._settled = True
        self.changed()

    def hopeless(self) -> NoInstance | None:
        """Return the error for a call that does not want to wait, if no instance can be
        reached as far as is known."""
        if not self.answered:
            if self.discovery_error is None:
                return None
            return self._no_instance(
                "the discovery does not answer", self.discovery_error
            )
        wanted = [place for place in self._places.values() if place.wanted]
        if not wanted:
            return self._no_instance("the discovery names no target", None)
        if any(place.candidates for place in wanted):
            return None
        down = [place for place in wanted if place.is_down]
        if not down or not (self._all_failed or len(down) == len(wanted)):
            return None
        last = down[-1]
        text = f"none of {len(self._targets)} targets can be reached; "
        return self._no_instance(
            text + joined(last.target.host, last.target.port), last.error
        )

    def _no_instance(self, why: str, cause: BaseException | None) -> NoInstance:
        text = f"service {self.service} has no instance: {why}"
        if cause is not None:
            text = f"{text}: {text_of(cause)}"
        error = NoInstance(text, side=Side.REMOTE)
        error.__cause__ = cause
        return error

    def change(self) -> asyncio.Future[None]:
        """Return a future that is done when something has changed. It is shared: use it
        with `asyncio.wait` only."""
        if self._change is None or self._change.done():
            self._change = asyncio.get_running_loop().create_future()
        return self._change

    def statuses(self) -> tuple[InstanceStatus, ...]:
        """Describe all instances and targets."""
        now = monotonic()
        return tuple(
            status
            for place in self._places.values()
            if place.wanted
            for status in place.statuses(now)
        )

    def status(self, each: Candidate, target: Target, now: float) -> InstanceStatus:
        """Describe an instance."""
        state: InstanceState
        if each.link is None or each.link.closed:
            state = "down"
        elif each.link.leaving:
            state = "leaving"
        elif self.outliers.is_ejected(each, now):
            state = "ejected"
        else:
            state = "busy" if each.busy_until > now else "ready"
        return InstanceStatus(
            address=(target.host, target.port),
            name=each.name,
            instance=each.instance,
            state=state,
            weight=target.weight,
            outstanding=each.outstanding,
            calls=each.calls,
            failures=each.failures,
            last_error=each.last_error,
        )

    # --- what places tell ----------------------------------------------------------

    def came(self, candidate: Candidate) -> None:
        """An instance has a link. It warms up if it is new, and others have worked for
        a while."""
        now = monotonic()
        if self._began is None:
            self._began = now
        is_new = not candidate.calls and not candidate.outstanding
        if is_new and now - self._began > SLOW_START_SECONDS:
            candidate.warm_up(now)
        self.changed()

    def lost(self, candidate: Candidate) -> None:
        """An instance has no link at one of its places any more."""
        self.node.release(candidate.name, candidate.instance)
        if self.find(candidate.name, candidate.instance) is None:
            self.outliers.forget(candidate)
        self.changed()

    def reached(self, place: Place) -> None:
        """A target has a link. It takes its room back if it had made room."""
        self._all_failed = False
        self._round_backoff = Backoff()
        address = (place.target.host, place.target.port)
        if address in self._unreached:
            self._unreached.discard(address)
            self._choose_places()

    def failed(self, place: Place) -> None:
        """A dial of a target without a link has failed.

        The first failures are usual: an instance stops before the discovery names it no
        more.
        """
        self.dials_failed += 1
        many = place.failures >= MANY_FAILURES
        self._limit.say(
            logging.WARNING if many else logging.INFO,
            f"{place.target.host} {place.target.port} {many}",
            "service %s: no link with %s; trying again: %s",
            self.service,
            joined(place.target.host, place.target.port),
            place.error,
            event="instance_not_reached",
            service=self.service,
            address=(place.target.host, place.target.port),
            error=place.error,
        )
        # Where no instance is linked, the next targets are tried at once.
        if not place.candidates and (
            place.failures >= MANY_FAILURES or not self.candidates()
        ):
            self._unreached.add((place.target.host, place.target.port))
            self._choose_places()
        self.changed()

    def removed(self, place: Place) -> None:
        """A target that is not wanted any more has ended."""
        address = (place.target.host, place.target.port)
        if self._places.get(address) is place:
            del self._places[address]
        for each in place.candidates:
            self.lost(each)
        self.changed()

    def _links_changed(self) -> None:
        """A link with an instance can be used from now on, or not any more."""
        for place in self._places.values():
            place.wake()
        self.changed()

    def changed(self) -> None:
        """Tell those who wait for an instance."""
        self._on_change()
        if self._change is not None and not self._change.done():
            self._change.set_result(None)

    # --- discovery -----------------------------------------------------------------

    async def _follow(self) -> None:
        backoff = Backoff()
        while not self._closed:
            began = monotonic()
            problem: BaseException | None = None
            try:
                await self._follow_once()
            except BaseException as error:
                if is_cancelled(error) or isinstance(error, GeneratorExit):
                    raise
                problem = error
                end_program(error)
            if self._closed:
                break
            self._stopped_following(problem)
            backoff.was_up(monotonic() - began)
            await asyncio.sleep(backoff.pause())

    async def _follow_once(self) -> None:
        """Take the sets of one iterator, until it ends or fails."""
        watch = self._discovery.watch(self.service)
        try:
            async for targets in watch:
                if self._closed:
                    return  # the discovery has swallowed the cancellation
                self._set(targets)
                # An iterator that never waits must not stop the loop.
                await asyncio.sleep(0)
        finally:
            await _close(watch)

    def _stopped_following(self, problem: BaseException | None) -> None:
        self.discovery_error = problem or RuntimeError("its iterator ended")
        self._limit.say(
            logging.WARNING,
            "discovery",
            "service %s: the discovery %s; the last targets stay, and it is asked "
            "again",
            self.service,
            "ended" if problem is None else f"failed: {text_of(problem)}",
            event="discovery_failed",
            service=self.service,
            traceback=problem,
        )
        self.changed()

    def _set(self, targets: Sequence[Target]) -> None:
        """The discovery has named the targets."""
        self._targets = tuple(in_order(normal_targets(targets), self._seed))
        if not self.answered:
            loop = asyncio.get_running_loop()
            self._settling = loop.call_later(SETTLE_SECONDS, self._settle)
        self.answered = True
        self.discovery_error = None
        self._all_failed = False
        self._unreached &= {(each.host, each.port) for each in self._targets}
        self._choose_places()
        self.changed()

    def _choose_places(self) -> None:
        """Decide which targets to reach, and tell their places.

        They are the first `max_instances` that can be reached as far as is known, and
        as many of those that cannot.
        """
        wanted = self._first_targets()
        if len(wanted) < len(self._targets) and self._unreached.issuperset(wanted):
            self._all_failed = True
            if self._next_round is None:
                loop, pause = asyncio.get_running_loop(), self._round_backoff.pause()
                self._next_round = loop.call_later(pause, self._try_all_again)
        for address, place in self._places.items():
            place.want(address in wanted)
        for address, target in wanted.items():
            known = self._places.get(address)
            if known is None:
                self._places[address] = Place(self, target)
            elif known.target != target:
                known.target = target
                for each in known.candidates:
                    each.weight = target.weight / USUAL_WEIGHT

    def _try_all_again(self) -> None:
        """Begin a round: each target that is not dialed all the time gets a dial."""
        self._next_round = None
        self._unreached.intersection_update(self._first_targets())
        self._choose_places()

    def _first_targets(self) -> dict[tuple[str, int], Target]:
        """Return the targets to reach, by address."""
        wanted: dict[tuple[str, int], Target] = {}
        good = bad = 0
        for target in self._targets:
            address = (target.host, target.port)
            if address in self._unreached:
                bad += 1
                if bad > self._most:
                    continue
            elif good == self._most:
                break
            else:
                good += 1
            wanted[address] = target
        return wanted

    # --- the end -------------------------------------------------------------------

    async def close(self) -> None:
        """Dial no more, and let go of the links."""
        self._closed = True
        for timer in (self._settling, self._next_round):
            if timer is not None:
                timer.cancel()
        self.node.unwatch()
        tasks = [self._following, *(place.task for place in self._places.values())]
        for task in tasks:
            task.cancel()
        for place in tuple(self._places.values()):
            self.removed(place)
        # A discovery that ignores its cancellation holds up nobody.
        await asyncio.wait(tasks, timeout=CANCEL_SECONDS)


async def _close(watch: object) -> None:
    """Close an iterator of the user, within CANCEL_SECONDS.

    Raises:
        What the iterator raises.
    """
    close = getattr(watch, "aclose", None)
    if close is None:
        return
    closing = asyncio.ensure_future(awaited(close()))
    # An iterator that ignores its cancellation holds up nobody.
    done, _ = await asyncio.wait([closing], timeout=CANCEL_SECONDS)
    if done:
        closing.result()
        return
    closing.add_done_callback(lambda task: task.cancelled() or task.exception())
    closing.cancel()
