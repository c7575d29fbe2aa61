"""Finds the endpoints that fill the windows of a link, and pauses them.

Nothing is counted for each endpoint as messages come and go. `Windows` calls `suspect`
where it does not grant because too much is held, and `DeliveryQueue` where something
has to wait for the handlers of its lane. Both happen on busy links too, for a moment.
So a timer calls `look` a little later, and only a lane that has not moved since then is
congested. `look` walks over all that the link holds, adds up what each endpoint holds,
and pauses those that hold most, until the rest leaves half of the room free.

Calls of the peer's handlers are not counted and not set aside: the peer does not hold
them back, see `fastnode.dispatch.handler`.
"""

cimport cython
from libc.stdint cimport uint64_t

from fastnode.dispatch.batch cimport Batch, BatchLine
from fastnode.dispatch.batches cimport Batches
from fastnode.dispatch.endpoint cimport Endpoint
from fastnode.dispatch.handler cimport (
    NESTED,
    QUEUED,
    RUNNING,
    Delivery,
    Handlers,
    aside_size,
)
from fastnode.dispatch.paused cimport PausedEndpoint
from fastnode.dispatch.queue cimport DeliveryQueue
from fastnode.dispatch.windows cimport Windows
from fastnode.wire.frame cimport BULK_LANE, DATA_LANE, INNER_LANE, LANES

from collections import deque

from fastnode.limits import (
    CONGESTION_MOST_SECONDS,
    CONGESTION_SECONDS,
    ENDPOINT_DICTIONARY_SIZE,
    MAX_UNDER_WAY_BYTES,
)

cdef Py_ssize_t MOST_PAUSED = ENDPOINT_DICTIONARY_SIZE
cdef uint64_t MOST_UNDER_WAY = MAX_UNDER_WAY_BYTES


@cython.final
cdef class Share:
    """The part of an endpoint in what a link holds."""

    def __init__(self, str name not None):
        self.name = name


