from libc.stdint cimport uint64_t

from fastnode.sending.outbox cimport Outbox

cdef enum:
    # What a message that was set aside counts as besides its payload: two objects and a
    # place. Bytes. A window of empty messages can be set aside as a whole.
    ASIDE_BYTES = 128


cdef class PausedEndpoint:
    cdef str name
    # We have sent PAUSE and not yet RESUME.
    cdef bint paused
    # What was set aside of it and is not handled yet, bytes.
    cdef uint64_t size
    # Deliveries that wait for handlers of this endpoint, a deque; None: never any.
    cdef object line


cdef class PausedEndpoints:
    cdef Outbox outbox
    # Name -> PausedEndpoint: what is paused, or has something set aside, or a line. How
    # many there are.
    cdef dict by_name
    cdef Py_ssize_t count
    # Of all of them: bytes set aside, at most `most` but for one message; and of these,
    # what asynchronous handlers that are under way hold, 1 KiB each and the payloads.
    cdef uint64_t size
    cdef uint64_t under_way
    # A RESUME is sent when so much of an endpoint is still set aside.
    cdef uint64_t low
    # How many deliveries wait in lines; called when one of them may begin.
    cdef Py_ssize_t in_lines
    cdef object on_less

    cdef PausedEndpoint add(self, str name)
    cdef bint fits(self, size_t size) noexcept
    cdef bint takes(self, str name, size_t size) except? True
    cdef int pause(self, PausedEndpoint record) except -1
    cdef int free(self, str name, size_t size) except -1
    cdef int forget(self, PausedEndpoint record) except -1
    cdef int less_under_way(self, size_t size) except -1
