from libc.stdint cimport uint32_t

from fastnode.dispatch.batch cimport Batch, BatchLine
from fastnode.dispatch.endpoint cimport Endpoint
from fastnode.dispatch.handler cimport Handlers
from fastnode.wire.extension cimport Extension


cdef class Batches:
    cdef Handlers handlers
    # What is being gathered: Endpoint -> Batch; the one that was added to last.
    cdef dict gathered
    cdef Batch newest
    # Endpoint -> BatchLine, where a batch is under way or waits for its turn.
    cdef dict lines
    # How many endpoints, which are full, this link waits at.
    cdef Py_ssize_t waiting
    # Called when something was begun that had waited, and when `lines` is empty.
    cdef object on_rest
    # The link has ended.
    cdef bint closed

    cdef int gather(
        self,
        Endpoint endpoint,
        bytes payload,
        int lane,
        uint32_t call,
        int flags,
        Extension extension,
    ) except -1
    cdef int begin_all(self, Endpoint endpoint) except -1
    cdef int hand_over(self) except -1
    cdef Batch take(self, Endpoint endpoint)
    cdef int hand(self, Batch batch) except -1
    cdef int begin(self, Batch batch) except -1
    cdef int drop_cancelled(self, Batch batch) except -1
    cdef int free(self, Batch batch) except -1
    cdef int done(self, Batch batch) except -1
    cdef int go_on(self, Endpoint endpoint, bint admitted) except -1
    cdef int enqueue(self, Endpoint endpoint) except -1
    cdef int leave(self, Endpoint endpoint) except -1
    cdef bint busy(self) noexcept
    cdef int close(self) except -1
