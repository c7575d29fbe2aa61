from libc.stdint cimport uint64_t

from fastnode.dispatch.endpoint cimport Endpoint
from fastnode.wire.frame cimport LANES

cdef enum:
    # Bytes that a message in a batch needs besides its payload: two objects and a place
    # in a list.
    MESSAGE_BYTES = 128


cdef class Batch:
    cdef Endpoint endpoint
    # In the order of arrival, and the bytes of their payloads.
    cdef list messages
    cdef size_t size
    # Bytes of the peer's windows that the messages hold, by lane.
    cdef uint64_t[LANES] held
    # Bytes of the messages that were set aside.
    cdef uint64_t aside
    # The deliveries of messages that must be confirmed; None if there are none.
    cdef list confirms

    cdef bint full(self) noexcept


cdef class BatchLine:
    # The number of running batches, and the batches that wait, of one link and
    # endpoint.
    cdef Py_ssize_t running
    cdef object waiting
