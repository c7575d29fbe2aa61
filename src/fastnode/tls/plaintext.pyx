"""No TLS: the engine of nodes that were told ``plaintext=True``."""

cimport cython
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE
from libc.string cimport memcpy

from fastnode.tls.engine cimport ENDED, WANT_MORE, TlsEngine


@cython.final
cdef class PlaintextEngine(TlsEngine):
    """Passes bytes through, unprotected."""

    def __init__(self):
        self.incoming = bytearray()
        self.outgoing = bytearray()

    cdef int feed(self, const unsigned char *data, size_t size) except -1:
        if self.begin:
            del self.incoming[:self.begin]
            self.begin = 0
        self.incoming += (<const char *>data)[:size]
        return 0

    cdef int feed_eof(self) except -1:
        self.ended = True
        return 0

    cdef int handshake(self) except -1:
        return 1

    cdef Py_ssize_t read(self, unsigned char *into, size_t size) except -1:
        cdef size_t there = PyByteArray_GET_SIZE(self.incoming) - self.begin
        if there == 0:
            # TCP's FIN is the only end that plaintext has.
            return ENDED if self.ended else WANT_MORE
        size = min(size, there)
        memcpy(into, PyByteArray_AS_STRING(self.incoming) + self.begin, size)
        self.begin += size
        return <Py_ssize_t>size

    cdef int write(self, const unsigned char *data, size_t size) except -1:
        self.outgoing += (<const char *>data)[:size]
        return 0

    cdef bytes output(self):
        cdef bytes data
        if not self.outgoing:
            return None
        data = bytes(self.outgoing)
        self.outgoing.clear()
        return data

    cdef int close(self) except -1:
        return 0
