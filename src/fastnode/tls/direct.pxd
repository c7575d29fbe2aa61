from libc.stdint cimport uint64_t

from fastnode.openssl.bio cimport Bio
from fastnode.tls.ssl_object cimport SslObjectEngine


cdef class DirectEngine(SslObjectEngine):
    cdef void *pointer
    cdef bint server_side
    cdef Bio bio
    # Records are read and written without Python.
    cdef bint direct
    # Records sent under the key of this direction, and how many may be.
    cdef uint64_t records
    cdef uint64_t records_of_key

    cdef int forget_key(self, int which) except -1
    cdef int fail(self, int outcome) except -1
