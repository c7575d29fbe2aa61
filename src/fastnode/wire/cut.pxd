from libc.stdint cimport uint64_t


cdef class Cut:
    # In order: positions (bytes ever sent) where each part began and ended, and the
    # bytes of all parts up to the end of each.
    cdef list starts
    cdef list ends
    cdef list sums
    # The messages that were in them, in order.
    cdef list found
    # Bytes.
    cdef size_t size

    cdef int add(self, uint64_t start, uint64_t end) except -1
    cdef uint64_t moved(self, uint64_t position) except? 0
