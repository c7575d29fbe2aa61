from libc.stdint cimport uint32_t

from fastnode.link.busy_poll cimport BusyPoll
from fastnode.link.patience cimport Patience


cdef class PolledCall:
    cdef BusyPoll poll
    cdef Patience patience
    # Of the call; 0: none.
    cdef uint32_t number
    # When its reply would be too late.
    cdef double until

    cdef int begin(self, loop, uint32_t number) except -1
    cdef int end(self, bint replied) except -1
