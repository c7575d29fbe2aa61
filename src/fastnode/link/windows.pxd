from libc.stdint cimport uint64_t

from fastnode.link.outbox cimport Outbox
from fastnode.wire.decoder cimport Decoder
from fastnode.wire.frame cimport LANES


cdef class Windows:
    cdef Outbox outbox
    # Bytes by lane. owed: received and not yet granted again. held: payloads whose
    # handlers have not finished. Granting stops while held > room.
    cdef uint64_t[LANES] window
    cdef uint64_t room
    cdef uint64_t[LANES] owed
    cdef uint64_t[LANES] held
    # Bytes of handlers that wait for calls of their own and are not held.
    cdef uint64_t excused
    # Nothing but calls of handlers is granted: what was received is parked.
    cdef bint shut

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

    cdef uint64_t least_grant(self, int lane) noexcept
    cdef int grow(self, int lane) except -1
    cdef int count(self, Decoder decoder) except -1
    cdef int received(self, int lane, size_t size) except -1
    cdef int grant(self, int lane) except -1
    cdef int open(self) except -1
    cdef int release(self, int lane, size_t size) except -1
    cdef bint excuse(self, int lane, size_t size) except? False
