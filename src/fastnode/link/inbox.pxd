from libc.stdint cimport uint16_t, uint32_t, uint64_t

from fastnode.link.endpoint cimport Endpoint
from fastnode.link.message cimport Message
from fastnode.link.turns cimport Turns
from fastnode.wire.decoder cimport Decoder


cdef class Inbox(Turns):
    # The message that a handler was given and did not keep, to be used again.
    cdef Message spare
    # (Endpoint, call or 0, payload, how), while the peer does not read its replies, or
    # while the messages of an older link have to be handled first; (None, 0, None, 0)
    # is MOVED.
    cdef object parked
    # Everything is parked until `release`. The peer's MOVED has come, and all before
    # it has been handled, batches too; called then.
    cdef bint holding
    cdef bint all_came
    cdef bint through
    cdef object on_through
    # We said goodbye: a call that comes now cannot be replied any more.
    cdef bint calls_refused

    cdef uint64_t messages_received
    cdef uint64_t calls_received

    cdef int message(self, int lane, uint16_t number, bytes payload) except -1
    cdef int messages(self, Decoder decoder, object link) except -1
    cdef int call(self, Decoder decoder, bytes payload) except -1
    cdef int handle_message(self, Endpoint endpoint, bytes payload, int lane) except -1
    cdef int handle_call(
        self, Endpoint endpoint, uint32_t call, bytes payload, int lane
    ) except -1
    cdef int handle_confirmed(
        self, Endpoint endpoint, uint32_t call, bytes payload, int how
    ) except -1
    cdef int returned(
        self, Endpoint endpoint, object result, bytes payload, int lane
    ) except -1
    cdef int start_with(
        self,
        bytes payload,
        object awaitable,
        object number,
        Endpoint endpoint,
        int lane,
    ) except -1
    cdef int raised(self, Endpoint endpoint) except -1
    cdef int nobody(self, Endpoint endpoint) except -1
    cdef int come_through(self) except -1
    cdef int later(
        self, Endpoint endpoint, uint32_t call, bytes payload, int how
    ) except -1
    cdef int park(
        self, Endpoint endpoint, uint32_t call, bytes payload, int how
    ) except -1
    cdef int hold(self) except -1
    cdef int release(self) except -1
    cdef int moved(self) except -1
    cdef int close(self) except -1
