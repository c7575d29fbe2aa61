from fastnode.dispatch.dispatcher cimport Dispatcher
from fastnode.sending.outbox cimport Outbox
from fastnode.wire.decoder cimport Decoder


cdef class Extensions:
    cdef object protocol
    cdef Decoder decoder
    cdef Outbox outbox
    cdef Dispatcher dispatcher
    # Both sides have announced the feature.
    cdef readonly bint agreed
    # One-way messages of ours that the peer dropped: it has no such endpoint.
    cdef readonly object dropped
    # The peer has said LEAVING; we have.
    cdef readonly bint leaving
    cdef readonly bint announced
    # Called with the protocol when the peer says LEAVING.
    cdef public object on_leaving
    # How long the orderly end may take if the peer begins it, seconds.
    cdef readonly double close_seconds

    cdef int on_frame(self, int kind, bytes body) except -1
    cdef int let_go(self) except -1
