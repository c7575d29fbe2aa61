from libc.stdint cimport uint32_t

from fastnode.link.batch cimport Batch, BatchLine
from fastnode.link.endpoint cimport Endpoint
from fastnode.link.numbers cimport EndpointNumbers
from fastnode.link.tasks cimport HandlerTasks


cdef class Batches(HandlerTasks):
    cdef EndpointNumbers numbers
    # What is being gathered: Endpoint -> Batch; the one that was added to last.
    cdef dict gathered
    cdef Batch newest
    # Endpoint -> BatchLine, where a batch is under way or waits for its turn.
    cdef dict lines
    # How many messages, calls and batches wait at endpoints that are full.
    cdef Py_ssize_t waiting
    # Called when `lines` is empty; the link has ended.
    cdef object on_settled
    cdef bint closed

    cdef int gather(
        self, Endpoint endpoint, bytes payload, int lane, uint32_t call
    ) except -1
    cdef int gather_nested(
        self, Endpoint endpoint, bytes payload, int lane, uint32_t call
    ) except -1
    cdef int hand_over(self) except -1
    cdef Batch take(self, Endpoint endpoint)
    cdef int hand(self, Batch batch) except -1
    cdef int begin(self, Batch batch) except -1
    cdef int free(self, Batch batch) except -1
    cdef int go_on(self, Endpoint endpoint, bint admitted) except -1
    cdef int enqueue(self, Endpoint endpoint) except -1
    cdef int drop(self) except -1
