from libc.stdint cimport uint64_t

from fastnode.buffers.pool cimport BufferPool
from fastnode.link.calls cimport CallTable
from fastnode.link.endpoint cimport EndpointRegistry
from fastnode.link.inbox cimport Inbox
from fastnode.link.outbox cimport Outbox
from fastnode.tls.engine cimport TlsEngine
from fastnode.wire.decoder cimport Decoder


cdef class LinkProtocol:
    cdef readonly object loop
    cdef readonly object owner
    cdef readonly object settings
    cdef readonly bint dialer
    cdef TlsEngine engine
    cdef Decoder decoder
    cdef Outbox outbox
    cdef Inbox inbox
    cdef CallTable calls

    # Ciphertext is read into one buffer that all links of a node share: it is
    # consumed before control returns to the loop.
    cdef object receive_view
    cdef const unsigned char[::1] receive

    cdef object transport
    cdef readonly object address
    cdef uint64_t bytes_received
    # Something was received since the last tick of the keepalive.
    cdef bint heard
    cdef int silent_ticks

    # Where the link stands (machine.State) and which kinds may come (a bit mask).
    cdef object state_
    cdef unsigned int allowed

    # The handshake: its deadline, the peer's HELLO and the judgement of it.
    cdef object timer
    cdef readonly object peer_hello
    cdef object decision
    cdef readonly object established

    # Once it is up.
    cdef readonly object peer
    cdef readonly object link
    cdef dict pings
    cdef uint64_t last_ping

    # The orderly end.
    cdef bint goodbye_sent
    cdef bint goodbye_received
    cdef object close_reason
    cdef readonly object error
    cdef readonly object gone

    cdef int enter(self, event) except -1
    cdef int advance(self) except -1
    cdef int read_frames(self) except -1
    cdef int on_frame(self) except -1
    cdef int on_rare_frame(self, int kind) except -1
    cdef int on_hello(self, bytes body) except -1
    cdef int on_goodbye(self, bytes body) except -1
    cdef int come_up(self) except -1
    cdef int on_end_of_stream(self) except -1
    cdef int say_goodbye_if_ready(self) except -1
    cdef int hang_up(self) except -1
