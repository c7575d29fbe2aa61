"""Service: calls to whichever instance can take them.

How it works. A call chooses a candidate, and makes the call on its link. That is all
in the usual case, and it costs little more than the same call on a link. Everything
else is in `fastnode.service.attempts`: waiting for an instance, retries, hedges.

`Members` (fastnode.service.members) keeps the links. This class keeps a copy of the
list of candidates that take calls, `ready`. The copy is made anew when the members tell
of a change, when an ejection ends, and when the chosen link turns out to be closed or
about to stop.
"""

cimport cython
from fastnode.link.clock cimport monotonic
from fastnode.link.link cimport Link, lane_of
from fastnode.link.protocol cimport LinkProtocol
from fastnode.service.balancer cimport Balancer, Candidate
from fastnode.wire.frame cimport DATA_LANE

import os

from fastnode.dispatch.current import inherited_timeout
from fastnode.errors import (
    Busy,
    ConfigError,
    FastnodeError,
    LinkClosed,
    LinkLost,
    Side,
    renewed,
)
from fastnode.limits import BUSY_SECONDS, MAX_INSTANCES
from fastnode.names import check_timeout
from fastnode.service.attempts import (
    Ask,
    broadcast,
    check_idempotent,
    run,
    send_message,
    tell_begun,
    wait_ready,
)
from fastnode.service.members import Members
from fastnode.service.retry import Retry, RetryBudget, is_elsewhere, is_fault
from fastnode.service.status import ServiceStats

# Of the id of a request, which its retries share.
cdef int ID_BYTES = 16


