from libc.stdint cimport uint64_t

cdef enum:
    # The number of buckets for each doubling of the time, and the number of doublings,
    # from 1 us on. The last bound is 2147 s.
    PARTS = 8
    DOUBLINGS = 31
    # The first bucket has everything up to 1 us.
    BUCKETS = PARTS * DOUBLINGS + 1


cdef class Histogram:
    cdef uint64_t[BUCKETS] counts
    # The sum of all recorded times, in seconds.
    cdef double total

    cdef int record(self, double seconds) noexcept


cdef double seconds_now() noexcept
