from fastnode.dispatch.dispatcher cimport Dispatcher
from fastnode.link.calls cimport CallTable
from fastnode.link.connection cimport Connection, FrameTaker
from fastnode.link.extensions cimport Extensions
from fastnode.link.handshake cimport Handshake
from fastnode.link.keepalive cimport Keepalive
from fastnode.link.succession cimport Succession
from fastnode.sending.outbox cimport Outbox
from fastnode.wire.decoder cimport Decoder


cdef class LinkProtocol(FrameTaker):
    # The parts of the link. The last two are parts of the connection.
    cdef readonly Connection connection
    cdef Handshake handshake
    cdef Dispatcher dispatcher
    cdef CallTable calls
    cdef Keepalive keepalive
    cdef readonly Succession succession
    cdef readonly Extensions extensions
    cdef Outbox outbox
    cdef Decoder decoder

    # Identifies the connection in log records of this process.
    cdef readonly object number

    cdef readonly object loop
    cdef readonly object owner
    cdef readonly object settings
    cdef readonly bint dialer

    # The state of the link (machine.State), and the kinds that may come (a bit mask).
    cdef object state_
    cdef unsigned int allowed

    # The peer, after it was accepted.
    cdef public object peer
    # The certificates whose name constraints bind the peer's certificate, in DER. The
    # engine forgets them after the peer was checked.
    cdef public tuple authorities
    # This dial wants an instance that is not linked; see `fastnode.link.instances`.
    cdef public bint additional
    # A future of the `Link`, done when the link is up. The object that users get.
    cdef readonly object established
    cdef readonly object link

    # Is called after a slow receive callback, with the name of the peer, the seconds
    # and the names of the endpoints.
    cdef object on_slow

    # When the connection was made, in seconds as of `seconds_now`.
    cdef double made

    # The orderly end.
    cdef bint goodbye_received
    cdef object close_reason
    cdef readonly object error
    # The unfinished work at the end: numbers of messages, bytes, calls and handlers.
    cdef tuple left

    cdef int peer_moved(self) except -1
    cdef int on_rare_frame(self, int kind) except -1
    cdef int hasten(self, double timeout) except -1
    cdef int close_for(self, reason, timeout, error) except -1
    cdef int on_goodbye(self, bytes body) except -1
    cdef int say_goodbye_if_ready(self) except -1
    cdef int end_part(
        self, int part, error, was, size_t messages, size_t queued
    ) except -1
