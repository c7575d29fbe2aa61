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
    # Both sides can hand this link over.
    cdef readonly bint agreed
    # What the HELLO of a successor shows, bytes.
    cdef readonly object ticket
    # The peer has said MOVED here.
    cdef bint moved
    # Our successor has ended, and the peer may never have seen it.
    cdef bint bereaved
    # Futures: of the end of holding, None while nothing is held; of the successor that
    # we asked the peer for.
    cdef readonly object held
    cdef object asked
    # Called with the protocol when the peer asks for a successor.
    cdef public object on_asked

    cdef int on_frame(self, int kind, bytes body) except -1
    cdef int succeed(self, object successor) except -1
    cdef bint finished(self) noexcept
    cdef bint finished_here(self) noexcept
    cdef int link_ended(self, object error) except -1
