"""Messages that a batch handler is given in one call."""

cimport cython
from cpython.list cimport PyList_GET_SIZE

from fastnode.link.endpoint cimport Endpoint

from collections import deque

from fastnode.limits import MAX_BATCH_BYTES, MAX_BATCH_MESSAGES

cdef Py_ssize_t MOST_MESSAGES = MAX_BATCH_MESSAGES
cdef size_t MOST_BYTES = MAX_BATCH_BYTES

# Not among the calls: it was cancelled.
cdef object GONE = object()


@cython.final
cdef class Batch:
    """Messages of one link to one endpoint."""

    def __cinit__(self, Endpoint endpoint not None):
        self.endpoint = endpoint
        self.messages = []

    cdef int drop_cancelled(self, dict calls) except -1:
        """Leave out what its sender has given up; the others cannot be any more."""
        cdef list confirms = []
        for call, message in self.confirms:
            if calls.pop(call, GONE) is GONE:
                self.messages = [each for each in self.messages if each is not message]
            else:
                confirms.append((call, message))
        self.confirms = confirms
        return 0

    cdef bint full(self) noexcept:
        return (
            self.size >= MOST_BYTES or PyList_GET_SIZE(self.messages) >= MOST_MESSAGES
        )


@cython.final
cdef class BatchLine:
    """The order of the batches of one link to one endpoint."""

    def __cinit__(self):
        self.waiting = deque()
