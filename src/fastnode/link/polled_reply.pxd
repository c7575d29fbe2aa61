from libc.stdint cimport uint64_t

from fastnode.link.busy_poll cimport BusyPoll
from fastnode.link.patience cimport Patience


cdef class PolledReply:
    cdef BusyPoll poll
    cdef Patience patience
    # Of what is replied to; 0: nothing.
    cdef uint64_t number
    # When its reply would be too late.
    cdef double until

    cdef int begin(self, loop, uint64_t number) except -1
    cdef int end(self, bint replied) except -1
