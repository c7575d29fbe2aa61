"""Holds back what is for endpoints that the peer has paused, and lets it go again.

How it works. `pause` only marks an endpoint. From then on the encoder gives to `Parked`
what is sent to it. Before something leaves, `tend` takes out of the lanes what was
queued before, for all endpoints that were marked, in one walk. After `resume`, `tend`
puts the messages back into the lanes by encoding them again, a part at a time: so a
further PAUSE finds short lanes.
"""

cimport cython
from libc.stdint cimport uint32_t, uint64_t

from fastnode.wire.cut cimport Cut
from fastnode.wire.encoder cimport Encoder
from fastnode.wire.frame cimport DATA_LANE, HIGH_LANE
from fastnode.wire.lane cimport Lane
from fastnode.wire.parked cimport ParkedMessage, ParkedQueue

from collections import deque

from fastnode.errors import ProtocolError, Side
from fastnode.limits import (
    ENDPOINT_DICTIONARY_SIZE,
    LOW_WATER_BYTES,
    SEND_QUEUE_BYTES,
)

cdef Py_ssize_t MOST_PAUSED = ENDPOINT_DICTIONARY_SIZE
# After RESUME, messages go back into the lanes until these have so many bytes. It is
# more than one flush sends, and little enough for the next PAUSE to walk over.
cdef size_t FED = LOW_WATER_BYTES
# Where others have more than that queued, so many bytes follow each time: half of what
# a flush sends.
cdef size_t TRICKLE = 32 << 10
# A peer that sends PAUSE again and again must not have us walk over long queues each
# time. So no more bytes are walked over than were ever sent, and a full queue.
cdef uint64_t WALK_AHEAD = SEND_QUEUE_BYTES


