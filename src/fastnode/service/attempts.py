"""What a call of a service does if its first attempt does not settle it.

It waits for an instance, is sent again, or is sent to a second instance meanwhile (a
hedge).

The rules of retries are those of `fastnode.service.retry`:

- A call that certainly has not begun is sent to another instance, `Retry.not_begun`
  times at most. If every instance has refused it as busy, it is not sent again.
- A call that may have begun is sent again only if it is idempotent. Then
  `Retry.idempotent` and the budget of the service bound the retries.
- Hedges take from the same budget.

All attempts share one deadline.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Collection
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

from fastnode.errors import (
    Busy,
    CallTimeout,
    ConfigError,
    FastnodeError,
    LinkClosed,
    NoInstance,
    SendQueueFull,
    Side,
)
from fastnode.link.link import room
from fastnode.names import check_timeout
from fastnode.service.retry import is_elsewhere, may_have_begun
from fastnode.service.status import BroadcastResult

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastnode.options import Priority
    from fastnode.service.balancer import Candidate
    from fastnode.service.members import Members
    from fastnode.service.retry import Retry

__all__ = [
    "Ask",
    "broadcast",
    "check_idempotent",
    "find",
    "run",
    "send_message",
    "tell_begun",
    "wait_ready",
]


class Service(Protocol):
    """What the functions here need of `fastnode.service.service.Service`."""

    @property
    def name(self) -> str: ...
    @property
    def members(self) -> Members: ...
    @property
    def retry(self) -> Retry: ...
    @property
    def closed(self) -> bool: ...

    retries: int
    hedges: int

    async def attempt(
        self, candidate: Candidate, ask: Ask, timeout: float | None, number: int, /
    ) -> Any:
        """Make one attempt."""

    def pick_other(
        self, key: bytes | None, tried: Collection[Candidate], /
    ) -> Candidate | None:
        """Return an instance that takes calls and was not tried."""

    def note(self, candidate: Candidate, error: FastnodeError, /) -> None:
        """An attempt has failed."""

    def take_from_budget(self) -> bool:
        """Whether the budget allows one more attempt of an idempotent call."""

    def closed_error(self) -> LinkClosed:
        """Return the error for a service that was closed."""


@dataclass(slots=True)
class Ask:
    """A call, and how far it has come.

    Attributes:
        endpoint, payload, key, idempotent, attempt_timeout, hedge_after,
            wait_for_ready, metadata: as for `Service.call`.
        timeout: seconds that the caller gave, or that its own deadline leaves.
        deadline: when they are over, in the time of `time.monotonic`.
        lane: of the link, by the priority.
        inherit: whether the deadline of a handler bounds the call.
        confirm: whether it is a message that waits for its confirmation.
        wants_reply: whether the caller wants a `Reply`.
        request_id: which all attempts share; None if the call needs none.
        attempts: attempts so far.
        tried: the instances that were tried.
        failure: of the last attempt.
        retries: attempts that were sent elsewhere, because the one before certainly had
            not begun.
        repeats: attempts that were sent although the one before may have begun.
        may_run: whether an attempt that failed may have begun.
    """

    endpoint: str
    payload: bytes | bytearray | memoryview
    timeout: float | None
    deadline: float | None
    key: bytes | None
    idempotent: bool
    attempt_timeout: float | None
    hedge_after: float | None
    wait_for_ready: bool
    lane: int
    metadata: Mapping[str, str] | None
    inherit: bool
    confirm: bool
    wants_reply: bool
    request_id: bytes | None
    attempts: int = 0
    tried: list[Candidate] = field(default_factory=list)
    failure: FastnodeError | None = None
    retries: int = 0
    repeats: int = 0
    may_run: bool = False

    def begun(self, candidate: Candidate, failure: FastnodeError) -> None:
        """The first attempt was made before, and has failed."""
        self.attempts = 1
        self.tried.append(candidate)
        self.failure = failure

    def left(self) -> float | None:
        """Return the seconds until the deadline, at least 0, or None."""
        return left_until(self.deadline)


def left_until(deadline: float | None) -> float | None:
    """Return the seconds until a deadline, at least 0, or None."""
    return None if deadline is None else max(deadline - monotonic(), 0.0)


def check_idempotent(attempt_timeout: object, hedge_after: object) -> None:
    """Check the options of a call that is not idempotent.

    Raises:
        ConfigError: one of them would send it twice.
    """
    options = {"attempt_timeout": attempt_timeout, "hedge_after": hedge_after}
    for name, value in options.items():
        if value is not None:
            raise ConfigError(
                f"{name} would send a call again that may have begun",
                hint=f"give {name} together with idempotent=True, if the handler may "
                "run twice",
            )


async def run(service: Service, ask: Ask) -> Any:
    """Make a call until an attempt settles it, and return the reply.

    Raises:
        As `Service.call`.
    """
    while True:
        if ask.failure is not None and not _goes_on(service, ask, ask.failure):
            raise ask.failure
        candidate = await _next_instance(service, ask)
        try:
            if ask.hedge_after is None:
                return await _attempt(service, ask, candidate)
            return await _hedged(service, ask, candidate)
        except FastnodeError as error:
            ask.failure = error


def tell_begun(ask: Ask, error: BaseException) -> None:
    """Correct `begun` of the error that a caller gets: the last attempt may not have
    begun, and an earlier one may."""
    if ask.may_run and isinstance(error, FastnodeError) and error.begun == "no":
        error.begun = "maybe"


def _goes_on(service: Service, ask: Ask, error: FastnodeError) -> bool:
    """Whether the call may be sent again after an attempt has failed."""
    left = ask.left()
    if service.closed or (left is not None and left <= 0):
        return False
    if is_elsewhere(error) and ask.retries < service.retry.not_begun:
        ask.retries += 1
        service.retries += 1
        return True
    if (
        ask.idempotent
        and ask.repeats < service.retry.idempotent
        and may_have_begun(error, service.retry.codes)
        and service.take_from_budget()
    ):
        ask.repeats += 1
        service.retries += 1
        return True
    return False


async def _next_instance(service: Service, ask: Ask) -> Candidate:
    """Return the instance for the next attempt."""
    if ask.failure is None:
        return await find(
            service, ask.key, ask.deadline, ask.timeout, ask.wait_for_ready
        )
    candidate = service.pick_other(ask.key, ask.tried)
    if candidate is not None:
        return candidate
    if isinstance(ask.failure, Busy):
        # Every instance has refused it.
        raise ask.failure
    try:
        # The same instance, on a new link, or one that has just come.
        return await find(
            service, ask.key, ask.deadline, ask.timeout, ask.wait_for_ready
        )
    except (NoInstance, CallTimeout) as error:
        if ask.failure.begun != "no":
            # What the caller has to know is that the handler may have run.
            raise ask.failure from error
        raise


async def find(
    service: Service,
    key: bytes | None,
    deadline: float | None,
    timeout: float | None,
    wait_for_ready: bool,
) -> Candidate:
    """Wait for an instance that can take a call.

    Args:
        key: as for `Service.call`.
        deadline: when to give up, in the time of `time.monotonic`.
        timeout: what the caller gave, for the error.
        wait_for_ready: as for `Service.call`.

    Raises:
        NoInstance: no instance can be reached.
        CallTimeout: the time is over.
        LinkClosed: the service was closed.
    """
    members = service.members
    while True:
        candidate = None
        if key is None or members.settled:
            candidate = service.pick_other(key, ())
        if candidate is not None:
            return candidate
        if service.closed:
            raise service.closed_error()
        hopeless = members.hopeless()
        if hopeless is not None and not wait_for_ready:
            raise hopeless
        left = left_until(deadline)
        if left is not None and left <= 0:
            raise _no_instance_in_time(service, timeout, hopeless)
        await asyncio.wait([members.change()], timeout=left)


def _no_instance_in_time(
    service: Service, timeout: float | None, cause: BaseException | None
) -> CallTimeout:
    error = CallTimeout(
        f"no instance of service {service.name} could take the call within "
        f"{timeout or 0:g} s",
        timeout=timeout,
        side=Side.REMOTE,
        begun="no",
        hint="`instances` of the service says what each one does",
    )
    error.__cause__ = cause
    return error


async def _attempt(service: Service, ask: Ask, candidate: Candidate) -> Any:
    """Make one attempt.

    Raises:
        CallTimeout: the attempt, or the call, took too long.
    """
    ask.attempts += 1
    ask.tried.append(candidate)
    left = ask.left()
    timeout, most = left, ask.attempt_timeout
    if most is not None:
        timeout = most if left is None else min(left, most)
    try:
        return await service.attempt(candidate, ask, timeout, ask.attempts)
    except FastnodeError as error:
        ask.may_run |= error.begun != "no"
        if not isinstance(error, CallTimeout):
            raise
        if left is None or timeout != left or ask.attempts == 1:
            raise
        raise CallTimeout(
            f"no reply from {ask.endpoint!r} of service {service.name} within "
            f"{ask.timeout:g} s, after {ask.attempts} attempts",
            timeout=ask.timeout,
            peer=error.peer,
            side=error.side,
            begun=error.begun,
        ) from error


async def _hedged(service: Service, ask: Ask, candidate: Candidate) -> Any:
    """Make an attempt, and a second one on another instance if the first takes long.
    The first reply counts.

    Raises:
        The error of the attempt that failed last.
    """
    loop = asyncio.get_running_loop()
    first = loop.create_task(_attempt(service, ask, candidate))
    tasks: set[asyncio.Task[Any]] = {first}
    try:
        await asyncio.wait(tasks, timeout=ask.hedge_after)
        if not first.done():
            second = service.pick_other(ask.key, ask.tried)
            if second is not None and service.take_from_budget():
                service.hedges += 1
                tasks.add(loop.create_task(_attempt(service, ask, second)))
        while True:
            done, waiting = await asyncio.wait(
                tasks, return_when=asyncio.FIRST_COMPLETED
            )
            good = [each for each in done if each.exception() is None]
            if good:
                return good[0].result()
            if not waiting:
                return first.result() if len(tasks) == 1 else done.pop().result()
            tasks = waiting
    finally:
        for each in tasks:
            each.cancel()
        # A cancelled call tells its instance at once; nothing else is waited for.
        await asyncio.gather(*tasks, return_exceptions=True)


async def send_message(
    service: Service,
    endpoint: str,
    payload: bytes | bytearray | memoryview,
    timeout: float | None,
    key: bytes | None,
    wait_for_ready: bool,
    priority: Priority | None,
    metadata: Mapping[str, str] | None,
) -> None:
    """Send a one-way message without confirmation, see `Service.send`."""
    deadline = None if timeout is None else monotonic() + timeout
    size = payload.nbytes if isinstance(payload, memoryview) else len(payload)
    tries = 1 + service.retry.not_begun
    while True:
        candidate = await find(service, key, deadline, timeout, wait_for_ready)
        link = candidate.link
        assert link is not None
        queued = False
        try:
            try:
                link.send(endpoint, payload, priority=priority, metadata=metadata)
                candidate.calls += 1
                wait = link.drain()
            except SendQueueFull:
                wait = room(link, size)
                if not isinstance(payload, bytes):
                    # The caller may change it while it waits.
                    payload = bytes(payload)
            else:
                queued = True
            await _in_time(wait, left_until(deadline), timeout, service.name, queued)
        except LinkClosed as error:
            service.note(candidate, error)
            if queued:
                raise  # it may have left
            error.begun = "no"
            tries -= 1
            if not tries or not is_elsewhere(error):
                raise
        else:
            if queued:
                return


async def _in_time(
    wait: Awaitable[None],
    left: float | None,
    timeout: float | None,
    name: str,
    queued: bool,
) -> None:
    """Wait for room.

    Raises:
        CallTimeout: the time is over.
    """
    try:
        async with asyncio.timeout(left) as scope:
            await wait
    except TimeoutError as error:
        if not scope.expired():
            raise
        raise CallTimeout(
            f"a message to service {name} was not taken within {timeout:g} s",
            timeout=timeout,
            side=Side.REMOTE,
            begun="maybe" if queued else "no",
        ) from error


async def broadcast(service: Service, ask: Ask) -> list[BroadcastResult]:
    """See `Service.broadcast`."""
    members = service.members
    while not members.settled:
        hopeless = members.hopeless()
        if hopeless is not None:
            break
        left = ask.left()
        if left is not None and left <= 0:
            raise _no_instance_in_time(service, ask.timeout, None)
        await asyncio.wait([members.change()], timeout=left)
        if service.closed:
            raise service.closed_error()
    statuses = members.statuses()
    if not statuses:
        hopeless = members.hopeless()
        assert hopeless is not None
        raise hopeless
    by_key = {(each.name, each.instance): each for each in members.candidates()}

    async def one(at: int) -> BroadcastResult:
        status = statuses[at]
        candidate = by_key.get((status.name or "", status.instance or ""))
        if candidate is None or candidate.link is None:
            error = status.last_error
            if not isinstance(error, FastnodeError):
                error = NoInstance(
                    f"there is no link with the instance at {status.address}",
                    side=Side.REMOTE,
                )
            return BroadcastResult(status, error=error)
        try:
            reply = await service.attempt(candidate, ask, ask.left(), 1)
        except FastnodeError as error:
            return BroadcastResult(status, error=error)
        return BroadcastResult(status, reply=reply)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(at)) for at in range(len(statuses))]
    return [task.result() for task in tasks]


async def wait_ready(service: Service, n: int, timeout: float | None) -> None:
    """See `Service.wait_ready`."""
    members = service.members
    timeout = None if timeout is None else check_timeout(timeout)
    deadline = None if timeout is None else monotonic() + timeout
    while len(members.usable(monotonic())) < n:
        if service.closed:
            raise service.closed_error()
        left = left_until(deadline)
        if left is not None and left <= 0:
            count = len(members.usable(monotonic()))
            error = CallTimeout(
                f"service {service.name} has {count} instances that can take calls "
                f"after {timeout:g} s, not {n}",
                timeout=timeout,
                side=Side.REMOTE,
                begun="no",
                hint="`instances` of the service says what each one does",
            )
            raise error from members.hopeless()
        # Nobody tells when an ejection ends.
        back = left_until(members.next_return(monotonic()))
        waits = [each for each in (left, back) if each is not None]
        await asyncio.wait([members.change()], timeout=min(waits, default=None))
