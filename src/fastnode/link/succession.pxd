from fastnode.link.calls cimport CallTable
from fastnode.dispatch.dispatcher cimport Dispatcher
from fastnode.sending.outbox cimport Outbox


cdef class Succession:
    cdef object protocol
    cdef object loop
    cdef Outbox outbox
    cdef Dispatcher dispatcher
    cdef CallTable calls

    # Links (LinkProtocol) before and after this one, until either has ended.
    cdef public object predecessor
    cdef readonly object successor
    # Whether both sides can hand this link over.
    cdef readonly bint agreed
    # The ticket that the HELLO of a successor shows, bytes.
    cdef readonly object ticket
    # Whether the peer has sent MOVED on this link.
    cdef bint moved
    # Whether our successor has ended, and the peer may never have seen it come up.
    cdef bint bereaved
    # Futures: of the end of holding, None while nothing is held; of the successor for
    # which we have asked the peer.
    cdef readonly object held
    cdef object asked
    # Is called with the protocol when the peer asks for a successor.
    cdef public object on_asked

    cdef int on_frame(self, int kind, bytes body) except -1
    cdef int succeed(self, object successor) except -1
    cdef bint finished(self) noexcept
    cdef bint finished_here(self) noexcept
    cdef int link_ended(self, object error) except -1
