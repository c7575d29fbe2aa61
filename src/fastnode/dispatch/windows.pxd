from libc.stdint cimport uint64_t

from fastnode.sending.outbox cimport Outbox
from fastnode.wire.decoder cimport Decoder
from fastnode.wire.frame cimport LANES


cdef class Windows:
    cdef Outbox outbox
    # Bytes by lane. owed: received and not yet granted again. held: payloads whose
    # handlers have not finished. Nothing is granted while held > room. under_way: the
    # part of held whose asynchronous handlers have begun and wait for no call.
    cdef uint64_t[LANES] window
    cdef uint64_t room
    cdef uint64_t[LANES] owed
    cdef uint64_t[LANES] held
    cdef uint64_t[LANES] under_way
    # Bytes of handlers that wait for calls of their own. They do not count as held.
    cdef uint64_t excused
    # Whether only calls of handlers and replies are granted, because the link holds its
    # deliveries.
    cdef bint shut

    # The lanes that grant nothing because too much is held, one bit each; and how often
    # a lane came to this state.
    cdef unsigned int at_limit
    cdef uint64_t limited

    # Is called when nothing is granted because too much is held; None if the peer does
    # not understand PAUSE.
    cdef object on_full

    # Is called when fewer bytes are held; may be None.
    cdef object on_less

    # The decoder, which has the incomplete messages; whether one of them waits for
    # others.
    cdef Decoder decoder
    cdef bint waiting
    # The lane whose message continues, or -1; and the bytes of it that had come.
    cdef int first
    cdef uint64_t first_filled

    # Growth of windows: the largest size; the time of the last grant of each lane; the
    # shortest round trip; how many were measured; whether a measurement runs.
    cdef uint64_t ceiling
    cdef double[LANES] granted
    cdef double round_trip
    cdef int samples
    cdef bint probing
    cdef object loop
    # Measures a round trip: returns an awaitable of its seconds.
    cdef object probe

    cdef int follow(self, Decoder decoder) noexcept
    cdef bint waits(self, int lane) noexcept
    cdef uint64_t least_grant(self, int lane) noexcept
    cdef int grow(self, int lane) except -1
    cdef int count(self, Decoder decoder) except -1
    cdef int received(self, int lane, size_t size) except -1
    cdef int grant(self, int lane) except -1
    cdef int open(self) except -1
    cdef int release(self, int lane, size_t size) except -1
    cdef int begin(self, int lane, size_t size) except -1
    cdef bint excuse(self, int lane, size_t size) noexcept
    cdef int excused_now(self, int lane, bint excused) except -1
    cdef int go_on(self, int lane, size_t size, bint excused) except -1
    cdef int handler_ended(self, int lane, size_t size) except -1
