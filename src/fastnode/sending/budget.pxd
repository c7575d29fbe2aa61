cdef class QueueBudget:
    # Bytes: queued on all links of a node; the ceiling; drains wait above `high`.
    cdef readonly size_t used
    cdef readonly size_t most
    cdef size_t high
    cdef list waiters

    cdef int shrink(self, size_t size) except -1