@cython.final
cdef class Service:
    """All instances of a service, as one thing to call. Made by `Node.service`.

    It follows the discovery, keeps links with the instances, and sends each call to one
    of them. It can be used as ``async with``.

    Attributes:
        name: the name of the service: the part before the @ of its node names.
    """

    def __init__(
        self,
        node,
        str name not None,
        discovery,
        *,
        policy="least_outstanding",
        max_instances=MAX_INSTANCES,
        retry=None,
    ):
        self.name = name
        self.retry = Retry() if retry is None else retry
        self.balancer = Balancer(policy, int.from_bytes(os.urandom(8), "big"))
        self.budget = RetryBudget(
            self.retry.budget, self.retry.budget_per_second, monotonic()
        )
        self.ready = []
        self.stale = True
        self.members = Members(
            node, name, discovery, max_instances, self.changed
        )

    # --- what users call -------------------------------------------------------------

    async def call(
        self,
        str endpoint not None,
        payload,
        *,
        timeout=None,
        key=None,
        idempotent=False,
        attempt_timeout=None,
        hedge_after=None,
        wait_for_ready=False,
        priority=None,
        metadata=None,
        bint inherit_deadline=True,
    ):
        """Call an endpoint of one instance and return its reply.

        A call that certainly was not begun is sent to another instance, as often as
        `Retry.not_begun` says. Retries keep the metadata, and count `Message.attempt`.

        Args:
            endpoint: as for `Link.call`.
            payload: as for `Link.call`.
            timeout: seconds for everything: waiting for an instance, dialing, retries,
                the reply. None waits without an end.
            key: bytes or str. Calls with the same key go to the same instance, as long
                as the instances stay the same.
            idempotent: the handler may run twice. Then the call is sent again also if
                it may have begun, within the budget of `Retry`. All attempts have the
                same `Message.id`.
            attempt_timeout: seconds for each attempt of an idempotent call.
            hedge_after: seconds after which an idempotent call that has no reply is
                sent to a second instance too. The first reply counts, and the other
                attempt is cancelled.
            wait_for_ready: wait for an instance even if the discovery names none, or
                none can be reached.
            priority: as for `Link.call`.
            metadata: as for `Link.call`.
            inherit_deadline: as for `Link.call`.

        Raises:
            NoInstance: the discovery names no target, or no target can be reached.
            CallTimeout: not done in time.
            Busy: the instances that were tried have refused the call.
            LinkClosed: the link ended, and the call may not be sent again; or the
                service was closed.
            As `Link.call`.
        """
        cdef int lane = DATA_LANE if priority is None else lane_of(priority)
        cdef Candidate candidate = None
        cdef double began
        failure = None
        self.calls += 1
        # The usual case is here, because it is measured: an instance is there, and the
        # first attempt is the last one.
        if (
            idempotent is False
            and attempt_timeout is None
            and hedge_after is None
            # The caller may change other payloads before a second attempt.
            and type(payload) is bytes
            and not self.closed
        ):
            if key is None:
                candidate = self.pick(None)
            elif self.settled:
                candidate = self.pick(as_key(key))
        if candidate is None:
            began = monotonic()
        else:
            began = self.now
            candidate.calls += 1
            candidate.outstanding += 1
            try:
                reply = await candidate.link.calls.call(
                    endpoint,
                    payload,
                    timeout,
                    False,
                    lane,
                    metadata,
                    inherit_deadline,
                    None,
                    1,
                )
                candidate.outstanding -= 1
                candidate.consecutive = 0
                return reply
            except BaseException as error:
                candidate.outstanding -= 1
                if isinstance(error, FastnodeError):
                    self.note(candidate, error)
                if not is_elsewhere(error):
                    self.failures += 1
                    raise
                failure = error
        ask = self.new_ask(
            endpoint,
            payload,
            timeout,
            key,
            idempotent,
            attempt_timeout,
            hedge_after,
            wait_for_ready,
            lane,
            metadata,
            inherit_deadline,
            False,
            False,
            began,
        )
        if failure is not None:
            ask.begun(candidate, failure)
        return await self.finish(ask)

    async def request(
        self,
        str endpoint not None,
        payload,
        *,
        timeout=None,
        key=None,
        idempotent=False,
        attempt_timeout=None,
        hedge_after=None,
        wait_for_ready=False,
        priority=None,
        metadata=None,
        bint inherit_deadline=True,
    ):
        """Call an endpoint of one instance and return a `Reply`, which also tells which
        instance has replied and how many attempts there were.

        Args:
            As for `call`.

        Raises:
            As `call`.
        """
        cdef int lane = lane_of(priority)
        self.calls += 1
        return await self.finish(
            self.new_ask(
                endpoint,
                payload,
                timeout,
                key,
                idempotent,
                attempt_timeout,
                hedge_after,
                wait_for_ready,
                lane,
                metadata,
                inherit_deadline,
                False,
                True,
                monotonic(),
            )
        )

    async def send(
        self,
        str endpoint not None,
        payload,
        *,
        confirm=False,
        timeout=None,
        key=None,
        idempotent=False,
        wait_for_ready=False,
        priority=None,
        metadata=None,
        bint inherit_deadline=True,
    ):
        """Send a one-way message to one instance.

        Without `confirm` it waits until the link has room for the message. The message
        can be lost with the link, as with `Node.send`.

        Args:
            confirm: wait until the instance has handed the message to its handler. Then
                it is sent again as `call` is.
            timeout: seconds for everything.
            As for `call`.

        Raises:
            As `call`; without `confirm` only for reasons of this side.
        """
        cdef int lane = lane_of(priority)
        if confirm:
            self.calls += 1
            await self.finish(
                self.new_ask(
                    endpoint,
                    payload,
                    timeout,
                    key,
                    idempotent,
                    None,
                    None,
                    wait_for_ready,
                    lane,
                    metadata,
                    inherit_deadline,
                    True,
                    False,
                    monotonic(),
                )
            )
            return
        self.messages += 1
        await send_message(
            self,
            endpoint,
            payload,
            None if timeout is None else check_timeout(timeout),
            as_key(key),
            wait_for_ready,
            priority,
            metadata,
        )

    async def broadcast(
        self,
        str endpoint not None,
        payload,
        *,
        timeout=None,
        priority=None,
        metadata=None,
        bint inherit_deadline=True,
    ):
        """Call an endpoint of every instance at once.

        Each instance gets one attempt. Targets that cannot be reached have a result
        too, with the error of their last dial.

        Args:
            timeout: seconds for everything.
            As for `call`.

        Returns:
            A list with a `BroadcastResult` for each instance.

        Raises:
            NoInstance: the discovery names no target.
            CallTimeout: the targets are not known in time.
        """
        if self.closed:
            raise self.closed_error()
        ask = self.make_ask(
            endpoint,
            payload,
            timeout,
            None,
            False,
            None,
            None,
            False,
            lane_of(priority),
            metadata,
            inherit_deadline,
            False,
            False,
            monotonic(),
        )
        return await broadcast(self, ask)

    async def wait_ready(self, n=1, timeout=None):
        """Wait until so many instances can take calls.

        Args:
            n: how many; 1 or more.
            timeout: seconds; None waits without an end.

        Raises:
            CallTimeout: there were not so many in time. Its ``__cause__`` says why, if
                no instance can be reached.
            ConfigError: `n` is no whole number or is below 1, or `timeout` cannot work.
            LinkClosed: the service was closed.
        """
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise ConfigError(f"n is {n!r}", hint="it is a number of instances, from 1")
        await wait_ready(self, n, timeout)

    @property
    def instances(self):
        """An `InstanceStatus` for each instance, and for each target where none has
        answered yet."""
        return self.members.statuses()

    @property
    def stats(self):
        """A `ServiceStats` snapshot of the totals."""
        return ServiceStats(
            calls=self.calls,
            messages=self.messages,
            failures=self.failures,
            retries=self.retries,
            hedges=self.hedges,
            budget_exhausted=self.budget_exhausted,
            ejections=self.members.outliers.ejections,
            dials=self.members.dials,
            dials_failed=self.members.dials_failed,
        )

    async def close(self):
        """Stop following the discovery, and close the links that only this service
        uses, in order: calls under way are answered."""
        self.closed = True
        self.stale = True
        self.ready = []
        self.members.changed()
        await self.members.close()

    async def __aenter__(self):
        return self

    async def __aexit__(self, exc_type, exc, traceback):
        await self.close()

    def __repr__(self):
        how = "closed" if self.closed else f"{len(self.members.candidates())} instances"
        return f"<Service {self.name}, {how}>"

    # --- a call --------------------------------------------------------------------

    async def finish(self, ask):
        """Make a call until an attempt settles it, see `fastnode.service.attempts`."""
        try:
            reply = await run(self, ask)
        except BaseException as error:
            self.failures += 1
            tell_begun(ask, error)
            raise
        # The id that its attempts share does not make it a request.
        if ask.request_id is None or ask.wants_reply:
            return reply
        return reply.payload

    def new_ask(self, *arguments):
        """Return what `make_ask` returns; a failure is that of a call."""
        try:
            return self.make_ask(*arguments)
        except BaseException:
            self.failures += 1
            raise

    def make_ask(
        self,
        endpoint,
        payload,
        timeout,
        key,
        idempotent,
        attempt_timeout,
        hedge_after,
        wait_for_ready,
        int lane,
        metadata,
        bint inherit,
        bint confirm,
        bint wants_reply,
        double began,
    ):
        """Return what `fastnode.service.attempts` has to know of a call.

        Args:
            began: when the call began, seconds.

        Raises:
            ConfigError: an argument cannot work.
            CallTimeout: the handler that makes the call has no time left.
        """
        if not idempotent:
            check_idempotent(attempt_timeout, hedge_after)
        deadline = None
        if timeout is not None:
            timeout = check_timeout(timeout)
            deadline = began + timeout
        left = inherited_timeout(None, self.name) if inherit else None
        if left is not None and (deadline is None or monotonic() + left < deadline):
            timeout, deadline = left, monotonic() + left
        if type(payload) in (bytearray, memoryview):
            # The caller may change it while the call waits for another attempt.
            payload = bytes(payload)
        return Ask(
            endpoint=endpoint,
            payload=payload,
            timeout=timeout,
            deadline=deadline,
            key=as_key(key),
            idempotent=bool(idempotent),
            attempt_timeout=(
                None if attempt_timeout is None else check_timeout(attempt_timeout)
            ),
            hedge_after=None if hedge_after is None else check_timeout(hedge_after),
            wait_for_ready=bool(wait_for_ready),
            lane=lane,
            metadata=metadata,
            inherit=inherit,
            confirm=confirm,
            wants_reply=wants_reply,
            # Attempts that may both run have to be known as one.
            request_id=os.urandom(ID_BYTES) if wants_reply or idempotent else None,
        )

    async def attempt(self, Candidate candidate not None, ask, timeout, int number):
        """Make one attempt of a call.

        Args:
            ask: the call.
            timeout: seconds for this attempt, or None.
            number: of the attempt, from 1.
        """
        cdef Link link = candidate.link
        if link is None:
            # It was lost since it was chosen.
            raise LinkLost(
                f"the link with {candidate.name} was lost before the call was sent",
                side=Side.REMOTE,
                begun="no",
            )
        candidate.calls += 1
        candidate.outstanding += 1
        try:
            reply = await link.calls.call(
                ask.endpoint,
                ask.payload,
                timeout,
                ask.confirm,
                ask.lane,
                ask.metadata,
                ask.inherit,
                ask.request_id,
                number,
            )
        except FastnodeError as error:
            self.note(candidate, error)
            raise
        finally:
            candidate.outstanding -= 1
        candidate.consecutive = 0
        return reply

    def note(self, Candidate candidate not None, error):
        """An attempt has failed: count it, and leave the instance out if it fails too
        often."""
        now = monotonic()
        candidate.last_error = renewed(error)
        if isinstance(error, Busy):
            candidate.busy_until = now + BUSY_SECONDS
        if isinstance(error, LinkClosed):
            self.stale = True
        if not is_fault(error):
            return
        candidate.failures += 1
        candidate.consecutive += 1
        if self.members.outliers.failed(candidate, self.members.candidates(), now):
            self.stale = True

    # --- choosing --------------------------------------------------------------------

    def changed(self):
        """The candidates may have changed."""
        self.stale = True

    cdef Candidate pick(self, bytes key):
        """Return the instance for a call; None if there is none at the moment.

        Raises:
            LinkClosed: the service was closed.
        """
        cdef double now = monotonic()
        cdef Candidate candidate
        cdef int _
        self.now = now
        if self.stale or now >= self.fresh_until:
            self.refresh(now)
        for _ in range(2):
            if key is None:
                candidate = self.balancer.choose(self.ready, now)
            else:
                candidate = self.balancer.choose_by_key(self.ready, key, now)
            if candidate is None or is_usable(candidate.link) or self.last_choice:
                break
            self.refresh(now)
        return candidate

    cdef int refresh(self, double now) except -1:
        """Make the list of instances that take calls anew."""
        if self.closed:
            raise self.closed_error()
        self.ready = self.members.ready(now)
        self.settled = self.members.settled
        # They stop, or are ejected: no better ones are there. Look again soon.
        self.last_choice = bool(self.ready) and not is_usable(
            (<Candidate>self.ready[0]).link
        )
        self.stale = self.last_choice
        end = self.members.outliers.next_return(now)
        self.fresh_until = end if end is not None else 1e300
        return 0

    def pick_other(self, bytes key, tried):
        """Return an instance for the next attempt: one that was not tried, if there is
        one; else None."""
        cdef double now = monotonic()
        if self.stale or now >= self.fresh_until:
            self.refresh(now)
        others = [each for each in self.ready if each not in tried]
        return self.balancer.pick(others, now, key)

    def take_from_budget(self):
        """Whether the budget allows one more attempt of an idempotent call."""
        if self.budget.take(self.calls, monotonic()):
            return True
        self.budget_exhausted += 1
        return False

    def closed_error(self):
        """Return the error for a service that was closed."""
        return LinkClosed(
            f"service {self.name} was closed",
            side=Side.LOCAL,
            hint="make a new one: node.service(...)",
            begun="no",
        )


cdef bint is_usable(Link link) except -1:
    """Whether new calls may take a link."""
    if link is None or link.outbox.closed is not None:
        return False
    return not (<LinkProtocol>link.protocol).extensions.leaving


cdef bytes as_key(object key):
    """Return the key of a call as bytes, or None.

    Raises:
        ConfigError: it is neither bytes nor str.
    """
    if key is None or type(key) is bytes:
        return key
    if isinstance(key, str):
        return key.encode()
    if isinstance(key, (bytes, bytearray, memoryview)):
        return bytes(key)
    raise ConfigError(
        f"the key of a call is a {type(key).__name__}", hint="use bytes or a str"
    )
