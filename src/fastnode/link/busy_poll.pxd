from fastnode.link.patience cimport Patience


cdef class BusyPoll:
    # Seconds; 0: nothing is polled for.
    cdef readonly double limit
    cdef object loop
    # A turn is scheduled.
    cdef bint turning
    # Replies that are polled for, and when the last of them is given up.
    cdef Py_ssize_t awaited
    cdef double until
    cdef Patience patience
    # Counters: turns that the loop took for it; how often others wanted the processor.
    cdef readonly unsigned long long turns
    cdef readonly unsigned long long yielded

    cdef bint begin(self, loop, double now) except -1
    cdef int end(self) except -1
