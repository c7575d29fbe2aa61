from libc.stdint cimport uint32_t

from fastnode.link.busy_poll cimport PolledReply
from fastnode.sending.outbox cimport Outbox


cdef class CallTable:
    cdef Outbox outbox
    cdef object loop
    # The outstanding calls of this side: number -> Future.
    cdef dict waiting
    cdef uint32_t last
    # Calls that were queued since some left early.
    cdef Py_ssize_t unsent
    cdef PolledReply polled
    cdef object peer
    # Calls that were under way when the link, or the peer's part of it, ended.
    cdef Py_ssize_t unanswered
    # Called when no call waits any more.
    cdef object on_idle

    cdef uint32_t free_number(self) except 0
    cdef int replied(self, uint32_t number, bytes payload) except -1
    cdef int failed(self, uint32_t number, bytes body) except -1
    cdef int close(self, error) except -1
