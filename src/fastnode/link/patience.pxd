cdef class Patience:
    # Seconds: the shortest rest, that after the next loss, and until when it rests.
    cdef double least
    cdef readonly double rest
    cdef double rests_until

    cpdef bint ready(self, double now) noexcept
    cpdef void won(self) noexcept
    cpdef void lost(self, double now) noexcept
