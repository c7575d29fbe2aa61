from fastnode.openssl.bio cimport Bio
from fastnode.openssl.handle cimport Handle
from fastnode.tls.ssl_object cimport SslObjectEngine


cdef class DirectEngine(SslObjectEngine):
    # Keeps the owner of `pointer`, the SSL.
    cdef Handle handle
    cdef void *pointer
    cdef Bio bio
    # Records are read and written without Python.
    cdef bint direct

    cdef int fail(self, int outcome) except -1
