from fastnode.link.calls cimport CallTable
from fastnode.link.handshake cimport Handshake
from fastnode.link.inbox cimport Inbox
from fastnode.link.keepalive cimport Keepalive


cdef class LinkProtocol(Handshake):
    cdef Inbox inbox
    cdef CallTable calls
    cdef Keepalive keepalive

    # What users hold, once it is up.
    cdef readonly object link

    # The orderly end.
    cdef bint goodbye_received
    cdef object close_reason
    cdef readonly object error
    # What was not done at the end: messages, bytes, calls, handlers.
    cdef tuple left

    cdef int on_rare_frame(self, int kind) except -1
    cdef int close_for(self, reason, timeout, error) except -1
    cdef int on_goodbye(self, bytes body) except -1
    cdef int say_goodbye_if_ready(self) except -1
