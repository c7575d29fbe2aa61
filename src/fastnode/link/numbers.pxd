from libc.stdint cimport uint16_t

from fastnode.link.endpoint cimport Endpoint, EndpointRegistry


cdef class EndpointNumbers:
    cdef EndpointRegistry registry
    # Number -> Endpoint, by lane, and that of the data lane.
    cdef list books
    cdef list book
    # Of the registry, when the names were looked up.
    cdef unsigned long generation

    cdef int define(self, int lane, uint16_t number, bytes name) except -1
    cdef Endpoint find(self, int lane, uint16_t number)
    cdef int look_again(self) except -1
