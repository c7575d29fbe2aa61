from libc.stdint cimport uint16_t, uint32_t, uint64_t

from fastnode.dispatch.batches cimport Batches
from fastnode.dispatch.congestion cimport Congestion
from fastnode.dispatch.endpoint cimport EndpointNumbers, EndpointRegistry
from fastnode.dispatch.handler cimport Handlers
from fastnode.dispatch.queue cimport DeliveryQueue
from fastnode.dispatch.stopwatch cimport Stopwatch
from fastnode.dispatch.windows cimport Windows
from fastnode.sending.outbox cimport Outbox
from fastnode.wire.decoder cimport Decoder
from fastnode.wire.extension cimport Extension


cdef class Dispatcher:
    cdef Outbox outbox
    cdef EndpointRegistry registry
    cdef EndpointNumbers numbers
    cdef Stopwatch watch
    cdef Windows windows
    cdef Handlers handlers
    cdef Batches batches
    cdef DeliveryQueue queue
    cdef Congestion congestion

    # Cancellations that came before their calls: number of the call -> number of calls
    # that had come at that time.
    cdef dict early_cancels
    # The link has ended.
    cdef bint closed
    # We have sent GOODBYE, so a call that comes now gets no reply any more.
    cdef bint calls_refused
    # The peer's MOVED has come and all frames before it have begun; all of them,
    # batches included, are handled.
    cdef bint all_came
    cdef readonly bint through
    # Are called when `through` becomes true, and when nothing is left to do.
    cdef object on_through
    cdef object on_idle

    cdef uint64_t calls_received
    # Calls and confirmed messages together.
    cdef uint64_t numbered

    cdef int message(self, int lane, uint16_t number, bytes payload) except -1
    cdef int messages(self, Decoder decoder) except -1
    cdef int call(self, Decoder decoder, bytes payload) except -1
    cdef int extended_message(self, Decoder decoder, bytes payload) except -1
    cdef Extension extension_of(self, Decoder decoder)
    cdef int cancel(self, uint32_t call, bint late) except -1
    cdef bint is_cancelled(self, uint32_t call) except? True
    cdef int dry(self) except -1
    cdef int hold_deliveries(self) except -1
    cdef int release(self) except -1
    cdef int moved(self) except -1
    cdef int tell_idle(self, callback) except -1
    cdef bint busy(self) noexcept
    cdef int close(self) except -1
    cdef int let_go(self) except -1
