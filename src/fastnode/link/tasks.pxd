from libc.stdint cimport uint32_t, uint64_t

from fastnode.link.endpoint cimport Endpoint, EndpointRegistry
from fastnode.link.handling cimport Handling, HandlingOwner
from fastnode.link.outbox cimport Outbox

cdef enum:
    # What a message under way costs besides its payload: task, message, bookkeeping.
    TASK_BYTES = 1024


cdef class HandlerTasks(HandlingOwner):
    cdef object loop
    cdef Outbox outbox
    cdef object peer
    # For what follows the end of a handler: contextvars of one must not reach another.
    cdef object context

    # Handlers under way: Handling -> task; and those of calls by number, None while
    # parked or waiting.
    cdef dict tasks
    cdef dict calls
    cdef object on_idle
    cdef EndpointRegistry registry
    # The last call that came; calls that are cancelled before they came.
    cdef uint32_t last_call
    cdef set early_cancels

    cdef uint64_t unhandled
    cdef uint64_t handler_errors

    cdef int reply(self, uint32_t call, object result) except -1
    cdef int refuse(self, uint32_t call, int code, str name, str text) except -1
    cdef int refuse_for(self, uint32_t call, object error) except -1
    cdef Handling start(
        self,
        object awaitable,
        object number,
        Endpoint endpoint,
        size_t size,
        int lane,
    )
    cdef int free_of(self, Handling handling) except -1
    cdef int answer(
        self, Endpoint endpoint, uint32_t call, object result, object error
    ) except -1
    cdef int cancel(self, uint32_t call) except -1
    cdef int cancel_task(self, object handling) except -1
    cdef int batch_done(self, object batch) except -1
    cdef int handler_failed(self, Endpoint endpoint, object error) except -1
    cdef bint busy(self) noexcept
    cdef int rest(self) except -1
