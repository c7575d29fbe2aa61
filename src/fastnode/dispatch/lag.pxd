from fastnode.dispatch.histogram cimport Histogram


cdef class LoopLag:
    # Seconds: how late the loop may be; how often that is measured.
    cdef double most
    cdef double interval
    # When the next measurement is due, and how late the last one was.
    cdef double due
    cdef readonly double late
    # All measurements.
    cdef readonly Histogram times
    cdef object loop
    cdef object timer

    cdef bint over(self) noexcept
    cdef str text(self)
