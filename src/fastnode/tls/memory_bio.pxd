from fastnode.tls.ssl_object cimport SslObjectEngine


cdef class MemoryBioEngine(SslObjectEngine):
    cdef object incoming
    # Bound methods, looked up once.
    cdef object feed_bytes
    cdef object take
