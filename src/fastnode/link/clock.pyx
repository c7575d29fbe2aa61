"""The clock of links: the clock of the system, or a time that a test sets."""

from libc.stdint cimport int64_t

cdef extern from "<time.h>":
    ctypedef int clockid_t
    cdef struct timespec:
        int64_t tv_sec
        long tv_nsec
    int clock_gettime(clockid_t clock, timespec *now) noexcept
    clockid_t CLOCK_MONOTONIC

# The time in seconds that a test has set; negative if the clock runs by itself.
cdef double told = -1.0


def tell_time(double seconds):
    """Stop the clock of all links of this process at a time.

    Tests use this for links that they join in memory, with a time of their own.

    Args:
        seconds: the time. A negative value lets the clock run again.
    """
    global told
    told = seconds


cdef double monotonic() noexcept:
    """Return seconds, as `time.monotonic` does."""
    cdef timespec now
    if told >= 0:
        return told
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <double>now.tv_sec + <double>now.tv_nsec * 1e-9
