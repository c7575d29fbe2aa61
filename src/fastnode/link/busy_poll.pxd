from libc.stdint cimport uint64_t


cdef class PollBackoff:
    # Seconds: the shortest pause; the pause after the next loss; the end of this pause.
    cdef double least
    cdef readonly double rest
    cdef double rests_until

    cpdef bint ready(self, double now) noexcept
    cpdef void won(self) noexcept
    cpdef void lost(self, double now) noexcept


cdef class BusyPoll:
    # Seconds; 0 disables polling.
    cdef readonly double limit
    cdef object loop
    # A turn is scheduled.
    cdef bint turning
    # The expected replies, in order: the object given to `begin` -> end of polling.
    cdef dict awaited
    cdef PollBackoff backoff
    # Counters: turns of the loop for polling; how often others wanted the processor.
    cdef readonly unsigned long long turns
    cdef readonly unsigned long long yielded

    cdef bint begin(self, loop, reply, double now) except -1
    cdef int stop_expecting(self, reply, bint in_time) except -1


cdef class PolledReply:
    cdef BusyPoll poll
    cdef PollBackoff backoff
    # The number of the call or ping; 0 if there is none.
    cdef uint64_t number
    # The time after which its reply is too late.
    cdef double until

    cdef int begin(self, loop, uint64_t number) except -1
    cdef int stop_polling(self, bint replied) except -1
