"""What time it is for a link: of the system, or told by a test."""

from libc.stdint cimport int64_t

cdef extern from "<time.h>":
    ctypedef int clockid_t
    cdef struct timespec:
        int64_t tv_sec
        long tv_nsec
    int clock_gettime(clockid_t clock, timespec *now) noexcept
    clockid_t CLOCK_MONOTONIC

# What the clock says, seconds, where it was told what; negative: it runs by itself.
cdef double told = -1.0


def tell_time(double seconds):
    """Stop the clock of all links of this process at that time; negative: let it run.
    For links that live in a time of their own, in the memory of a test."""
    global told
    told = seconds


cdef double monotonic() noexcept:
    """Seconds, as `time.monotonic`."""
    cdef timespec now
    if told >= 0:
        return told
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <double>now.tv_sec + <double>now.tv_nsec * 1e-9
