from libc.stdint cimport uint64_t

from fastnode.dispatch.endpoint cimport Endpoint
from fastnode.wire.frame cimport LANES

cdef enum:
    # What a message in a batch costs besides its payload: two objects and a place.
    # Bytes.
    MESSAGE_BYTES = 128


cdef class Batch:
    cdef Endpoint endpoint
    # In the order of arrival, and the bytes of their payloads.
    cdef list messages
    cdef size_t size
    # What they hold of the peer's windows, by lane.
    cdef uint64_t[LANES] held
    # What of them was set aside, bytes.
    cdef uint64_t aside
    # The deliveries of those that are to be confirmed; None: there are none.
    cdef list confirms

    cdef bint full(self) noexcept


cdef class BatchLine:
    # Of one link and endpoint: how many are under way, and those that wait for it.
    cdef Py_ssize_t running
    cdef object waiting
