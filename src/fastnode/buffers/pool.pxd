from fastnode.buffers.slab cimport Slab
from fastnode.buffers.spares cimport Spares


cdef class BufferPool:
    # Large payloads that nobody needs any more; they do not count as held.
    cdef readonly Spares spares
    # Free slabs, one list for each size class; the last released is taken first,
    # while it is warm in the cache.
    cdef list free
    # Bytes of all slabs, free and taken: held <= ceiling.
    cdef readonly size_t held
    cdef readonly size_t ceiling
    # Slabs taken and not yet released.
    cdef readonly Py_ssize_t outstanding
    # Per class: the fewest free slabs since the last trim. That many were idle.
    cdef Py_ssize_t idle[4]

    cdef Slab get(self, size_t size)
    cdef Slab make(self, size_t size, int size_class)
    cdef int put(self, Slab slab) except -1
