from libc.stdint cimport uint32_t

from fastnode.dispatch.batch cimport Batch, BatchLine
from fastnode.dispatch.endpoint cimport Endpoint
from fastnode.dispatch.handler cimport Handlers
from fastnode.wire.extension cimport Extension


cdef class Batches:
    cdef Handlers handlers
    # The batches that are being gathered, Endpoint -> Batch; the batch that got the
    # last message.
    cdef dict gathered
    cdef Batch newest
    # Endpoint -> BatchLine, for each endpoint with a running or waiting batch.
    cdef dict lines
    # The number of full endpoints that this link waits for.
    cdef Py_ssize_t waiting
    # Is called when a waiting batch has begun, and when `lines` is empty.
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
