cdef double monotonic() noexcept
