from cpython.object cimport PyObject


# What the functions of the BIO work on. They run without the GIL, too.
cdef struct Ends:
    # What is to be read: `left` bytes.
    const unsigned char *at
    size_t left
    # Nothing more will come.
    bint ended
    # What was written: used <= room, the size of `out`, a `bytes` object of ours; NULL
    # if room is 0.
    PyObject *out
    size_t used
    size_t room
    # How much was written the last time that it was taken.
    size_t before


cdef class Bio:
    cdef void *pointer
    cdef Ends ends
    # Owns what is to be read; None: it is borrowed.
    cdef bytes kept

    cdef int put_under(self, void *ssl) except -1
    cdef int lend(self, const unsigned char *data, size_t size) except -1
    cdef int keep(self) except -1
    cdef int own(self, bytes kept, size_t size) except -1
    cdef int drop(self) except -1
    cdef bytes take(self)
