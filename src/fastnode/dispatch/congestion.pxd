from libc.stdint cimport uint64_t

from fastnode.dispatch.batch cimport Batch
from fastnode.dispatch.batches cimport Batches
from fastnode.dispatch.handler cimport Delivery, Handlers
from fastnode.dispatch.paused cimport PausedEndpoint, PausedEndpoints
from fastnode.dispatch.queue cimport DeliveryQueue
from fastnode.dispatch.windows cimport Windows
from fastnode.wire.frame cimport LANES


cdef class Share:
    # The bytes that the link holds for one endpoint, by lane.
    cdef str name
    cdef uint64_t[LANES] held


cdef class Congestion:
    cdef Handlers handlers
    cdef DeliveryQueue queue
    cdef Batches batches
    cdef Windows windows
    cdef PausedEndpoints paused

    # The timer of `look`; None if nothing seems to be congested.
    cdef object timer
    # Seconds from `suspect` to `look`. They grow after each look that did not help.
    cdef double delay
    # The state at the time of the suspicion: the time of the last grant of each lane,
    # and the last delivery in the line of each lane.
    cdef double[LANES] granted
    cdef list tails
    # The lanes that are congested, while `look` works.
    cdef bint[LANES] congested

    # Used while the deliveries of the link are visited. Name -> Share; and name ->
    # PausedEndpoint for what is set aside, or None while deliveries are only counted.
    cdef dict shares
    cdef dict chosen

    cdef int enable(self) except -1
    cdef bint find_congested(self) except? True
    cdef bint relieve(self) except? True
    cdef bint relieved(self, uint64_t *rest) noexcept
    cdef int visit_all(self) except -1
    cdef int visit(self, Delivery delivery) except -1
    cdef int visit_batch(self, Batch batch) except -1
    cdef int visit_lines(self) except -1
    cdef Share share_of(self, str name)
    cdef int set_aside(self, Delivery delivery, PausedEndpoint record) except -1
    cdef int close(self) except -1
