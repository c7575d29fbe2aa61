"""Histograms of times, in fixed buckets.

Each doubling of the time, from 1 microsecond on, has eight buckets of the same width.
So a bucket's upper bound is at most 12.5 % above every time in the bucket. All
histograms have the same bounds, so the counts of several nodes can be added.
"""

cimport cython
from libc.math cimport ceil, frexp
from libc.stdint cimport uint64_t

cdef extern from "<time.h>":
    ctypedef int clockid_t
    cdef struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(clockid_t clock, timespec *now) noexcept
    clockid_t CLOCK_MONOTONIC

# The last bound, microseconds.
cdef double LAST = <double>(<uint64_t>1 << DOUBLINGS)

#: The upper bound of each bucket in seconds. The last bucket also has all longer times.
BOUNDS = (1e-6,) + tuple(
    2.0**doubling * (1 + (part + 1) / <double>PARTS) / 1e6
    for doubling in range(DOUBLINGS)
    for part in range(PARTS)
)


cdef double seconds_now() noexcept:
    """Return the value of `time.monotonic`, without a Python call."""
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <double>now.tv_sec + <double>now.tv_nsec * 1e-9


@cython.final
cdef class Histogram:
    """Counts times by bucket. Counts never decrease."""

    cdef int record(self, double seconds) noexcept:
        """Count a time, in seconds. A negative time or NaN counts as 0."""
        cdef int doubling = 0
        cdef int bucket = 0
        cdef double units = seconds * 1e6
        cdef double mantissa, part
        if units >= LAST:
            bucket = BUCKETS - 1
            self.total += seconds
        elif units > 1:
            # 0.5 <= mantissa < 1, and units == mantissa * 2 ** doubling.
            mantissa = frexp(units, &doubling)
            part = (mantissa - 0.5) * 2 * PARTS
            # A time that is a bound belongs to the bucket below the bound.
            bucket = (doubling - 1) * PARTS + <int>ceil(part)
            self.total += seconds
        elif seconds > 0:
            self.total += seconds
        self.counts[bucket] += 1
        return 0

    def add(self, double seconds):
        """Count a time.

        Args:
            seconds: the time. A negative time or NaN counts as 0.
        """
        self.record(seconds)

    def buckets(self):
        """Return the upper bound, in seconds, and the count of each bucket that is not
        empty, in the order of the bounds."""
        cdef int bucket
        cdef list found = []
        for bucket in range(BUCKETS):
            if self.counts[bucket]:
                found.append((BOUNDS[bucket], self.counts[bucket]))
        return tuple(found)

    @property
    def seconds(self):
        """The sum of all recorded times, in seconds."""
        return self.total
