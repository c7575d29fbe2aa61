"""Connection: bytes of a transport to frames, and frames to bytes.

It joins the engine (TLS), the decoder and the outbox (frames) above a plain TCP
transport. What the frames mean is for its taker, a `LinkProtocol`.

Rules for whoever edits this. The taker may end the connection inside any of its `on_`
methods: look at `ended` after each. After the end the connection half-closes, and reads
and discards for LINGER_SECONDS. Closing a socket with unread bytes would make the
kernel send a reset, which destroys the alert or goodbye that was written last.
"""

cimport cython
from libc.stdint cimport uint64_t

from fastnode.buffers.pool cimport BufferPool
from fastnode.dispatch.context cimport HandlerContext
from fastnode.dispatch.stopwatch cimport Stopwatch, reach
from fastnode.sending.outbox cimport Outbox
from fastnode.tls.engine cimport ENDED, WANT_MORE
from fastnode.wire.decoder cimport Decoder
from fastnode.wire.frame cimport CALL, CONFIRM, MESSAGE

import asyncio
import logging
import os
import socket

from fastnode.limits import (
    LINGER_SECONDS,
    MAX_HELLO_BYTES,
    TRANSPORT_HIGH_WATER_BYTES,
)
from fastnode.loggers import fields

log = logging.getLogger("fastnode.link")

# Linux only.
cdef object USER_TIMEOUT = getattr(socket, "TCP_USER_TIMEOUT", None)


cdef class FrameTaker:
    """What a connection tells. Each method does nothing unless it is overridden."""

    cdef int on_made(self) except -1:
        """The TCP connection is there."""
        return 0

    cdef int on_secure(self) except -1:
        """The TLS handshake is complete on this side."""
        return 0

    cdef int on_bytes(self) except -1:
        """Something was heard of the peer."""
        return 0

    cdef int on_frame(self) except -1:
        """The decoder holds a frame."""
        return 0

    cdef int on_read(self) except -1:
        """All frames that had come are handled."""
        return 0

    cdef int on_dry(self) except -1:
        """All that the socket had is read."""
        return 0

    cdef int on_end_of_stream(self) except -1:
        """The peer's TLS said that it sends no more."""
        return 0

    cdef int on_failure(self, error) except -1:
        """Receiving or the engine failed; ends the connection."""
        return 0

    cdef int on_lost(self, exc) except -1:
        """The TCP connection is gone, and it had not ended before."""
        return 0

    cdef int on_gone(self) except -1:
        """The TCP connection is gone: let go of whatever refers back to this object,
        so that it is freed with its last user and not by the garbage collector."""
        return 0


