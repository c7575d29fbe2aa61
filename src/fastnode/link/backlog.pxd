from libc.stdint cimport uint64_t

from fastnode.link.windows cimport Windows
from fastnode.wire.frame cimport LANES


cdef class Backlog:
    cdef Windows windows
    # By lane: what waits, as (Endpoint, call or 0, payload, how), None until something
    # does; and its bytes, which the windows hold too.
    cdef list lines
    cdef uint64_t[LANES] sizes
    cdef readonly Py_ssize_t count

    cdef bint holds(self, int lane) noexcept
    cdef bint full(self, int lane) noexcept
    cdef int put(self, tuple entry, int lane, size_t size) except -1
    cdef tuple first(self, int lane)
    cdef int drop_first(self, int lane, size_t size) except -1
    cdef int clear(self) except -1
