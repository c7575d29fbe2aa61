from fastnode.link.outbox cimport Outbox


cdef class Keepalive:
    cdef Outbox outbox
    cdef object loop
    # Called with the seconds of silence when the peer is taken for dead.
    cdef object on_dead
    cdef double interval
    cdef object timer
    # Something was received since the last tick; ticks in a row without.
    cdef bint heard
    cdef int silent

    # Pings that users wait for: body -> Future.
    cdef dict pings
    cdef unsigned long long last
    # Answers queued since none was.
    cdef unsigned int pongs

    cdef int pinged(self, bytes number) except -1
    cdef int pong(self, bytes number) except -1
    cdef int close(self, error) except -1
