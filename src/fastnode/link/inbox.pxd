from libc.stdint cimport uint16_t, uint32_t, uint64_t

from fastnode.link.endpoint cimport Endpoint, EndpointRegistry
from fastnode.link.outbox cimport Outbox
from fastnode.link.windows cimport Windows
from fastnode.wire.decoder cimport Decoder


cdef class Inbox:
    cdef object loop
    cdef Outbox outbox
    cdef EndpointRegistry registry
    cdef object peer
    # The endpoint dictionaries of the peer's direction, number -> Endpoint, by lane, and
    # that of the data lane.
    cdef list books
    cdef list book
    cdef unsigned long generation

    # Flow control.
    cdef Windows windows

    # Handlers under way: task -> (Handling, awaitable); and those of calls by number,
    # None while parked or waiting. How many wait at endpoints that are full.
    cdef dict tasks
    cdef Py_ssize_t waiting
    cdef dict calls
    cdef object on_idle
    cdef object limited
    # (Endpoint, call or 0, payload, how), while the peer does not read its replies, or
    # while the messages of an older link have to be handled first; (None, 0, None, 0) is
    # MOVED.
    cdef object parked
    # Everything is parked until `release`. The peer's MOVED has come, and all before
    # it has been handled; called then.
    cdef bint holding
    cdef bint through
    cdef object on_through
    # The last call that came; calls that are cancelled before they came.
    cdef uint32_t last_call
    cdef set early_cancels
    # We said goodbye: a call that comes now cannot be replied any more.
    cdef bint calls_refused

    cdef uint64_t messages_received
    cdef uint64_t calls_received
    cdef uint64_t unhandled
    cdef uint64_t handler_errors

    cdef int define(self, int lane, uint16_t number, bytes name) except -1
    cdef Endpoint endpoint(self, int lane, uint16_t number)
    cdef int look_again(self) except -1
    cdef int message(self, int lane, uint16_t number, bytes payload) except -1
    cdef int call(self, Decoder decoder, bytes payload) except -1
    cdef int handle_message(self, Endpoint endpoint, bytes payload, int lane) except -1
    cdef int handle_call(
        self, Endpoint endpoint, uint32_t call, bytes payload, int lane
    ) except -1
    cdef int handle_confirmed(
        self, Endpoint endpoint, uint32_t call, bytes payload, int lane
    ) except -1
    cdef int handle(
        self, Endpoint endpoint, uint32_t call, bytes payload, int how
    ) except -1
    cdef int later(
        self, Endpoint endpoint, uint32_t call, bytes payload, int how
    ) except -1
    cdef int queue(
        self, Endpoint endpoint, uint32_t call, bytes payload, int how
    ) except -1
    cdef int rest(self) except -1
    cdef int leave(self) except -1
    cdef int park(
        self, Endpoint endpoint, uint32_t call, bytes payload, int how
    ) except -1
    cdef int hold(self) except -1
    cdef int release(self) except -1
    cdef int moved(self) except -1
    cdef bint busy(self) noexcept
    cdef int cancel(self, uint32_t call) except -1
    cdef int reply(self, uint32_t call, object result) except -1
    cdef int refuse(self, uint32_t call, int code, str name, str text) except -1
    cdef int start(
        self,
        object awaitable,
        object number,
        Endpoint endpoint,
        size_t size,
        int lane,
    ) except -1
    cdef int close(self) except -1
