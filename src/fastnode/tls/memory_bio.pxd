from fastnode.tls.engine cimport TlsEngine


cdef class MemoryBioEngine(TlsEngine):
    cdef object incoming
    cdef object outgoing
    cdef object ssl
    # Bytes that may still come until the handshake is complete.
    cdef size_t room
    cdef bint complete
    # The verdict on the peer's certificate.
    cdef object found
    # Bound methods, looked up once.
    cdef object feed_bytes
    cdef object ssl_read
    cdef object ssl_write
    cdef object take

    cdef int put(self, const unsigned char *data, size_t size) except -1
