from fastnode.link.calls cimport CallTable
from fastnode.link.connection cimport Connection
from fastnode.link.inbox cimport Inbox
from fastnode.link.keepalive cimport Keepalive
from fastnode.link.succession cimport Succession


cdef class LinkProtocol(Connection):
    cdef readonly object owner
    cdef readonly object settings
    cdef readonly bint dialer
    cdef Inbox inbox
    cdef CallTable calls
    cdef Keepalive keepalive
    cdef readonly Succession succession

    # Where the link stands (machine.State) and which kinds may come (a bit mask).
    cdef object state_
    cdef unsigned int allowed

    # The handshake: our HELLO, the peer's, and the judgement of it.
    cdef readonly object hello
    cdef readonly object peer_hello
    cdef object decision
    cdef readonly object established

    # Once it is up.
    cdef readonly object peer
    cdef readonly object link

    # The orderly end.
    cdef bint goodbye_received
    cdef object close_reason
    cdef readonly object error

    cdef int enter(self, event) except -1
    cdef int on_rare_frame(self, int kind) except -1
    cdef int say_hello(self) except -1
    cdef int on_hello(self, bytes body) except -1
    cdef int on_goodbye(self, bytes body) except -1
    cdef int come_up(self) except -1
    cdef int say_goodbye_if_ready(self) except -1
