from libc.stdint cimport uint64_t

from fastnode.sending.outbox cimport Outbox

cdef enum:
    # Bytes that a message set aside counts besides its payload: two objects and a place
    # in a list. A full window of empty messages can be set aside.
    ASIDE_BYTES = 128


cdef class PausedEndpoint:
    cdef str name
    # We have sent PAUSE and not yet RESUME.
    cdef bint paused
    # Bytes that were set aside for the endpoint and are not handled yet.
    cdef uint64_t size
    # A deque of deliveries that wait for handlers of this endpoint; None before the
    # first one.
    cdef object line


cdef class PausedEndpoints:
    cdef Outbox outbox
    # Name -> PausedEndpoint for each endpoint that is paused, has bytes set aside, or
    # has a line. The number of these endpoints.
    cdef dict by_name
    cdef Py_ssize_t count
    # For all endpoints together: bytes set aside, which are at most `most` and one
    # message; bytes of these that running asynchronous handlers hold, which are the
    # payloads and 1 KiB for each.
    cdef uint64_t size
    cdef uint64_t under_way
    # RESUME is sent when so few bytes of an endpoint are still set aside.
    cdef uint64_t low
    # The number of deliveries in lines; is called when one of them may begin.
    cdef Py_ssize_t in_lines
    cdef object on_less

    cdef PausedEndpoint add(self, str name)
    cdef bint fits(self, size_t size) noexcept
    cdef bint takes(self, str name, size_t size) except? True
    cdef int pause(self, PausedEndpoint record) except -1
    cdef int free(self, str name, size_t size) except -1
    cdef int forget(self, PausedEndpoint record) except -1
    cdef int less_under_way(self, size_t size) except -1
