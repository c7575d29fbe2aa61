from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastnode.wire.cut cimport Cut
from fastnode.wire.lane cimport Lane


cdef class ParkedMessage:
    # As given to the encoder. `payload` is None when its caller gave it up.
    cdef ParkedQueue queue
    cdef uint8_t kind
    cdef uint32_t call
    cdef int priority
    cdef bytes payload
    cdef bytes block
    cdef double deadline
    # Bytes that it counts as: those of its frame, and PARKED_BYTES.
    cdef size_t size


cdef class ParkedQueue:
    cdef str name
    # The peer has sent PAUSE and not yet RESUME.
    cdef bint paused
    # What was queued in the lanes before the PAUSE is still there.
    cdef bint fresh
    # `ParkedMessage`s in order, a deque for each priority.
    cdef object normal
    cdef object high
    # How many of them were given up.
    cdef Py_ssize_t dropped

    cdef Py_ssize_t messages(self) except -1
    cdef int drop(self, ParkedMessage message) except -1
    cdef int put_in_front(self, list messages, int priority) except -1


cdef class Parked:
    # Name -> ParkedQueue: of endpoints that are paused, or have something parked.
    cdef dict queues
    # How many of them are paused; how many are fresh.
    cdef Py_ssize_t paused
    cdef Py_ssize_t fresh
    # Number -> ParkedMessage: the calls and confirmed messages.
    cdef dict calls
    # Bytes that count as queued.
    cdef size_t size
    # Messages are being put back into the lanes.
    cdef bint feeding

    cdef size_t messages(self) except? 0
    cdef int clear(self) except -1
    cdef bint park(
        self,
        uint8_t kind,
        str endpoint,
        uint32_t call,
        bytes payload,
        int priority,
        bint nested,
        bytes block,
        double deadline,
    ) except? True
    cdef ParkedMessage add(
        self,
        ParkedQueue queue,
        uint8_t kind,
        uint32_t call,
        bytes payload,
        int priority,
        bytes block,
        double deadline,
    )
    cdef int forget(self, ParkedQueue queue) except -1
    cdef Cut find(self, Lane lane)
    cdef Cut take_out(self, Lane lane)
    cdef list fresh_at_front(self, Lane lane)
    cdef ParkedQueue fresh_queue(self, str name)
