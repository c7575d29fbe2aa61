"""The instances of a service: found by a discovery, dialed, and kept linked.

How it works. `Members` follows the discovery of one service. For each target that it
should reach it has a `Place`, which keeps links with the instance there: one link, or
one with each worker of a group. Every instance with a link is a `Candidate`.

Calls look at two lists. `ready` are the candidates that take calls. `candidates` are
all of them, those included that are ejected or stop. `refresh` makes `ready` anew. It
is called when something has changed, and when an ejection ends.

A service links with `max_instances` targets at most. Which ones is random, but it stays
the same: targets have an order of their own in every node. A target that cannot be
reached makes room for the next one, and is still dialed now and then.

A target that the discovery does not name any more gets no calls from then on. Its links
are closed FORGET_SECONDS later, unless it has come back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Protocol

from fastnode.backoff import Backoff
from fastnode.discovery.target import normal_targets
from fastnode.dispatch.user_code import end_program, is_cancelled, name_of, text_of
from fastnode.errors import (
    DuplicateLink,
    FastnodeError,
    HandshakeError,
    NoInstance,
    Side,
)
from fastnode.limits import CANCEL_SECONDS, FORGET_SECONDS, SERVICE_DIALS
from fastnode.log_limit import LogLimit
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
#: How long a place waits for another worker of a group after it reached one that it
#: knows already. The kernel chooses the worker, so a few dials are needed.
NEXT_WORKER_SECONDS: Final = 0.05


class ServiceNode(Protocol):
    """What a service needs of its node."""

    @property
    def name(self) -> str:
        """``name@host``."""

    @property
    def instance(self) -> str:
        """The instance id of the node, 32 hexadecimal digits."""

    def begin(self, work: Any) -> asyncio.Task[Any]:
        """Run a coroutine as a task, in the context of the node."""

    async def dial_member(
        self,
        target: Target,
        service: str,
        server_name: str | None,
        *,
        additional: bool,
    ) -> Link:
        """Return a link with the instance at a target, if it belongs to the service.

        Args:
            additional: a link with another worker of the group than those that are
                linked already.

        Raises:
            DuplicateLink: the worker that answered is linked already.
            FastnodeError: no link.
        """

    def link_with(self, name: str, instance: str) -> Link | None:
        """Return the link that is up with one instance."""

    def workers_of(self, link: Link) -> int:
        """Return how many workers the group of a peer has; 1: it is alone."""

    def release(self, link: Link) -> None:
        """Close a link that a service has dialed, if no other service uses it."""


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
        self.task = members.node.begin(self._run())

    @property
    def is_down(self) -> bool:
        """Whether no instance can be reached here, as far as is known."""
        return self.error is not None and not self.candidates

    def wake(self) -> None:
        """Something has changed: look again."""
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def _run(self) -> None:
        backoff = Backoff()
        pause = 0.0
        while True:
            self._replace_links()
            if not self.wanted:
                await self._sleep(FORGET_SECONDS)
                if not self.wanted:
                    break
            elif len(self._lasting()) >= self._workers():
                backoff, pause = Backoff(), 0.0
                await self._sleep(None)
            elif pause:
                # A link that ends, or news of the target, cut the pause short.
                await self._sleep(pause)
                pause = 0.0
            else:
                pause = await self._dial(backoff)
        self._members.removed(self)

    def _workers(self) -> int:
        """How many links there should be."""
        counts = (self._members.node.workers_of(each.link) for each in self._linked())
        return max(counts, default=1)

    def _linked(self) -> list[Any]:
        return [each for each in self.candidates if each.link is not None]

    def _lasting(self) -> list[Candidate]:
        """The candidates that do not stop."""
        return [
            each
            for each in self.candidates
            if each.link is not None and not each.link.closed and not each.link.leaving
        ]

    def _replace_links(self) -> None:
        """Take the links that have succeeded others; forget candidates without one."""
        for each in tuple(self.candidates):
            if each.link is not None and each.link.closed:
                each.link = self._members.node.link_with(each.name, each.instance)
            if each.link is None:
                self.candidates.remove(each)
                self._members.lost(each)

    async def _sleep(self, seconds: float | None) -> None:
        """Wait until a link ends, `wake` is called, or the time is over."""
        self._wake = asyncio.get_running_loop().create_future()
        ends = [each.link.protocol.gone for each in self._linked()]
        await asyncio.wait(
            [self._wake, *ends], timeout=seconds, return_when=asyncio.FIRST_COMPLETED
        )
        self._wake = None

    async def _dial(self, backoff: Backoff) -> float:
        """Dial once. Return how long to wait before the next dial, seconds."""
        members = self._members
        additional = bool(self.candidates)
        try:
            async with members.turn:
                members.dials += 1
                link = await members.node.dial_member(
                    self.target,
                    members.service,
                    members.server_name,
                    additional=additional,
                )
        except DuplicateLink as error:
            # Another worker of the group than the one that is missing has answered. Or
            # two targets lead to one instance, whose link another place has.
            self.error = None if additional else error
            pause = max(NEXT_WORKER_SECONDS, backoff.pause() if not additional else 0)
        except FastnodeError as error:
            self.error = error.with_traceback(None)
            pause = backoff.pause(getattr(error, "retry_after", 0.0))
        except BaseException as error:
            if is_cancelled(error) or isinstance(error, GeneratorExit):
                raise
            self.error = HandshakeError(
                f"dialing {self.target.host}:{self.target.port} failed: "
                f"{name_of(error)}: {text_of(error)}",
                side=Side.LOCAL,
                hint="see the traceback in the log; a later attempt follows",
            )
            log.error(
                "service %s: dialing %s failed",
                members.service,
                self.target,
                exc_info=error,
            )
            end_program(error)
            pause = backoff.pause()
        else:
            self._take(link)
            pause = 0.0
        self.tried = True
        if self.error is not None and not additional:
            self.failures += 1
            members.failed(self)
        return pause

    def _take(self, link: Link) -> None:
        """A link has come up."""
        self.error = None
        self.failures = 0
        for each in self.candidates:
            if each.instance == link.peer.instance and each.name == link.peer.name:
                each.link = link
                self._members.changed()
                return
        candidate = Candidate(
            link.peer.name, link.peer.instance, self.target.weight / USUAL_WEIGHT
        )
        candidate.link = link
        candidate.address = (self.target.host, self.target.port)
        self.candidates.append(candidate)
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
        server_name: the host that certificates have to cover; None: they have to name
            the service.
        discovery: names the targets.
        max_instances: how many targets to reach.
        on_change: called when the candidates may have changed.
    """

    def __init__(
        self,
        node: ServiceNode,
        service: str,
        server_name: str | None,
        discovery: Discovery,
        max_instances: int,
        on_change: Callable[[], None],
    ) -> None:
        self.node = node
        self.service = service
        self.server_name = server_name
        self._discovery = discovery
        self._most = max_instances
        self._on_change = on_change
        self.outliers = Outliers(monotonic())
        self.turn = asyncio.Semaphore(SERVICE_DIALS)
        #: How many dials there were, and how many of them gave no link.
        self.dials = 0
        self.dials_failed = 0
        #: Whether the discovery has named the targets at least once.
        self.answered = False
        #: Why the discovery does not answer; None if it does.
        self.discovery_error: BaseException | None = None
        self._targets: tuple[Target, ...] = ()
        self._places: dict[tuple[str, int], Place] = {}
        self._seed = f"{node.instance} {service}".encode()
        self._settled = False
        self._began: float | None = None
        self._change: asyncio.Future[None] | None = None
        self._limit = LogLimit(log)
        self._following = node.begin(self._follow())

    # --- what calls ask ------------------------------------------------------------

    def candidates(self) -> list[Candidate]:
        """Return all instances that have a link and that are wanted."""
        return [
            each
            for place in self._places.values()
            if place.wanted
            for each in place.candidates
        ]

    def ready(self, now: float) -> list[Candidate]:
        """Return the instances that take calls: those that stop only if there are no
        others, and those that are ejected only if there are none at all."""
        ready, leaving, ejected = self._sorted(now)
        return ready or leaving or ejected

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
        if leaving:
            # Their targets may have new instances soon.
            for place in self._places.values():
                if any(each in leaving for each in place.candidates):
                    place.wake()
        return ready, leaving, ejected

    @property
    def settled(self) -> bool:
        """Whether every target of the first answer was tried once. Before that a key
        might find another instance than later."""
        if not self._settled:
            self._settled = self.answered and all(
                place.tried or place.candidates for place in self._places.values()
            )
        return self._settled

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
        if not all(place.is_down for place in wanted):
            return None
        last = wanted[-1]
        text = f"none of {len(wanted)} targets can be reached; {_at(last.target)}"
        return self._no_instance(text, last.error)

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
        """A new instance has a link. It warms up if others have worked for a while."""
        now = monotonic()
        if self._began is None:
            self._began = now
        elif now - self._began > 1.0 and len(self.candidates()) > 1:
            candidate.warm_up(now)
        self.changed()

    def lost(self, candidate: Candidate) -> None:
        """An instance has no link any more."""
        self.outliers.forget(candidate)
        self.changed()

    def failed(self, place: Place) -> None:
        """A dial of a target without a link has failed."""
        self.dials_failed += 1
        self._limit.say(
            logging.WARNING,
            f"{place.target.host} {place.target.port}",
            "service %s: no link with %s; trying again: %s",
            self.service,
            _at(place.target),
            place.error,
        )
        if place.failures == MANY_FAILURES:
            self._choose_places()
        self.changed()

    def removed(self, place: Place) -> None:
        """A target that is not wanted any more has ended."""
        address = (place.target.host, place.target.port)
        if self._places.get(address) is place:
            del self._places[address]
        for each in place.candidates:
            self.outliers.forget(each)
            if each.link is not None:
                self.node.release(each.link)
        self.changed()

    def changed(self) -> None:
        """Tell those who wait for an instance."""
        self._on_change()
        if self._change is not None and not self._change.done():
            self._change.set_result(None)

    # --- discovery -----------------------------------------------------------------

    async def _follow(self) -> None:
        backoff = Backoff()
        while True:
            began = monotonic()
            try:
                watch = self._discovery.watch(self.service)
                try:
                    async for targets in watch:
                        self._set(targets)
                finally:
                    if (close := getattr(watch, "aclose", None)) is not None:
                        await close()
                problem: BaseException | None = None
            except BaseException as error:
                if is_cancelled(error) or isinstance(error, GeneratorExit):
                    raise
                problem = error
                end_program(error)
            self._stopped_following(problem)
            backoff.was_up(monotonic() - began)
            await asyncio.sleep(backoff.pause())

    def _stopped_following(self, problem: BaseException | None) -> None:
        self.discovery_error = problem or RuntimeError("its iterator ended")
        self._limit.say(
            logging.WARNING,
            "discovery",
            "service %s: the discovery %s; the last targets stay, and it is asked "
            "again",
            self.service,
            "ended" if problem is None else f"failed: {text_of(problem)}",
            error=problem,
        )
        self.changed()

    def _set(self, targets: Sequence[Target]) -> None:
        """The discovery has named the targets."""
        self._targets = tuple(in_order(normal_targets(targets), self._seed))
        self.answered = True
        self.discovery_error = None
        self._choose_places()
        self.changed()

    def _choose_places(self) -> None:
        """Decide which targets to reach, and tell their places."""
        wanted: dict[tuple[str, int], Target] = {}
        good = 0
        for target in self._targets:
            address = (target.host, target.port)
            place = self._places.get(address)
            if good >= self._most or len(wanted) >= 2 * self._most:
                break
            wanted[address] = target
            good += place is None or place.failures < MANY_FAILURES
        for address, place in self._places.items():
            if place.wanted != (address in wanted):
                place.wanted = address in wanted
                place.wake()
        for address, target in wanted.items():
            known = self._places.get(address)
            if known is None:
                self._places[address] = Place(self, target)
            elif known.target != target:
                known.target = target
                for each in known.candidates:
                    each.weight = target.weight / USUAL_WEIGHT

    # --- the end -------------------------------------------------------------------

    async def close(self) -> None:
        """Dial no more, and let go of the links."""
        tasks = [self._following, *(place.task for place in self._places.values())]
        for task in tasks:
            task.cancel()
        for place in tuple(self._places.values()):
            self.removed(place)
        # A discovery that ignores its cancellation holds up nobody.
        await asyncio.wait(tasks, timeout=CANCEL_SECONDS)


def _at(target: Target) -> str:
    host = f"[{target.host}]" if ":" in target.host else target.host
    return f"{host}:{target.port}"
