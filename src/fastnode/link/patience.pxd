cdef class Patience:
    # Seconds: how long to rest after the next loss, and until when.
    cdef readonly double rest
    cdef double rests_until

    cpdef bint ready(self, double now) noexcept
    cpdef void won(self) noexcept
    cpdef void lost(self, double now) noexcept
