from libc.stdint cimport uint16_t, uint64_t

from fastnode.wire.frame cimport LANES


cdef class Stopwatch:
    # A callback is slow if it takes so many seconds; 0: no callback is slow.
    cdef double limit
    # Are called after a slow receive callback, with its seconds; and after a slow
    # handler, with the name of its endpoint and its seconds.
    cdef object on_slow
    cdef object on_slow_handler
    cdef double began
    # The endpoints that were reached since then. Each lane has endpoint numbers of its
    # own; bit n stands for all numbers that are n modulo 64. Whether endpoints were
    # reached outside of lane 0.
    cdef uint64_t[LANES] seen
    cdef bint others
    # For so many further messages a lap is taken after each message.
    cdef int close

    cdef int start(self) noexcept
    cdef int forget(self) noexcept
    cdef bint any(self) noexcept
    cdef int close_lap(self) except -1
    cdef int lap(self) except -1
    cdef double now(self) noexcept
    cdef int tell(self, str name, double began) except -1


cdef inline int reach(Stopwatch watch, int lane, uint16_t number) except -1:
    """Note that a message or call to endpoint `number` of a lane begins."""
    if watch.close:
        watch.close_lap()
    watch.seen[lane] |= <uint64_t>1 << (number & 63)
    if lane != 0:
        watch.others = True
    return 0
