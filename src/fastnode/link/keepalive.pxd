from libc.stdint cimport uint64_t

from fastnode.link.busy_poll cimport PolledReply
from fastnode.sending.outbox cimport Outbox


cdef class Keepalive:
    cdef Outbox outbox
    cdef object loop
    # Is called with the seconds of silence when the peer counts as dead.
    cdef object on_dead
    # Seconds of silence before a probe, and before the peer counts as dead.
    cdef double interval
    cdef readonly double limit
    cdef object timer
    # Times of `monotonic`: the last sign of life; when the timer is due.
    cdef double heard_at
    cdef double due
    # How often something was heard since the last look.
    cdef unsigned int reads
    # Probes sent since the last sign of life. The next look is the last.
    cdef unsigned int probes
    cdef bint doubting
    # For a running `check`: its timer, the callback instead of `on_dead`, and whether
    # another check was requested meanwhile.
    cdef object check_timer
    cdef object on_silent
    cdef bint check_again

    # Pings that users wait for: body -> Future.
    cdef dict pings
    cdef uint64_t last
    cdef PolledReply polled
    # PONGs that were queued since the last time without a queued PONG.
    cdef unsigned int pongs

    cdef int heard(self) except -1
    cdef int wait(self, double seconds) except -1
    cdef int pinged(self, bytes number) except -1
    cdef int pong(self, bytes number) except -1
    cdef int close(self, error) except -1
