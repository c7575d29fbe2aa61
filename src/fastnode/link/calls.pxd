from libc.stdint cimport uint32_t, uint64_t

from fastnode.dispatch.counters cimport NodeCounters
from fastnode.link.busy_poll cimport PolledReply
from fastnode.sending.outbox cimport Outbox
from fastnode.wire.decoder cimport Decoder

cdef enum:
    # The number in the header of a CANCEL for a call whose deadline is over.
    LATE = 1


cdef class CallTable:
    cdef Outbox outbox
    cdef object loop
    # The outstanding calls of this side: number -> Future.
    cdef dict waiting
    # The metadata of the replies to requests: number -> mapping.
    cdef dict found
    # The counters of the node.
    cdef NodeCounters counters
    # Calls that the peer did not begin, because their deadline was over.
    cdef uint64_t expired_there
    # Whether the log says already that the peer takes no metadata.
    cdef bint metadata_refused
    cdef uint32_t last
    # Calls that were queued since the last early flush.
    cdef Py_ssize_t unsent
    cdef PolledReply polled
    cdef object peer
    # Calls that had no answer when the link, or the peer's side of it, ended.
    cdef Py_ssize_t unanswered
    # Is called when no call waits any more.
    cdef object on_idle

    cdef int count_failed(self, error) except -1
    cdef uint32_t free_number(self) except 0
    cdef int replied(self, Decoder decoder, bytes payload) except -1
    cdef int take_metadata(self, uint32_t number, bytes block) except -1
    cdef int failed(self, Decoder decoder, bytes body) except -1
    cdef int close(self, error) except -1
