"""One block of memory that a pool owns."""

cimport cython
from cpython.buffer cimport PyBUF_FORMAT, PyBUF_ND, PyBUF_STRIDES
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from libc.string cimport memset

# What a released slab is filled with in the debug build.
cdef enum:
    POISON = 0xDB

cdef char *BYTES_FORMAT = "B"


@cython.final
@cython.no_gc
cdef class Slab:
    """A block of memory, taken from and released to a `BufferPool`.

    Supports the writable buffer protocol while it is taken. A view of it is
    borrowed memory: the slab cannot be released before the view is.
    """

    def __init__(self):
        raise TypeError("slabs come from BufferPool.take")

    def __dealloc__(self):
        PyMem_RawFree(self.data)

    def __len__(self):
        return self.capacity

    def __getbuffer__(self, Py_buffer *view, int flags):
        if not self.taken:
            raise BufferError("this slab was released to its pool")
        self.shape[0] = <Py_ssize_t>self.capacity
        view.buf = self.data
        view.obj = self
        view.len = <Py_ssize_t>self.capacity
        view.readonly = 0
        view.itemsize = 1
        view.format = BYTES_FORMAT if flags & PyBUF_FORMAT else NULL
        view.ndim = 1
        view.shape = self.shape if flags & PyBUF_ND else NULL
        view.strides = &view.itemsize if flags & PyBUF_STRIDES else NULL
        view.suboffsets = NULL
        view.internal = NULL
        self.exports += 1

    def __releasebuffer__(self, Py_buffer *view):
        self.exports -= 1

    cdef void poison(self) noexcept:
        memset(self.data, POISON, self.capacity)

    cdef bint poisoned(self) noexcept:
        cdef size_t i
        for i in range(self.capacity):
            if self.data[i] != POISON:
                return False
        return True


cdef Slab make_slab(size_t capacity, int size_class):
    cdef Slab slab = Slab.__new__(Slab)
    slab.data = <unsigned char *>PyMem_RawMalloc(capacity)
    if slab.data == NULL:
        raise MemoryError()
    slab.capacity = capacity
    slab.size_class = size_class
    return slab
