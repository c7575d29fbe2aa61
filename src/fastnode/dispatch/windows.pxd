from libc.stdint cimport uint64_t

from fastnode.sending.outbox cimport Outbox
from fastnode.wire.decoder cimport Decoder
from fastnode.wire.frame cimport LANES


cdef class Windows:
    cdef Outbox outbox
    # Bytes by lane. owed: received and not yet granted again. held: payloads whose
    # handlers have not finished. Granting stops while held > room. under_way: of what
    # is held, that of asynchronous handlers that have begun and wait for no call.
    cdef uint64_t[LANES] window
    cdef uint64_t room
    cdef uint64_t[LANES] owed
    cdef uint64_t[LANES] held
    cdef uint64_t[LANES] under_way
    # Bytes of handlers that wait for calls of their own and are not held.
    cdef uint64_t excused
    # Only calls of handlers, and replies, are granted: the link holds what it received.
    cdef bint shut

    # The lanes where nothing is granted because too much is held, one bit each; and how
    # often a lane came to that.
    cdef unsigned int at_limit
    cdef uint64_t limited

    # Called where nothing is granted because too much is held; None: the peer does not
    # take PAUSE.
    cdef object on_full

    # Called when less is held, if somebody waits for it.
    cdef object on_less

    # Sees the incomplete messages; one of them waits for others.
    cdef Decoder decoder
    cdef bint waiting
    # The lane whose message goes on, or -1, and how much of it had come.
    cdef int first
    cdef uint64_t first_filled

    # Growing: how far; when each lane was granted last; the shortest round trip, how
    # many were measured, whether one is.
    cdef uint64_t ceiling
    cdef double[LANES] granted
    cdef double round_trip
    cdef int samples
    cdef bint probing
    cdef object loop
    # Measures one: returns an awaitable of the seconds.
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
