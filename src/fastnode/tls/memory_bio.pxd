from fastnode.tls.engine cimport TlsEngine


cdef class MemoryBioEngine(TlsEngine):
    cdef object incoming
    cdef object outgoing
    cdef object ssl
    # The verdict on the peer's certificate.
    cdef object found
    # Bound methods, looked up once.
    cdef object feed_bytes
    cdef object ssl_read
    cdef object ssl_write
    cdef object take
