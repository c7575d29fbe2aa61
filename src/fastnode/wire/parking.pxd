from libc.stdint cimport uint32_t, uint64_t

from fastnode.wire.encoder cimport Encoder
from fastnode.wire.parked cimport Parked, ParkedMessage, ParkedQueue


cdef class Parking:
    cdef Encoder encoder
    # Of the encoder.
    cdef Parked parked
    # Bytes of lanes that were walked over to take something out.
    cdef uint64_t walked

    cdef int pause(self, str name) except -1
    cdef int resume(self, str name) except -1
    cdef bint drop(self, uint32_t call) except? True
    cdef bint knows(self, str name) except? True
    cdef int tend(self) except -1
    cdef int take_out(self) except -1
    cdef int put_back(self, list messages, int priority) except -1
    cdef int feed(self) except -1
    cdef bint feed_one(self, ParkedQueue queue, object line) except? True
    cdef int encode(self, ParkedMessage message) except -1
    cdef int settle(self) except -1
