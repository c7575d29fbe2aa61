from libc.stdint cimport uint16_t, uint64_t

from fastnode.wire.frame cimport LANES


cdef class Stopwatch:
    # Seconds from which on a callback is slow; 0: none is.
    cdef double limit
    # Called with the seconds where a receive callback was slow, and with the name of an
    # endpoint and the seconds where one handler was.
    cdef object on_slow
    cdef object on_slow_handler
    cdef double began
    # The endpoints that were reached since then, in each lane, which has numbers of its
    # own: bit n for the numbers n modulo 64. Whether there are any outside of lane 0.
    cdef uint64_t[LANES] seen
    cdef bint others
    # So many laps more are taken for each message.
    cdef int close

    cdef int start(self) noexcept
    cdef int forget(self) noexcept
    cdef bint any(self) noexcept
    cdef int close_lap(self) except -1
    cdef int lap(self) except -1
    cdef double now(self) noexcept
    cdef int tell(self, str name, double began) except -1


cdef inline int reach(Stopwatch watch, int lane, uint16_t number) except -1:
    """Note that a message or call to endpoint `number` of a lane is to be handled."""
    if watch.close:
        watch.close_lap()
    watch.seen[lane] |= <uint64_t>1 << (number & 63)
    if lane != 0:
        watch.others = True
    return 0