@cython.final
cdef class Congestion:
    """Watches the windows and lines of one link."""

    def __init__(
        self,
        Handlers handlers not None,
        DeliveryQueue queue not None,
        Batches batches not None,
    ):
        self.handlers = handlers
        self.queue = queue
        self.batches = batches
        self.windows = handlers.windows
        self.paused = handlers.paused
        self.delay = CONGESTION_SECONDS

    cdef int enable(self) except -1:
        """The peer takes PAUSE and RESUME."""
        self.windows.on_full = self.queue.on_full = self.suspect
        return 0

    def suspect(self):
        """Something does not move. Look again a little later."""
        cdef int lane
        if self.timer is not None:
            return
        # Not again for each message.
        self.windows.on_full = self.queue.on_full = None
        for lane in range(LANES):
            self.granted[lane] = self.windows.granted[lane]
        self.tails = [
            line[len(line) - 1] if line else None for line in self.queue.lanes
        ]
        self.timer = self.handlers.loop.call_later(self.delay, self.look)

    def look(self):
        """See what is congested, and relieve it."""
        cdef int lane
        cdef bint congested
        self.timer = None
        if self.queue.closed:
            return
        try:
            congested = self.find_congested()
            # What is granted below may lead to the next suspicion.
            self.tails = None
            self.enable()
            if not congested:
                self.delay = CONGESTION_SECONDS
            elif self.relieve():
                self.delay = CONGESTION_SECONDS
                for lane in range(LANES):
                    self.windows.grant(lane)
                if self.queue.in_lanes:
                    self.queue.wake()
            else:
                # To walk over it takes time, and did not help.
                self.delay = min(2 * self.delay, CONGESTION_MOST_SECONDS)
        except Exception as error:
            self.handlers.begin_failed(error)

    cdef bint find_congested(self) except? True:
        """Whether a lane, or what waits for its handlers, stands still."""
        cdef Windows windows = self.windows
        cdef Delivery tail
        cdef bint any_lane = False
        cdef int lane
        for lane in range(LANES):
            self.congested[lane] = False
        if windows.shut:
            return False
        for lane in range(INNER_LANE):
            tail = self.tails[DATA_LANE if lane == BULK_LANE else lane]
            self.congested[lane] = (
                windows.owed[lane] >= windows.least_grant(lane)
                and windows.held[lane] > windows.room
                and windows.granted[lane] == self.granted[lane]
            ) or (
                tail is not None
                and tail.state == QUEUED
                and tail.queue is None
                and windows.under_way[lane] > MOST_UNDER_WAY
            )
            any_lane = any_lane or self.congested[lane]
        return any_lane

    cdef bint relieve(self) except? True:
        """Pause endpoints. Whether all lanes have room again."""
        cdef uint64_t[LANES] rest
        cdef dict chosen = {}
        cdef Share share
        cdef PausedEndpoint record
        cdef int lane
        for lane in range(LANES):
            rest[lane] = self.windows.held[lane]
        self.shares = {}
        self.chosen = None
        self.visit_all()
        shares = sorted(self.shares.values(), key=self.weight, reverse=True)
        self.shares = None
        for share in shares:
            if self.relieved(rest) or (
                share.name not in self.paused.by_name
                and self.paused.count >= MOST_PAUSED
            ):
                break
            chosen[share.name] = self.paused.add(share.name)
            for lane in range(LANES):
                rest[lane] -= share.held[lane]
        self.chosen = chosen
        self.visit_all()
        self.visit_lines()
        self.chosen = None
        for record in chosen.values():
            if record.size:
                self.paused.pause(record)
            else:
                self.paused.forget(record)
        for lane in range(LANES):
            rest[lane] = self.windows.held[lane]
        return self.relieved(rest)

    def weight(self, Share share not None):
        """What an endpoint holds of the lanes that are congested."""
        cdef int lane
        return sum([share.held[lane] for lane in range(LANES) if self.congested[lane]])

    cdef bint relieved(self, uint64_t *rest) noexcept:
        """Whether every congested lane could be granted again, if it held so much."""
        cdef int lane
        for lane in range(LANES):
            if self.congested[lane] and rest[lane] > self.windows.room // 2:
                return False
        return True

    # --- all that the link holds ----------------------------------------------------

    cdef int visit_all(self) except -1:
        """Count what each endpoint holds, or set it aside, without what was set aside
        before."""
        cdef Endpoint endpoint
        cdef Delivery delivery
        cdef Batch batch
        cdef BatchLine line
        for delivery in self.handlers.tasks:
            self.visit(delivery)
            if delivery.batch is not None:
                self.visit_batch(delivery.batch)
        for waiting in self.queue.lanes:
            if waiting and self.chosen is None:
                for delivery in waiting:
                    self.visit(delivery)
        if self.queue.at_endpoints:
            for endpoint in self.handlers.registry.by_name.values():
                if endpoint.most:
                    for delivery in endpoint.waiting:
                        if delivery.queue is self.queue:
                            self.visit(delivery)
        if self.queue.stalled is not None:
            for waiting in self.queue.stalled.values():
                for delivery in waiting:
                    self.visit(delivery)
        for batch in self.batches.gathered.values():
            self.visit_batch(batch)
        for line in self.batches.lines.values():
            for batch in line.waiting:
                self.visit_batch(batch)
        return 0

    cdef int visit(self, Delivery delivery) except -1:
        cdef PausedEndpoint record
        cdef Share share
        if (
            delivery.aside
            or delivery.endpoint is None
            or delivery.flags & NESTED
            or delivery.lane >= INNER_LANE
        ):
            return 0
        if self.chosen is None:
            share = self.share_of(delivery.endpoint.name)
            share.held[delivery.lane] += delivery.size
            return 0
        record = self.chosen.get(delivery.endpoint.name)
        return 0 if record is None else self.set_aside(delivery, record)

    cdef int visit_batch(self, Batch batch) except -1:
        cdef PausedEndpoint record
        cdef Share share
        cdef uint64_t size = 0
        cdef int lane
        if self.chosen is None:
            share = self.share_of(batch.endpoint.name)
            for lane in range(INNER_LANE):
                share.held[lane] += batch.held[lane]
            return 0
        record = self.chosen.get(batch.endpoint.name)
        if record is None:
            return 0
        for lane in range(INNER_LANE):
            size += batch.held[lane]
        if size == 0 or not self.paused.fits(size):
            return 0
        for lane in range(INNER_LANE):
            self.windows.held[lane] -= batch.held[lane]
            batch.held[lane] = 0
        batch.aside += size
        record.size += size
        self.paused.size += size
        return 0

    cdef int visit_lines(self) except -1:
        """What waits for the handlers of its lane, and is for a chosen endpoint, waits
        in a line of its endpoint from now on."""
        cdef Delivery delivery
        cdef PausedEndpoint record
        cdef int line
        for line in range(LANES):
            if not self.queue.lanes[line]:
                continue
            rest = deque()
            for delivery in self.queue.lanes[line]:
                record = None
                if not delivery.flags & NESTED:
                    record = self.chosen.get(delivery.endpoint.name)
                if record is None:
                    rest.append(delivery)
                    continue
                self.set_aside(delivery, record)
                if record.line is None:
                    record.line = deque()
                record.line.append(delivery)
                self.paused.in_lines += 1
            self.queue.lanes[line] = rest
        return 0

    cdef Share share_of(self, str name):
        cdef Share share = self.shares.get(name)
        if share is None:
            share = self.shares[name] = Share(name)
        return share

    cdef int set_aside(self, Delivery delivery, PausedEndpoint record) except -1:
        """Count a delivery with its endpoint, and no more in the window."""
        cdef size_t size = aside_size(delivery)
        if not self.paused.fits(size):
            return 0
        delivery.aside = True
        record.size += size
        self.paused.size += size
        self.windows.held[delivery.lane] -= delivery.size
        if delivery.state == RUNNING and delivery.calls == 0:
            self.windows.under_way[delivery.lane] -= delivery.size
            self.paused.under_way += delivery.size
        return 0

    # --- the end ----------------------------------------------------------------------

    cdef int close(self) except -1:
        """The link has ended."""
        self.windows.on_full = self.queue.on_full = None
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        return 0
