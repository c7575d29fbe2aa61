"""LinkProtocol: the only place with transport callbacks.

It joins the engine (TLS), the decoder and the outbox (frames), the inbox and the
call table (handlers, callers) and the states of `fastnode.link.machine`, above a
plain TCP transport. Its owner, an acceptor or a dialer, judges the peer.

Rules for whoever edits this. Handlers run inside `buffer_updated`: after every call
that may reach one, the state may have changed. All ways to the end lead through
`end`. Nothing is written after it but what it wrote itself: the alert or goodbye;
then it half-closes, and reads and discards for LINGER_SECONDS, because closing a
socket with unread bytes makes the kernel send a reset that destroys what it wrote.
"""

cimport cython
from libc.stdint cimport uint64_t

from fastnode.buffers.pool cimport BufferPool
from fastnode.link.calls cimport CallTable
from fastnode.link.endpoint cimport EndpointRegistry
from fastnode.link.inbox cimport Inbox
from fastnode.link.outbox cimport Outbox
from fastnode.tls.engine cimport ENDED, WANT_MORE
from fastnode.wire.decoder cimport Decoder
from fastnode.wire.frame cimport (
    ACCEPT,
    CALL,
    CANCEL,
    CREDIT,
    ENDPOINT,
    ERROR,
    GOODBYE,
    HELLO,
    MESSAGE,
    PING,
    PONG,
    REPLY,
    get32,
)

import asyncio
import logging
from struct import Struct
from time import perf_counter

from fastnode.errors import (
    CloseReason,
    FastnodeError,
    HandshakeError,
    HandshakeTimeout,
    LinkClosed,
    LinkLost,
    ProtocolError,
    Side,
    refusal_from_wire,
    renewed,
)
from fastnode.limits import (
    CLOSE_TIMEOUT_SECONDS,
    KEEPALIVE_MISSES,
    LINGER_SECONDS,
    MAX_FRAME_BYTES,
    MAX_HELLO_BYTES,
    TRANSPORT_HIGH_WATER_BYTES,
)
from fastnode.link.link import Link
from fastnode.link.machine import Event, State, frame_mask, next_state
from fastnode.link.stats import LinkStats
from fastnode.tls.engine import TLS_ERRORS
from fastnode.tls.refusal import local_refusal
from fastnode.wire.goodbye import decode_goodbye, encode_goodbye
from fastnode.wire.hello import Hello

log = logging.getLogger("fastnode.link")

cdef object PING_NUMBER = Struct(">Q")

# Codes of a GOODBYE below this end a link in order.
cdef enum:
    FIRST_REFUSAL = 16


