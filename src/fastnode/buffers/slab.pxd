cdef extern from *:
    """
    #ifndef FASTNODE_DEBUG
    #define FASTNODE_DEBUG 0
    #endif
    """
    const bint DEBUG "FASTNODE_DEBUG"


cdef class Slab:
    # The block: data[0 .. capacity). Owned by the slab, from malloc.
    cdef unsigned char *data
    cdef readonly size_t capacity
    # Which of the pool's free lists it belongs to; -1: made to measure, never kept.
    cdef int size_class
    # True between BufferPool.take and BufferPool.release.
    cdef readonly bint taken
    # How many queued segments point into it (wire.lane counts them).
    cdef int users
    # Live Python buffer exports; while there are any it cannot be released.
    cdef int exports
    cdef Py_ssize_t shape[1]

    cdef bint poisoned(self) noexcept
    cdef void poison(self) noexcept


cdef Slab make_slab(size_t capacity, int size_class)
