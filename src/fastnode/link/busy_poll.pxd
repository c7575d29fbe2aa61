from fastnode.link.patience cimport Patience


cdef class BusyPoll:
    # Seconds; 0: nothing is polled for.
    cdef readonly double limit
    cdef object loop
    # A turn is scheduled.
    cdef bint turning
    # What is polled for: whatever `begin` was given -> when it is given up, in order.
    cdef dict awaited
    cdef Patience patience
    # Counters: turns that the loop took for it; how often others wanted the processor.
    cdef readonly unsigned long long turns
    cdef readonly unsigned long long yielded

    cdef bint begin(self, loop, reply, double now) except -1
    cdef int end(self, reply, bint in_time) except -1