@cython.final
cdef class Connection:
    """The callbacks of an `asyncio.BufferedProtocol`: bytes to frames and back.

    Args:
        taker: takes the frames.
        engine: a fresh `TlsEngine`.
        pool: slabs of the node.
        receive_buffer: a writable buffer, shared with other links of this loop.
        context: in which the taker is called for what was received.
    """

    def __init__(
        self,
        FrameTaker taker not None,
        engine,
        BufferPool pool not None,
        receive_buffer,
        HandlerContext context not None,
    ):
        self.loop = asyncio.get_running_loop()
        self.taker = taker
        self.context = context
        self.engine = engine
        self.receive_view = memoryview(receive_buffer)
        self.receive = receive_buffer
        self.decoder = Decoder(pool, MAX_HELLO_BYTES + 8, 0)
        self.outbox = Outbox(self.loop, engine, pool)
        self.outbox.on_error = self.failed
        self.watch = Stopwatch()
        self.gone = self.loop.create_future()
        self.began = self.loop.time()

    # --- transport callbacks --------------------------------------------------

    def connection_made(self, transport):
        """The TCP connection is there."""
        if self.ended:
            # It was given up before.
            transport.abort()
            return
        peername = transport.get_extra_info("peername")
        self.address = tuple(peername[:2]) if peername else ("", 0)
        self.transport = transport
        self.outbox.write = transport.write
        transport.set_write_buffer_limits(high=TRANSPORT_HIGH_WATER_BYTES)
        self.taker.on_made()
        self.take_in(0, False)

    def get_buffer(self, sizehint):
        """Where the transport puts ciphertext."""
        return self.receive_view

    def buffer_updated(self, Py_ssize_t nbytes):
        """Ciphertext has come."""
        if not self.ended:
            self.take_in(nbytes, False)

    def eof_received(self):
        """The peer sends no more. True: the transport stays open until `hang_up`.
        False: it closes itself after this."""
        if not self.ended:
            self.take_in(0, True)
        return self.half_open and not self.ended

    def pause_writing(self):
        """The transport holds enough."""
        self.outbox.writable = False

    def resume_writing(self):
        """The transport takes more."""
        self.outbox.writable = True
        self.outbox.flush()

    def connection_lost(self, exc):
        """The TCP connection is gone."""
        try:
            if not self.ended and exc is not None:
                self.take_rest()
            if not self.ended:
                self.taker.on_lost(exc)
        finally:
            # Whatever went wrong, nobody waits for this connection any more.
            self.stop_timer()
            self.transport = None
            self.outbox.write = None
            self.receive_view = None
            if not self.gone.done():
                self.gone.set_result(None)
            self.outbox.on_error = None
            taker, self.taker = self.taker, None
            if taker is not None:
                (<FrameTaker>taker).on_gone()

    # --- receiving ------------------------------------------------------------

    cdef int take_rest(self) except -1:
        """Read what the peer sent before it reset the connection.

        A write that fails makes the loop end the connection at once. The reason, an
        alert or a goodbye, may have come before the reset, and is still in the socket.
        What a peer can leave there is bounded by the receive buffer of the kernel.
        """
        cdef Py_ssize_t got
        self.outbox.write = None
        if self.transport is None:
            return 0
        try:
            descriptor = self.transport.get_extra_info("socket").fileno()
            protocol = self.transport.get_protocol()
            while descriptor >= 0 and not self.ended:
                got = os.readv(descriptor, [protocol.get_buffer(-1)])
                if got == 0:
                    break
                protocol.buffer_updated(got)
        except (AttributeError, OSError):
            # Nothing is left: EAGAIN, or the reset. Or it is a transport of a test.
            log.debug(
                "no more can be read", exc_info=True, extra=fields("socket_not_read")
            )
        return 0

    cdef int filled(self) except -1:
        """There is more: uvloop would read up to 32 times before anything else on the
        loop has its turn, and who waits for a ping or call is resumed there."""
        self.full_reads += 1
        if self.full_reads == 1:
            self.loop.call_soon(self.turned)
        elif self.full_reads == 2 and self.may_read():
            self.transport.pause_reading()
        return 0

    def turned(self):
        """The others had their turn: read on."""
        cdef bint paused = self.full_reads > 1
        self.full_reads = 0
        if paused and self.may_read():
            self.transport.resume_reading()

    cdef bint may_read(self) except? True:
        return self.transport is not None and not self.transport.is_closing()

    cdef int take_in(self, Py_ssize_t nbytes, bint eof) except -1:
        """Receive, in the node's own context."""
        cdef bint entered = self.context.enter()
        try:
            return self.receive_guarded(nbytes, eof)
        finally:
            if entered:
                self.context.leave()

    cdef int receive_guarded(self, Py_ssize_t nbytes, bint eof) except -1:
        cdef bint kept = False
        self.taker.on_bytes()
        self.watch.start()
        self.outbox.in_read = True
        try:
            if nbytes:
                self.bytes_received += <uint64_t>nbytes
                self.engine.feed(&self.receive[0], <size_t>nbytes)
            if eof:
                self.engine.feed_eof()
            self.advance()
            # The buffer is that of all links.
            self.engine.keep()
            kept = True
        except Exception as error:
            self.failed(error)
        finally:
            self.outbox.in_read = False
            if not kept:
                self.keep_after_failure()
        if self.outbox.scheduled:
            self.outbox.scheduled = False
            self.outbox.flush()
        if nbytes == self.receive.shape[0]:
            self.filled()
        return 0

    cdef int keep_after_failure(self) except -1:
        """Have the engine copy what it still needs of the receive buffer."""
        try:
            self.engine.keep()
        except Exception as error:
            self.failed(error)
        return 0

    def failed(self, error):
        """Receiving has failed; or the engine, while it was given something to send; or
        a handler could not be begun. This ends the connection."""
        if self.taker is None:
            return
        try:
            self.taker.on_failure(error)
        except MemoryError:
            # There is no memory for an end in order.
            if not self.ended:
                self.abort()

    cdef int advance(self) except -1:
        cdef int done
        if not self.secure:
            done = self.engine.handshake()
            if done:
                self.secure = True
                self.taker.on_secure()
                if self.outbox.scheduled and not self.ended:
                    # One write for the end of the handshake and for what follows it. A
                    # server that refuses our certificate may reset the connection
                    # between two writes, and the second would fail.
                    self.outbox.scheduled = False
                    self.outbox.flush()
            self.outbox.push_output()
            if not done:
                return 0
        return self.read_frames()

    cdef int read_frames(self) except -1:
        cdef unsigned char *at
        cdef size_t room
        cdef Py_ssize_t got
        while not self.ended:
            room = self.decoder.reserve(&at)
            got = self.engine.read(at, room)
            if got == WANT_MORE:
                break
            if got == ENDED:
                self.taker.on_end_of_stream()
                break
            self.decoder.commit(<size_t>got)
            while self.decoder.next():
                if (
                    self.decoder.kind == MESSAGE
                    or self.decoder.kind == CALL
                    or self.decoder.kind == CONFIRM
                ):
                    reach(self.watch, self.decoder.lane, self.decoder.number)
                self.taker.on_frame()
                if self.ended:
                    return 0
            self.taker.on_read()
            self.watch.lap()
        if self.ended:
            return 0
        self.taker.on_dry()
        if self.ended:
            return 0
        self.decoder.rest()
        # Answers of TLS itself: KeyUpdate.
        self.outbox.push_output()
        return 0

    cdef int limit_unacknowledged(self, double seconds) except -1:
        """Let the kernel end the connection when what was sent is not acknowledged for
        so long, where it can."""
        if USER_TIMEOUT is None or self.transport is None:
            return 0
        sock = self.transport.get_extra_info("socket")
        if sock is None:
            return 0
        try:
            sock.setsockopt(
                socket.IPPROTO_TCP, USER_TIMEOUT, max(int(seconds * 1000), 1)
            )
        except OSError:
            log.debug(
                "no TCP_USER_TIMEOUT",
                exc_info=True,
                extra=fields("socket_option_refused", option="TCP_USER_TIMEOUT"),
            )
        return 0

    # --- the end --------------------------------------------------------------

    cdef int stop_timer(self) except -1:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        return 0

    cdef int hang_up(self) except -1:
        """Send what TLS has to say, half-close, and linger."""
        # Its memory is freed whatever has become of the socket.
        self.engine.close()
        if self.transport is None or self.transport.is_closing():
            return 0
        try:
            self.outbox.push_output()
            if self.half_open:
                # Nothing is left to read, so it can close as soon as all is written.
                self.transport.close()
                self.timer = self.loop.call_later(LINGER_SECONDS, self.transport.abort)
                return 0
            if self.transport.can_write_eof():
                self.transport.write_eof()
        except (OSError, RuntimeError):
            # uvloop raises RuntimeError where a dial that was cancelled has closed
            # the socket behind the transport's back.
            self.transport.abort()
        if not self.transport.is_closing():
            self.timer = self.loop.call_later(LINGER_SECONDS, self.transport.abort)
        return 0

    cdef int detach(self) except? -2:
        """Leave the transport alone from now on: a parent process has it too.

        Returns:
            The descriptor of its socket, -1 if there is none.
        """
        cdef object sock = None
        if self.transport is not None:
            sock = self.transport.get_extra_info("socket")
        self.transport = None
        self.outbox.write = None
        return -1 if sock is None else sock.fileno()

    async def wait_gone(self):
        """Wait until the connection is gone."""
        await asyncio.shield(self.gone)

    def abort(self):
        """Cut the connection at once, without a word."""
        if self.transport is not None:
            self.transport.abort()
        else:
            self.connection_lost(None)
