from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from fastnode.buffers.pool cimport BufferPool
from fastnode.wire.lane cimport Lane
from fastnode.wire.parked cimport Parked


cdef class Encoder:
    # Frames in order; nothing in a lane may depend on another lane.
    cdef readonly Lane data
    cdef readonly Lane control
    cdef readonly Lane high
    cdef readonly Lane bulk
    cdef readonly Lane inner
    cdef readonly Lane replies
    cdef readonly Lane bulk_replies
    # All of them, by number.
    cdef readonly tuple lanes
    # The largest frame the peer takes, header included; the same for the hot path, but
    # 0 while something is parked.
    cdef size_t max_frame
    cdef size_t quick

    # What is held back, because the peer has paused its endpoint; whether anything is
    # paused or held back.
    cdef Parked parked
    cdef bint parks

    # Of data, bulk and bulk replies: whose turn it is. Until where in bulk (bytes ever
    # sent) something to an endpoint is queued.
    cdef int turn
    cdef dict pending
    # Barriers, oldest first: (where in bulk, where in data has to be reached before);
    # the first of them, if there is one.
    cdef object barriers
    cdef bint barred
    cdef uint64_t barrier
    cdef uint64_t behind
    # Where in bulk_replies (bytes ever sent) each reply ends; those that are queued are
    # among them.
    cdef object ends

    cdef int set_limits(self, size_t max_frame, Py_ssize_t endpoints) except -1
    cdef inline size_t waiting(self) noexcept:
        """Bytes of users: what flow control holds up."""
        return (
            self.data.size
            + self.bulk.size
            + self.high.size
            + self.inner.size
            + self.parked.size
        )

    cdef inline size_t size(self) noexcept:
        return self.answers() + self.waiting()

    cdef inline size_t answers(self) noexcept:
        """The rest: what the peer asked for, or needs."""
        return self.control.size + self.replies.size + self.bulk_replies.size

    cdef Lane next_lane(self)
    cdef Lane next_in_turn(self)
    cdef bint bulk_ready(self) noexcept
    cdef int pass_barriers(self) except -1
    cdef int next_barrier(self) except -1
    cdef int bar(self, uint64_t barrier) except -1
    cdef int unbar(self, uint64_t barrier) except -1
    cdef Lane lane_for(self, str endpoint, size_t size)
    cdef int went(self, str endpoint, Lane lane) except -1
    cdef bint held_up(self, size_t size, int priority) noexcept
    cdef int announce(self, str name, Lane lane) except -1
    cdef int queue(
        self,
        Lane lane,
        uint8_t kind,
        uint8_t flags,
        str endpoint,
        uint32_t call,
        bytes payload,
        bytes block,
        double deadline,
    ) except -1
    cdef int message(self, str endpoint, bytes payload, int priority) except -1
    cdef int call(
        self,
        uint8_t kind,
        str endpoint,
        uint32_t call,
        bytes payload,
        int priority,
        bint nested,
        bytes block,
        double deadline,
    ) except -1
    cdef size_t unsent(self) noexcept
    cdef int reply(self, uint32_t call, bytes payload, bytes block) except -1
    cdef size_t unread(self) except? 0
    cdef int small_frame(
        self, uint8_t kind, uint8_t flags, uint16_t number, bytes body
    ) except -1
    cdef int frame(
        self, Lane lane, uint8_t kind, uint8_t flags, uint16_t number,
        const unsigned char *body, size_t size
    ) except -1
    cdef int payload(
        self,
        Lane lane,
        uint8_t kind,
        uint8_t flags,
        uint16_t number,
        uint32_t call,
        bytes payload,
        bytes block,
        double deadline,
    ) except -1
    cdef int in_steps(
        self,
        Lane lane,
        uint8_t kind,
        uint8_t flags,
        uint16_t number,
        uint32_t call,
        bytes payload,
        bytes block,
        double deadline,
    ) except -1
    cdef int continued(
        self, Lane lane, bytes payload, const unsigned char *data, size_t left
    ) except -1
