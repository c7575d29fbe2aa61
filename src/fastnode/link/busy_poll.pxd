from libc.stdint cimport uint64_t


cdef class PollBackoff:
    # Seconds: the shortest rest, that after the next loss, and until when it rests.
    cdef double least
    cdef readonly double rest
    cdef double rests_until

    cpdef bint ready(self, double now) noexcept
    cpdef void won(self) noexcept
    cpdef void lost(self, double now) noexcept


cdef class BusyPoll:
    # Seconds; 0: nothing is polled for.
    cdef readonly double limit
    cdef object loop
    # A turn is scheduled.
    cdef bint turning
    # What is polled for: whatever `begin` was given -> when it is given up, in order.
    cdef dict awaited
    cdef PollBackoff backoff
    # Counters: turns that the loop took for it; how often others wanted the processor.
    cdef readonly unsigned long long turns
    cdef readonly unsigned long long yielded

    cdef bint begin(self, loop, reply, double now) except -1
    cdef int stop_expecting(self, reply, bint in_time) except -1


cdef class PolledReply:
    cdef BusyPoll poll
    cdef PollBackoff backoff
    # Of what is replied to; 0: nothing.
    cdef uint64_t number
    # When its reply would be too late.
    cdef double until

    cdef int begin(self, loop, uint64_t number) except -1
    cdef int stop_polling(self, bint replied) except -1
