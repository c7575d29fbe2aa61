"""Finds the endpoints that fill the windows of a link, and pauses them.

No message changes a counter of its endpoint, because that would slow every message.
`Windows` calls `suspect` when it grants nothing because too much is held.
`DeliveryQueue` calls it when a delivery has to wait for the handlers of its lane. Both
also happen for a moment on healthy busy links. So a timer calls `look` a little later,
and only a lane that has not moved since then is congested. `look` visits all deliveries
of the link and adds up the bytes of each endpoint. It pauses the endpoints that hold
most, until the others leave half of the room free.

Calls of the peer's handlers are neither counted nor set aside, because the peer sends
them in spite of PAUSE. See `fastnode.dispatch.handler`.
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
    """The bytes that a link holds for one endpoint."""

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
        """Begin to watch, because the peer understands PAUSE and RESUME."""
        self.windows.on_full = self.queue.on_full = self.suspect
        return 0

    def suspect(self):
        """Plan a `look`, because something does not move."""
        cdef int lane
        if self.timer is not None:
            return
        # Further messages must not call this method until `look` is done.
        self.windows.on_full = self.queue.on_full = None
        for lane in range(LANES):
            self.granted[lane] = self.windows.granted[lane]
        self.tails = [
            line[len(line) - 1] if line else None for line in self.queue.lanes
        ]
        self.timer = self.handlers.loop.call_later(self.delay, self.look)

    def look(self):
        """Find the congested lanes, and pause endpoints that fill them."""
        cdef int lane
        cdef bint congested
        self.timer = None
        if self.queue.closed:
            return
        try:
            congested = self.find_congested()
            # A grant below may call `suspect`, which needs the cleared state.
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
                # The visit took time and did not help, so the next one comes later.
                self.delay = min(2 * self.delay, CONGESTION_MOST_SECONDS)
        except Exception as error:
            self.handlers.begin_failed(error)

    cdef bint find_congested(self) except? True:
        """Return whether a lane, or the line for its handlers, has not moved."""
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
        """Pause endpoints. Return whether all lanes have room again."""
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
        """Return the bytes that an endpoint holds in the congested lanes."""
        cdef int lane
        return sum([share.held[lane] for lane in range(LANES) if self.congested[lane]])

    cdef bint relieved(self, uint64_t *rest) noexcept:
        """Return whether each congested lane could grant again if it held `rest`."""
        cdef int lane
        for lane in range(LANES):
            if self.congested[lane] and rest[lane] > self.windows.room // 2:
                return False
        return True

    # --- all that the link holds ----------------------------------------------------

    cdef int visit_all(self) except -1:
        """Count or set aside the deliveries of each endpoint.

        Deliveries that were set aside before are left out.
        """
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
        """Visit the deliveries that wait for the handlers of their lane.

        A delivery for a chosen endpoint moves to a line of the endpoint.
        """
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
        """Count a delivery with its endpoint instead of in the window."""
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
