from libc.stdint cimport uint32_t

from fastnode.link.backlog cimport Backlog
from fastnode.link.batches cimport Batches
from fastnode.link.endpoint cimport Endpoint

cdef enum:
    # Parts of `how`: the lane is in the bits above.
    CONFIRMED = 1
    FROM_HANDLER = 2
    HOW_LANE = 2

# Not among the calls: it was cancelled.
cdef object GONE


cdef class Turns(Batches):
    # What waits for handlers of its lane to finish; whether `go_on_late` is scheduled.
    cdef Backlog backlog
    cdef bint going_on
    # Endpoint -> what waited there and was to begin while the peer does not read its
    # replies: it goes back to the front of that queue.
    cdef dict stalled

    cdef int place(
        self, Endpoint endpoint, uint32_t call, bytes payload, int how
    ) except -1
    cdef int put_off(
        self, Endpoint endpoint, uint32_t call, bytes payload, int how
    ) except -1
    cdef int queue(
        self, Endpoint endpoint, uint32_t call, bytes payload, int how
    ) except -1
    cdef bint stall(self, Endpoint endpoint, uint32_t call, tuple entry) except? False
    cdef int unstall(self) except -1
    cdef bint has_to_queue(self, Endpoint endpoint, int how) except? False
    cdef int tell_settled(self) except -1
    cdef int leave(self) except -1
    cdef int give_up(self) except -1
    cdef int handle(
        self, Endpoint endpoint, uint32_t call, bytes payload, int how
    ) except -1
