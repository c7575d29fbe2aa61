"""Connection: it turns the bytes of a transport into frames, and frames into bytes.

A connection joins the engine (TLS), the decoder and the outbox (frames) above a plain
TCP transport. Its taker, a `LinkProtocol`, handles the frames.

Rules for editors of this file. The taker may end the connection inside any of its `on_`
methods, so check `ended` after each call. After the end the connection half-closes. It
reads and discards bytes for LINGER_SECONDS. If a socket with unread bytes were closed,
the kernel would send a reset, and the peer might lose the last alert or GOODBYE.
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

# This option exists on Linux only.
cdef object USER_TIMEOUT = getattr(socket, "TCP_USER_TIMEOUT", None)


cdef class FrameTaker:
    """Takes the events of a connection. Methods that are not overridden do nothing."""

    cdef int on_made(self) except -1:
        """Take note that the TCP connection was made."""
        return 0

    cdef int on_secure(self) except -1:
        """Take note that the TLS handshake is complete on this side."""
        return 0

    cdef int on_bytes(self) except -1:
        """Take note that bytes of the peer have come."""
        return 0

    cdef int on_frame(self) except -1:
        """Handle the frame that the decoder holds."""
        return 0

    cdef int on_read(self) except -1:
        """Take note that all frames that had come are handled."""
        return 0

    cdef int on_dry(self) except -1:
        """Take note that all bytes that the socket had are read."""
        return 0

    cdef int on_end_of_stream(self) except -1:
        """Take note that the peer has ended its TLS stream."""
        return 0

    cdef int on_failure(self, error) except -1:
        """End the connection, because receiving or the engine failed."""
        return 0

    cdef int on_lost(self, exc) except -1:
        """Take note that the TCP connection is gone, although it had not ended."""
        return 0

    cdef int on_gone(self) except -1:
        """Drop all references back to this object, because the connection is gone.

        So the object is freed with its last user, without the garbage collector.
        """
        return 0


@cython.final
cdef class Connection:
    """The callbacks of an `asyncio.BufferedProtocol`: bytes to frames and back.

    Args:
        taker: takes the frames.
        engine: a fresh `TlsEngine`.
        pool: slabs of the node.
        receive_buffer: a writable buffer, shared with other links of this loop.
        context: the context in which the taker is called for received data.
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
        """Begin to use the TCP connection."""
        if self.ended:
            # The link was ended before the connection was made.
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
        """Return the buffer into which the transport writes ciphertext."""
        return self.receive_view

    def buffer_updated(self, Py_ssize_t nbytes):
        """Handle ciphertext that has come."""
        if not self.ended:
            self.take_in(nbytes, False)

    def eof_received(self):
        """Handle the end of the peer's stream. True: the transport stays open until
        `hang_up`. False: the transport closes itself after this."""
        if not self.ended:
            self.take_in(0, True)
        return self.half_open and not self.ended

    def pause_writing(self):
        """Stop writing, because the transport holds enough."""
        self.outbox.writable = False

    def resume_writing(self):
        """Continue writing, because the transport has room again."""
        self.outbox.writable = True
        self.outbox.flush()

    def connection_lost(self, exc):
        """End everything, because the TCP connection is gone."""
        try:
            if not self.ended and exc is not None:
                self.take_rest()
            if not self.ended:
                self.taker.on_lost(exc)
        finally:
            # These steps must run even if a callback above raised.
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

        If a write fails, the loop ends the connection at once. The reason, an alert or
        GOODBYE, may have come before the reset and may still be in the socket. The
        receive buffer of the kernel bounds the bytes that a peer can leave there.
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
            # Nothing is left (EAGAIN or the reset), or this is a transport of a test.
            log.debug(
                "no more can be read", exc_info=True, extra=fields("socket_not_read")
            )
        return 0

    cdef int filled(self) except -1:
        """Pause reading for a turn of the loop if the buffer was full twice.

        uvloop would read up to 32 times before other callbacks have their turn. Tasks
        that wait for a ping or call would have to wait meanwhile.
        """
        self.full_reads += 1
        if self.full_reads == 1:
            self.loop.call_soon(self.turned)
        elif self.full_reads == 2 and self.may_read():
            self.transport.pause_reading()
        return 0

    def turned(self):
        """Read on, because the other callbacks of the loop had their turn."""
        cdef bint paused = self.full_reads > 1
        self.full_reads = 0
        if paused and self.may_read():
            self.transport.resume_reading()

    cdef bint may_read(self) except? True:
        return self.transport is not None and not self.transport.is_closing()

    cdef int take_in(self, Py_ssize_t nbytes, bint eof) except -1:
        """Handle received bytes in the node's own context."""
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
            # All links share the buffer, so the engine has to copy what it still needs.
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
        """Let the engine copy the bytes of the receive buffer that it still needs."""
        try:
            self.engine.keep()
        except Exception as error:
            self.failed(error)
        return 0

    def failed(self, error):
        """End the connection, because receiving, sending or beginning a handler failed.
        """
        if self.taker is None:
            return
        try:
            self.taker.on_failure(error)
        except MemoryError:
            # There is not enough memory for an end in order.
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
                    # The end of the handshake and the first frames leave in one write.
                    # A server that refuses our certificate may reset the connection
                    # between two writes, and the second write would fail.
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
        # TLS itself may have an answer to send, to a KeyUpdate.
        self.outbox.push_output()
        return 0

    cdef int limit_unacknowledged(self, double seconds) except -1:
        """Let the kernel end the connection if sent bytes stay unacknowledged.

        This needs an option that only Linux has.

        Args:
            seconds: the time after which the connection ends.
        """
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
        """Send the last bytes of TLS, half-close, and linger."""
        # This frees the memory of the engine, even if the socket is closed already.
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
            # uvloop raises RuntimeError if a cancelled dial has closed the socket
            # without the transport.
            self.transport.abort()
        if not self.transport.is_closing():
            self.timer = self.loop.call_later(LINGER_SECONDS, self.transport.abort)
        return 0

    cdef int detach(self) except? -2:
        """Do not use the transport any more, because a parent process has it too.

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
        """Cut the connection at once, without an alert or GOODBYE."""
        if self.transport is not None:
            self.transport.abort()
        else:
            self.connection_lost(None)