@cython.final
cdef class Parking:
    """What one side of a link does when the peer sends PAUSE and RESUME.

    Args:
        encoder: of the same side.
    """

    def __init__(self, Encoder encoder not None):
        self.encoder = encoder
        self.parked = encoder.parked

    # --- the view from Python: tests ------------------------------------------

    def pause_endpoint(self, str name not None):
        """The peer has paused an endpoint."""
        self.pause(name)

    def resume_endpoint(self, str name not None):
        """The peer has resumed an endpoint."""
        self.resume(name)

    def drop_call(self, uint32_t call):
        """Drop a call that is held back. False: no call of this number is."""
        return self.drop(call)

    def prepare(self):
        """Do what has to be done before something is sent."""
        if self.encoder.parks:
            self.tend()

    @property
    def held_back(self):
        """Bytes that are held back for endpoints that are paused."""
        return self.parked.size

    # --- the view from Cython -------------------------------------------------

    cdef int pause(self, str name) except -1:
        """Hold back what is queued for an endpoint, and what follows.

        A name that nothing was sent to lately is ignored: a peer that is not hostile
        does not send it.

        Raises:
            ProtocolError: the peer pauses too many endpoints.
        """
        cdef ParkedQueue queue
        queue = self.parked.queues.get(name)
        if queue is None:
            if not self.knows(name):
                return 0
            queue = ParkedQueue(name)
        if queue.paused:
            return 0
        if self.parked.paused >= MOST_PAUSED:
            raise ProtocolError(
                f"the peer paused more than {MOST_PAUSED} endpoints", side=Side.REMOTE
            )
        self.encoder.parks = True
        self.encoder.quick = 0
        self.parked.queues[name] = queue
        queue.paused = queue.fresh = True
        self.parked.paused += 1
        self.parked.fresh += 1
        return 0

    cdef int resume(self, str name) except -1:
        """Let what is held back for an endpoint leave."""
        cdef ParkedQueue queue = self.parked.queues.get(name)
        if queue is None or not queue.paused:
            return 0
        queue.paused = False
        self.parked.paused -= 1
        if queue.fresh:
            queue.fresh = False
            self.parked.fresh -= 1
        self.parked.forget(queue)
        return self.settle()

    cdef bint drop(self, uint32_t call) except? True:
        """Drop a call that is held back. False: no call of this number is."""
        cdef ParkedMessage message = self.parked.calls.pop(call, None)
        if message is None:
            return False
        self.parked.size -= message.size
        message.queue.drop(message)
        self.parked.forget(message.queue)
        self.settle()
        return True

    cdef bint knows(self, str name) except? True:
        """Something was sent to that endpoint, and not long ago."""
        return (
            self.encoder.data.book.find(name) >= 0
            or self.encoder.bulk.book.find(name) >= 0
            or self.encoder.high.book.find(name) >= 0
            or self.encoder.inner.book.find(name) >= 0
        )

    cdef int tend(self) except -1:
        """Take out of the lanes what is to be held back, and put back what may leave.
        Called before something is sent, while `Encoder.parks` is true."""
        if self.parked.fresh:
            self.take_out()
        self.feed()
        return self.settle()

    cdef int take_out(self) except -1:
        """Take out of the lanes what was queued before the PAUSE of its endpoint.

        In normal priority all that is in data was queued before all that is in bulk and
        has not begun to leave: see `Encoder.lane_for`.
        """
        cdef ParkedQueue queue
        cdef Cut data, bulk, high
        cdef Encoder encoder = self.encoder
        cdef size_t walk = encoder.data.size + encoder.bulk.size + encoder.high.size
        if self.walked + walk <= WALK_AHEAD + (
            self.encoder.data.sent + self.encoder.bulk.sent + self.encoder.high.sent
        ):
            self.walked += walk
            high = self.parked.take_out(self.encoder.high)
            if high is not None:
                self.put_back(high.found, HIGH_LANE)
            bulk = self.parked.take_out(self.encoder.bulk)
            if bulk is not None:
                self.put_back(bulk.found, DATA_LANE)
                encoder.pending = {
                    name: bulk.moved(until) for name, until in encoder.pending.items()
                }
            data = self.parked.take_out(self.encoder.data)
            if data is not None:
                self.put_back(data.found, DATA_LANE)
            if self.encoder.barriers and (bulk is not None or data is not None):
                self.encoder.barriers = deque([
                    (
                        where if bulk is None else bulk.moved(where),
                        behind if data is None else data.moved(behind),
                    )
                    for where, behind in self.encoder.barriers
                ])
                self.encoder.next_barrier()
        # Else it leaves, in front of what is held back: that is no error.
        for queue in self.parked.queues.values():
            queue.fresh = False
        self.parked.fresh = 0
        return 0

    cdef int put_back(self, list messages, int priority) except -1:
        """Hold back what was taken out of one lane, in front of what is held back."""
        cdef dict queues = {}
        cdef ParkedMessage message
        cdef ParkedQueue queue
        for message in messages:
            queues.setdefault(message.queue, []).append(message)
            if message.call:
                self.parked.calls[message.call] = message
            self.parked.size += message.size
        for queue, found in queues.items():
            queue.put_in_front(found, priority)
        return 0

    cdef int feed(self) except -1:
        """Put a part of what may leave into the lanes, from each endpoint in turn."""
        cdef ParkedQueue queue
        cdef bint more = True
        cdef Lane data = self.encoder.data
        cdef Lane bulk = self.encoder.bulk
        cdef Lane high = self.encoder.high
        # Behind long queues of others too, so that they do not hold it up for ever.
        cdef size_t most = data.size + bulk.size + TRICKLE
        cdef size_t most_high = high.size + TRICKLE
        if self.parked.paused == len(self.parked.queues):
            return 0
        cdef list queues = [
            queue for queue in self.parked.queues.values() if not queue.paused
        ]
        most = max(most, FED)
        most_high = max(most_high, FED)
        self.parked.feeding = True
        try:
            while more:
                more = False
                for queue in queues:
                    if queue.high and high.size < most_high:
                        more |= self.feed_one(queue, queue.high)
                    if queue.normal and data.size + bulk.size < most:
                        more |= self.feed_one(queue, queue.normal)
        finally:
            self.parked.feeding = False
        for queue in queues:
            self.parked.forget(queue)
        return 0

    cdef bint feed_one(self, ParkedQueue queue, object line) except? True:
        """Put the first message of a line into a lane."""
        cdef ParkedMessage message = line[0]
        if message.payload is None:
            # Its caller gave it up.
            queue.dropped -= 1
        else:
            self.encode(message)
            self.parked.size -= message.size
            if message.call:
                self.parked.calls.pop(message.call, None)
        line.popleft()
        return True

    cdef int encode(self, ParkedMessage message) except -1:
        """Queue a message that was held back."""
        return self.encoder.call(
            message.kind,
            message.queue.name,
            message.call,
            message.payload,
            message.priority,
            False,
            message.block,
            message.deadline,
        )

    cdef int settle(self) except -1:
        """If nothing is held back and no endpoint is paused, forget about it."""
        if not self.parked.queues:
            self.encoder.parks = False
            self.encoder.quick = self.encoder.max_frame
        return 0
