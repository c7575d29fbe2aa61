"""The messages that a batch handler gets in one call."""

cimport cython
from cpython.list cimport PyList_GET_SIZE

from fastnode.dispatch.endpoint cimport Endpoint

from collections import deque

from fastnode.limits import MAX_BATCH_BYTES, MAX_BATCH_MESSAGES

cdef Py_ssize_t MOST_MESSAGES = MAX_BATCH_MESSAGES
cdef size_t MOST_BYTES = MAX_BATCH_BYTES


@cython.final
cdef class Batch:
    """Messages of one link to one endpoint."""

    def __cinit__(self, Endpoint endpoint not None):
        self.endpoint = endpoint
        self.messages = []

    cdef bint full(self) noexcept:
        return (
            self.size >= MOST_BYTES or PyList_GET_SIZE(self.messages) >= MOST_MESSAGES
        )


@cython.final
cdef class BatchLine:
    """The order of the batches of one link to one endpoint."""

    def __cinit__(self):
        self.waiting = deque()
