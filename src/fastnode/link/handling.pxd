from cpython.object cimport PyObject

from fastnode.link.endpoint cimport Endpoint
from fastnode.link.stopwatch cimport Stopwatch
from fastnode.link.windows cimport Windows


cdef class HandlingOwner:
    cdef Windows windows
    # Times handlers.
    cdef Stopwatch watch

    cdef int end(self, Handling handling, object result, object error) except -1


cdef class Handling:
    cdef HandlingOwner owner
    cdef Endpoint endpoint
    # What the handler returned, to be run.
    cdef object coroutine
    # The number of the call that it answers, or None.
    cdef object number
    # What it was given, a `Batch`; None: a single message or call.
    cdef object batch
    # Large: to be used again when it is done. None: it is small, or a batch.
    cdef bytes payload
    cdef size_t size
    cdef int lane
    # Calls of its own that it waits for; whether what it holds is not counted.
    cdef int calls
    cdef bint excused
    cdef bint done

    cdef object begin(self, object loop)
    cdef PyObject *step(self, object value) except? NULL
    cdef int raised(self) except -1
    cdef int wait(self) except -1
    cdef int go_on(self) except -1
    cdef int count_again(self) except -1
    cdef int finish(self) except -1


cdef Handling new_handling(
    HandlingOwner owner,
    object awaitable,
    object number,
    Endpoint endpoint,
    size_t size,
    int lane,
)
cdef Handling current()
