from libc.stdint cimport uint16_t, uint64_t


cdef class Stopwatch:
    # Seconds from which on a callback is slow; 0: none is.
    cdef double limit
    cdef object on_slow
    cdef object on_slow_handler
    cdef double began
    # The endpoints that were reached since then: bit n for the numbers n modulo 64.
    cdef uint64_t seen
    # So many laps more are taken for each message.
    cdef int close

    cdef int start(self) noexcept
    cdef int message(self, object link, uint16_t number) except -1
    cdef int lap(self, object link) except -1
    cdef double now(self) noexcept
    cdef int tell(self, str name, double began) except -1
