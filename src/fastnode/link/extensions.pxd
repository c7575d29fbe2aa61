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
    # One-way messages of ours that the peer dropped, because it has no such endpoint.
    cdef readonly object dropped
    # Whether the peer has sent LEAVING; whether we have.
    cdef readonly bint leaving
    cdef readonly bint announced
    # Is called with the protocol when the peer sends LEAVING.
    cdef public object on_leaving
    # Seconds that the orderly end may take if the peer begins it.
    cdef readonly double close_seconds

    cdef int on_frame(self, int kind, bytes body) except -1
    cdef int let_go(self) except -1
