cdef enum:
    # What TlsEngine.read returns instead of a number of bytes.
    WANT_MORE = 0
    ENDED = -2


cdef class TlsEngine:
    # See `keep_buffers`.
    cdef readonly bint holding

    cdef int feed(self, const unsigned char *data, size_t size) except -1
    cdef int keep(self) except -1
    cdef int feed_eof(self) except -1
    cdef int handshake(self) except -1
    cdef int settle(self) except -1
    cdef int keep_buffers(self, bint held) except -1
    cdef Py_ssize_t read(self, unsigned char *into, size_t size) except -1
    cdef int write(self, const unsigned char *data, size_t size) except -1
    cdef bytes output(self)
    cdef int close(self) except -1