@cython.final
cdef class LinkProtocol:
    """The callbacks of an `asyncio.BufferedProtocol` that becomes a link.

    Args:
        engine: a fresh `TlsEngine`.
        owner: judges the peer and hears how the link fares; see `LinkOwner`.
        settings: limits and times.
        registry: the endpoints of the node.
        pool: slabs of the node.
        receive_buffer: a writable buffer, shared with other links of this loop.
        dialer: whether we made the connection.
    """

    def __init__(
        self,
        engine,
        owner,
        settings,
        EndpointRegistry registry not None,
        BufferPool pool not None,
        receive_buffer,
        *,
        bint dialer,
    ):
        self.loop = asyncio.get_running_loop()
        self.engine = engine
        self.owner = owner
        self.settings = settings
        self.dialer = dialer
        self.receive_view = memoryview(receive_buffer)
        self.receive = receive_buffer
        self.decoder = Decoder(pool, MAX_HELLO_BYTES + 8, 0)
        self.outbox = Outbox(self.loop, engine, pool)
        self.outbox.high_water = settings.high_water
        self.outbox.low_water = settings.low_water
        self.outbox.most = settings.max_queued
        self.outbox.on_error = self.engine_failed
        self.inbox = Inbox(self.loop, self.outbox, registry, settings.hello.window)
        self.calls = CallTable(self.loop, self.outbox)
        self.state_ = State.TLS
        self.pings = {}
        self.established = self.loop.create_future()
        self.gone = self.loop.create_future()

    @property
    def state(self):
        """Where the link stands."""
        return self.state_

    cdef int enter(self, event) except -1:
        self.state_ = next_state(self.state_, event)
        self.allowed = frame_mask(self.state_)
        return 0

    # --- transport callbacks --------------------------------------------------

    def connection_made(self, transport):
        """The TCP connection is there."""
        peername = transport.get_extra_info("peername")
        self.address = tuple(peername[:2]) if peername else ("", 0)
        self.transport = transport
        self.outbox.write = transport.write
        transport.set_write_buffer_limits(high=TRANSPORT_HIGH_WATER_BYTES)
        self.timer = self.loop.call_later(
            self.settings.handshake_timeout, self.handshake_expired
        )
        self.receive_guarded(0, False)

    def get_buffer(self, sizehint):
        """Where the transport puts ciphertext."""
        return self.receive_view

    def buffer_updated(self, Py_ssize_t nbytes):
        """Ciphertext has come."""
        if self.state_ is State.CLOSED:
            return
        self.receive_guarded(nbytes, False)

    def eof_received(self):
        """The peer sends no more; the transport closes itself after this."""
        if self.state_ is not State.CLOSED:
            self.receive_guarded(0, True)
        return False

    def pause_writing(self):
        """The transport holds enough."""
        self.outbox.writable = False

    def resume_writing(self):
        """The transport takes more."""
        self.outbox.writable = True
        self.outbox.flush()

    def connection_lost(self, exc):
        """The TCP connection is gone."""
        if self.state_ is not State.CLOSED:
            if self.state_ < State.UP:
                error = HandshakeError(
                    "the connection was lost before the handshake was complete"
                    + (f": {exc}" if exc else ""),
                    peer=self.peer_text(),
                    side=Side.REMOTE,
                    hint="see the log of the other side",
                )
            else:
                error = self.lost("the connection was lost", exc)
            self.end(error)
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        self.transport = None
        self.outbox.write = None
        self.receive_view = None
        if not self.gone.done():
            self.gone.set_result(None)

    # --- receiving ------------------------------------------------------------

    def receive_guarded(self, Py_ssize_t nbytes, bint eof):
        """Work on what came; whatever goes wrong ends this link and nothing else."""
        self.heard = True
        self.outbox.in_read = True
        try:
            if nbytes:
                self.bytes_received += <uint64_t>nbytes
                self.engine.feed(&self.receive[0], <size_t>nbytes)
            if eof:
                self.engine.feed_eof()
            self.advance()
        except TLS_ERRORS as error:
            self.engine_failed(error)
        except ProtocolError as error:
            self.end(error, CloseReason.PROTOCOL_ERROR, error.message, error.hint)
        except Exception as error:
            log.exception("internal error on the link with %s", self.peer_text())
            self.end(
                self.lost(f"internal error: {type(error).__name__}", error, Side.LOCAL),
                CloseReason.INTERNAL_ERROR,
                "internal error",
            )
        finally:
            self.outbox.in_read = False
        if self.outbox.scheduled:
            self.outbox.scheduled = False
            self.outbox.flush()

    cdef int advance(self) except -1:
        cdef int done
        if self.state_ is State.TLS:
            done = self.engine.handshake()
            if done:
                self.tls_done()
            self.outbox.push_output()
            if not done:
                return 0
        return self.read_frames()

    cdef int read_frames(self) except -1:
        cdef unsigned char *at
        cdef size_t room
        cdef Py_ssize_t got
        while self.state_ is not State.CLOSED:
            room = self.decoder.reserve(&at)
            got = self.engine.read(at, room)
            if got == WANT_MORE:
                break
            if got == ENDED:
                self.on_end_of_stream()
                break
            self.decoder.commit(<size_t>got)
            while self.decoder.next():
                self.on_frame()
                if self.state_ is State.CLOSED:
                    return 0
            if self.decoder.data_bytes:
                self.inbox.received(self.decoder.data_bytes)
                self.decoder.data_bytes = 0
        if self.state_ is State.CLOSED:
            return 0
        self.decoder.rest()
        # Answers of TLS itself: KeyUpdate.
        self.outbox.push_output()
        return 0

    cdef int on_frame(self) except -1:
        cdef int kind = self.decoder.kind
        cdef bytes payload = self.decoder.payload
        self.decoder.payload = None
        if not (self.allowed >> kind) & 1:
            raise ProtocolError(
                f"the peer sent a frame of kind {kind} while the link is "
                f"{self.state_.name}",
                side=Side.REMOTE,
            )
        if kind == MESSAGE:
            return self.inbox.message(self.decoder.number, payload)
        if kind == CALL:
            return self.inbox.call(self.decoder.number, self.decoder.call, payload)
        if kind == REPLY:
            return self.calls.replied(self.decoder.call, payload)
        if kind == CREDIT:
            return self.outbox.add_credit(
                get32(<const unsigned char *><const char *>payload)
            )
        if kind == ENDPOINT:
            return self.inbox.define(self.decoder.number, payload)
        self.decoder.payload = payload
        return self.on_rare_frame(kind)

    cdef int on_rare_frame(self, int kind) except -1:
        cdef bytes payload = self.decoder.payload
        self.decoder.payload = None
        if kind == HELLO:
            return self.on_hello(payload)
        if kind == ACCEPT:
            self.enter(Event.ACCEPT_RECEIVED)
            return self.come_up()
        if kind == ERROR:
            return self.calls.failed(self.decoder.call, payload)
        if kind == CANCEL:
            return self.inbox.cancel(self.decoder.call)
        if kind == PING:
            return self.outbox.frame(PONG, 0, payload)
        if kind == PONG:
            waiter = self.pings.pop(payload, None)
            if waiter is not None and not waiter.done():
                waiter.set_result(None)
            return 0
        assert kind == GOODBYE
        return self.on_goodbye(payload)

    # --- the handshake --------------------------------------------------------

    def tls_done(self):
        """TLS is up: the dialer introduces itself."""
        alpn = self.engine.alpn
        if alpn != self.owner.alpn:
            raise HandshakeError(
                f"the peer did not agree on the application protocol "
                f"{self.owner.alpn!r} (ALPN), but on {alpn!r}",
                peer=self.peer_text(),
                side=Side.LOCAL,
                hint="it is not a fastnode peer",
            )
        self.enter(Event.TLS_DONE)
        if self.dialer:
            self.outbox.frame(HELLO, 0, self.settings.hello.encode())

    cdef int on_hello(self, bytes body) except -1:
        self.peer_hello = Hello.decode(body)
        self.enter(Event.HELLO_RECEIVED)
        if self.settings.hello.version_with(self.peer_hello) is None:
            theirs = f"{self.peer_hello.oldest} to {self.peer_hello.newest}"
            ours = f"{self.settings.hello.oldest} to {self.settings.hello.newest}"
            text = f"protocol versions {theirs} and {ours} have none in common"
            self.end(
                HandshakeError(
                    text,
                    peer=str(self.peer_hello.name),
                    side=Side.LOCAL,
                    hint="upgrade the older node",
                ),
                CloseReason.UNSUPPORTED_VERSION,
                text,
            )
            return 0
        self.decision = self.loop.create_task(self.decide())
        return 0

    async def decide(self):
        """Let the owner judge the peer; then accept or refuse it."""
        try:
            try:
                peer = await self.owner.admit(self)
            finally:
                self.decision = None
        except FastnodeError as error:
            self.refuse(error)
            return
        except Exception as error:
            log.exception("judging %s failed", self.peer_text())
            self.refuse(
                HandshakeError(
                    f"internal error while judging the peer: {type(error).__name__}",
                    peer=self.peer_text(),
                    side=Side.LOCAL,
                )
            )
            return
        if self.state_ is not State.DECIDING:
            return
        self.peer = peer
        self.inbox.set_peer(peer)
        self.calls.set_peer(peer)
        self.outbox.begin(self.peer_hello, self.settings.hello)
        if self.dialer:
            self.outbox.frame(ACCEPT, 0, b"")
            self.enter(Event.ACCEPT_SENT)
            self.come_up()
        else:
            self.outbox.frame(HELLO, 0, self.settings.hello.encode())
            self.enter(Event.WELCOMED)

    def refuse(self, error):
        """Refuse the peer, and tell it why."""
        self.end(
            error,
            getattr(error, "close_reason", CloseReason.REFUSED),
            error.message,
            error.hint,
        )

    cdef int come_up(self) except -1:
        self.timer.cancel()
        self.decoder.max_frame = MAX_FRAME_BYTES
        self.decoder.max_message = self.settings.hello.max_message
        self.link = Link(self, self.outbox, self.peer)
        interval = self.settings.keepalive_interval
        self.timer = self.loop.call_later(interval, self.tick, interval)
        self.owner.link_up(self)
        if self.state_ is not State.UP:
            return 0
        if not self.established.done():
            self.established.set_result(self.link)
        return 0

    def handshake_expired(self):
        """TLS and HELLO took too long."""
        seconds = self.settings.handshake_timeout
        self.end(
            HandshakeTimeout(
                f"the handshake was not complete within {seconds:g} s",
                peer=self.peer_text(),
                side=Side.REMOTE,
                hint="the peer is slow, overloaded, or not a fastnode peer",
            ),
            CloseReason.HANDSHAKE_TIMEOUT,
            f"the handshake was not complete within {seconds:g} s",
        )

    # --- traffic --------------------------------------------------------------

    def call(self, endpoint, payload, timeout):
        """See `Link.call`."""
        return self.calls.call(endpoint, payload, timeout)

    async def ping(self):
        """See `Link.ping`."""
        if self.outbox.closed is not None:
            raise renewed(self.outbox.closed)
        self.last_ping += 1
        number = PING_NUMBER.pack(self.last_ping)
        waiter = self.loop.create_future()
        self.pings[number] = waiter
        began = perf_counter()
        try:
            self.outbox.frame(PING, 0, number)
            await waiter
        finally:
            self.pings.pop(number, None)
        return perf_counter() - began

    def tick(self, interval):
        """Keepalive: probe a silent peer, give up a dead one."""
        if self.heard:
            self.silent_ticks = 0
        else:
            self.silent_ticks += 1
        self.heard = False
        if self.silent_ticks > KEEPALIVE_MISSES:
            self.end(
                self.lost(f"nothing was heard for {interval * self.silent_ticks:g} s"),
                CloseReason.KEEPALIVE_TIMEOUT,
                "keepalive timeout",
            )
            return
        if self.silent_ticks:
            self.outbox.frame(PING, 0, PING_NUMBER.pack(0))
        self.timer = self.loop.call_later(interval, self.tick, interval)

    def stats(self):
        """A snapshot of the counters."""
        return LinkStats(
            messages_sent=self.outbox.messages,
            messages_received=self.inbox.messages_received,
            calls_sent=self.outbox.calls,
            calls_received=self.inbox.calls_received,
            bytes_sent=self.outbox.bytes_written,
            bytes_received=self.bytes_received,
            queued_bytes=self.outbox.size(),
            credit_bytes=max(self.outbox.credit, 0),
            unhandled_messages=self.inbox.unhandled,
            handler_errors=self.inbox.handler_errors,
        )

    # --- the end --------------------------------------------------------------

    def begin_close(self, reason, timeout=CLOSE_TIMEOUT_SECONDS):
        """End the link in order: what is queued leaves first, then a goodbye."""
        if self.state_ < State.UP:
            self.end(
                HandshakeError(
                    "this node is closing",
                    peer=self.peer_text(),
                    side=Side.LOCAL,
                ),
                CloseReason.SHUTDOWN,
                "the node is closing",
            )
        if self.state_ is not State.UP:
            return
        self.enter(Event.CLOSE)
        self.close_reason = reason
        self.outbox.refuse_new(
            LinkClosed(
                f"the link with {self.peer.name} was closed", peer=self.peer,
                side=Side.LOCAL,
            )
        )
        self.timer.cancel()
        self.timer = self.loop.call_later(timeout, self.close_expired)
        self.outbox.on_empty = self.drained
        self.inbox.on_idle = self.drained
        self.say_goodbye_if_ready()

    def drained(self):
        """The queue is empty, or the last handler has finished."""
        self.say_goodbye_if_ready()

    cdef int say_goodbye_if_ready(self) except -1:
        """Our goodbye is the last frame we send: after all messages and replies."""
        if self.state_ is not State.CLOSING:
            return 0
        if not self.goodbye_sent:
            if self.outbox.size() or self.inbox.tasks:
                return 0
            self.goodbye_sent = True
            self.inbox.calls_refused = True
            text = "the node stops" if self.close_reason == CloseReason.SHUTDOWN else ""
            self.outbox.frame(GOODBYE, 0, encode_goodbye(self.close_reason, text, ""))
            self.outbox.flush()
        if self.goodbye_received and self.goodbye_sent and not self.outbox.size():
            self.end(
                LinkClosed(
                    f"the link with {self.peer.name} was closed",
                    peer=self.peer,
                    side=self.outbox.closed.side,
                )
            )
        return 0

    def close_expired(self):
        """The orderly end took too long."""
        queued = self.outbox.size()
        error = LinkClosed(
            f"the link with {self.peer.name} was closed",
            peer=self.peer,
            side=Side.LOCAL,
        )
        if queued:
            error = self.lost(
                f"{queued} bytes were not sent when the time to close it was over",
                side=Side.LOCAL,
            )
            log.warning("%s", error)
        self.end(
            error,
            self.close_reason if not self.goodbye_sent else None,
            "",
        )

    cdef int on_goodbye(self, bytes body) except -1:
        code, text, hint = decode_goodbye(body)
        if self.state_ < State.UP:
            self.end(refusal_from_wire(code, text, hint, peer=self.peer_text()))
        elif code >= FIRST_REFUSAL:
            self.end(
                LinkLost(
                    f"{self.peer.name} ended the link: {text}",
                    peer=self.peer,
                    side=Side.REMOTE,
                    hint=hint or None,
                )
            )
        else:
            if self.goodbye_received:
                raise ProtocolError("the peer said goodbye twice", side=Side.REMOTE)
            self.goodbye_received = True
            closed = LinkClosed(
                f"{self.peer.name} closed the link" + (f": {text}" if text else ""),
                peer=self.peer,
                side=Side.REMOTE,
            )
            # Its replies came before its goodbye: what still waits waits in vain.
            self.calls.close(closed)
            self.allowed = 1 << CREDIT
            if self.state_ is State.UP:
                self.begin_close(CloseReason.CLOSED)
                self.outbox.refuse_new(closed)
                self.allowed = 1 << CREDIT
            self.owner.link_closing(self)
            self.say_goodbye_if_ready()
        return 0

    cdef int on_end_of_stream(self) except -1:
        """The peer's TLS said that it sends no more."""
        if self.state_ < State.UP:
            error = HandshakeError(
                "the peer closed the connection during the handshake",
                peer=self.peer_text(),
                side=Side.REMOTE,
                hint="see the log of the other side",
            )
        elif self.goodbye_received:
            error = self.outbox.closed
        else:
            error = self.lost("the connection was closed without a goodbye")
        self.end(error)
        return 0

    def engine_failed(self, error):
        """TLS failed: on our judgement, by the peer's alert, or by a cut stream."""
        if self.state_ < State.UP:
            failure = local_refusal(
                error,
                dialer=self.dialer,
                peer=self.peer_text(),
                server_name=self.owner.server_name,
            )
        else:
            failure = self.lost("TLS failed, or the stream was cut", error)
        self.end(failure)

    def end(self, error, reason=None, text="", hint=None):
        """The end of the link, in order or not: `error` is what everybody is told.

        Args:
            reason: the code of a last GOODBYE; None: say nothing, but for TLS.
        """
        if self.state_ is State.CLOSED:
            return
        was = self.state_
        if reason is not None and was is not State.TLS and not self.goodbye_sent:
            self.say_last_goodbye(reason, text, hint or "")
        self.enter(Event.END)
        self.error = error
        self.outbox.close(error)
        self.decoder.clear()
        self.calls.close(error)
        self.inbox.close()
        for waiter in self.pings.values():
            if not waiter.done():
                waiter.set_exception(renewed(error))
        self.pings.clear()
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if self.decision is not None:
            self.decision.cancel()
        self.hang_up()
        if not self.established.done():
            self.established.set_exception(error)
            # The acceptor's side has nobody waiting for it.
            self.established.exception()
        self.owner.link_ended(self, was, error)

    def say_last_goodbye(self, reason, str text, str hint):
        """A goodbye ahead of everything that is queued, which is given up."""
        try:
            self.outbox.encoder.clear()
            self.outbox.encoder.add_frame(
                GOODBYE, 0, encode_goodbye(reason, text, hint)
            )
            self.outbox.pump(MAX_FRAME_BYTES)
        except TLS_ERRORS:
            # TLS is beyond saying anything; the FIN will have to do.
            log.debug("no goodbye to %s", self.peer_text(), exc_info=True)

    cdef int hang_up(self) except -1:
        """Send what TLS has to say, half-close, and linger."""
        if self.transport is None or self.transport.is_closing():
            return 0
        self.engine.close()
        try:
            self.outbox.push_output()
            if self.transport.can_write_eof():
                self.transport.write_eof()
        except (OSError, RuntimeError):
            # uvloop raises RuntimeError where a dial that was cancelled has closed
            # the socket behind the transport's back.
            self.transport.abort()
            return 0
        self.timer = self.loop.call_later(LINGER_SECONDS, self.transport.abort)
        return 0

    async def wait_gone(self):
        """Wait until the connection is gone."""
        await asyncio.shield(self.gone)

    def abort(self):
        """Cut the connection at once, without a word."""
        if self.transport is not None:
            self.transport.abort()
        else:
            self.connection_lost(None)

    # --- who ------------------------------------------------------------------

    def lost(self, text, cause=None, side=Side.REMOTE):
        """A `LinkLost` that names the peer."""
        error = LinkLost(
            f"the link with {self.peer_text()} was lost: {text}"
            + (f" ({cause})" if cause else ""),
            peer=self.peer,
            side=side,
        )
        error.__cause__ = cause
        return error

    def peer_text(self):
        """The best name for the peer that is known by now."""
        if self.peer is not None:
            return self.peer.name
        if self.peer_hello is not None:
            return str(self.peer_hello.name)
        if self.address:
            return f"{self.address[0]}:{self.address[1]}"
        return "the peer"

    @property
    def presented(self):
        """The engine, for who judges the peer: certificate, version, cipher, alpn."""
        return self.engine

    @property
    def running(self):
        """Handlers of this link that have not finished."""
        return len(self.inbox.tasks)

    def cancel_handlers(self):
        """Cancel them; returns their tasks."""
        return self.inbox.stop()
