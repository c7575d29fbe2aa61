from fastnode.link.calls cimport CallTable
from fastnode.sending.outbox cimport Outbox


cdef class Link:
    cdef Outbox outbox
    cdef CallTable calls
    cdef object protocol
    cdef readonly object peer
    cdef object __weakref__

    cdef int send_with(
        self, str endpoint, object payload, int priority, object metadata
    ) except -1


cdef int lane_of(object priority) except -1
