from libc.stdint cimport uint64_t

cdef enum:
    # Buckets for each doubling of the time, and how many doublings from 1 us on: the
    # last bound is 2147 s.
    PARTS = 8
    DOUBLINGS = 31
    # The first bucket has everything up to 1 us.
    BUCKETS = PARTS * DOUBLINGS + 1


cdef class Histogram:
    cdef uint64_t[BUCKETS] counts
    # Of all recorded times together, seconds.
    cdef double total

    cdef int record(self, double seconds) noexcept


cdef double seconds_now() noexcept
