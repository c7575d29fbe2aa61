from fastnode.tls.engine cimport TlsEngine


cdef class PlaintextEngine(TlsEngine):
    # What came in and was not read: begin <= len(incoming).
    cdef bytearray incoming
    cdef size_t begin
    cdef bint ended
    cdef bytearray outgoing
