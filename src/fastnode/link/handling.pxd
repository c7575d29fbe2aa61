from fastnode.link.endpoint cimport Endpoint
from fastnode.link.windows cimport Windows


cdef class Handling:
    cdef Windows windows
    cdef Endpoint endpoint
    cdef object admit
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

    cdef int wait(self) except -1
    cdef int go_on(self) except -1
    cdef int count_again(self) except -1
    cdef int finish(self) except -1


cdef Handling current()
