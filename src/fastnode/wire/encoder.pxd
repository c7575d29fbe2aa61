from libc.stdint cimport uint8_t, uint16_t, uint32_t

from fastnode.buffers.pool cimport BufferPool
from fastnode.wire.lane cimport Lane


cdef class Encoder:
    # Frames in order; control overtakes data, so nothing in it may depend on data.
    cdef readonly Lane data
    cdef readonly Lane control
    # The largest frame the peer takes, header included.
    cdef size_t max_frame
    # The endpoint dictionary of this direction: name -> number < book_size.
    cdef dict book
    cdef list book_names
    cdef Py_ssize_t book_size
    cdef Py_ssize_t book_next
    # The last name used, compared by identity before the dictionary is asked.
    cdef str last_name
    cdef uint16_t last_number

    cdef int set_limits(self, size_t max_frame, Py_ssize_t endpoints) except -1
    cdef int number_of(self, str name) except -1
    cdef int message(self, str endpoint, bytes payload) except -1
    cdef int call(
        self, uint8_t kind, str endpoint, uint32_t call, bytes payload
    ) except -1
    cdef int reply(self, uint32_t call, bytes payload) except -1
    cdef int frame(
        self, Lane lane, uint8_t kind, uint16_t number, const unsigned char *body,
        size_t size
    ) except -1
    cdef int payload(
        self, Lane lane, uint8_t kind, uint16_t number, uint32_t call, bytes payload
    ) except -1
    cdef int large(
        self, Lane lane, uint8_t kind, uint16_t number, uint32_t call, bytes payload
    ) except -1
