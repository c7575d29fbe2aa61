from libc.stdint cimport uint64_t

from fastnode.dispatch.context cimport HandlerContext
from fastnode.dispatch.stopwatch cimport Stopwatch
from fastnode.sending.outbox cimport Outbox
from fastnode.tls.engine cimport TlsEngine
from fastnode.wire.decoder cimport Decoder


cdef class FrameTaker:
    cdef int on_made(self) except -1
    cdef int on_secure(self) except -1
    cdef int on_bytes(self) except -1
    cdef int on_frame(self) except -1
    cdef int on_read(self) except -1
    cdef int on_dry(self) except -1
    cdef int on_end_of_stream(self) except -1
    cdef int on_failure(self, error) except -1
    cdef int on_lost(self, exc) except -1
    cdef int on_gone(self) except -1


cdef class Connection:
    cdef readonly object loop
    cdef TlsEngine engine
    cdef Decoder decoder
    cdef Outbox outbox
    cdef Stopwatch watch
    # Takes the frames and all other events; None when the connection is gone.
    cdef FrameTaker taker
    # The context in which received data is handled.
    cdef HandlerContext context

    # Ciphertext is read into one buffer that all links of a node share: it is
    # consumed before control returns to the loop.
    cdef object receive_view
    cdef const unsigned char[::1] receive

    cdef object transport
    # Reads of this loop turn that filled the buffer.
    cdef int full_reads
    cdef public object address
    cdef uint64_t bytes_received

    # Whether TLS is up. Whether reading has ended; the taker sets this before
    # `hang_up`.
    cdef bint secure
    cdef bint ended
    # The peer sends no more, and the taker needs the connection for longer.
    cdef bint half_open
    # The timer of the current deadline: of the handshake, of the end, or of lingering.
    cdef object timer
    # When the time of the handshake began, which is before the connection was made.
    cdef public double began
    cdef readonly object gone

    cdef int take_rest(self) except -1
    cdef int filled(self) except -1
    cdef bint may_read(self) except? True
    cdef int take_in(self, Py_ssize_t nbytes, bint eof) except -1
    cdef int receive_guarded(self, Py_ssize_t nbytes, bint eof) except -1
    cdef int keep_after_failure(self) except -1
    cdef int advance(self) except -1
    cdef int read_frames(self) except -1
    cdef int stop_timer(self) except -1
    cdef int hang_up(self) except -1
    cdef int detach(self) except? -2
    cdef int limit_unacknowledged(self, double seconds) except -1
