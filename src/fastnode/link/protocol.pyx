"""LinkProtocol: a connection that becomes a link, is one, and ends.

Above `Connection` (TLS and frames) and `Handshake` (until both sides have accepted
each other) it joins the inbox and the call table (handlers, callers): the traffic and
the end. The states are those of `fastnode.link.machine`.

Rules for whoever edits this. Handlers run inside `on_frame`: after every call that
may reach one, the state may have changed. All ways to the end lead through `end`.
Nothing is written after it but what it wrote itself: the alert or goodbye.
"""

cimport cython
from fastnode.buffers.pool cimport BufferPool
from fastnode.link.calls cimport CallTable
from fastnode.link.endpoint cimport EndpointRegistry
from fastnode.link.handshake cimport Handshake
from fastnode.link.inbox cimport Inbox
from fastnode.link.keepalive cimport Keepalive
from fastnode.link.succession cimport Succession
from fastnode.wire.frame cimport (
    ACCEPT,
    CALL,
    CANCEL,
    CONFIRM,
    CREDIT,
    ENDPOINT,
    ERROR,
    GOODBYE,
    HELLO,
    MESSAGE,
    MOVED,
    PING,
    PONG,
    REPLY,
    get32,
)

import logging
from time import perf_counter

from fastnode.errors import (
    CloseReason,
    LinkClosed,
    ProtocolError,
    Side,
    refusal_from_wire,
)
from fastnode.limits import (
    CLOSE_TIMEOUT_SECONDS,
    HANDOVER_INTERVAL_SECONDS,
    MAX_FRAME_BYTES,
)
from fastnode.link import endings
from fastnode.link.link import Link
from fastnode.link.machine import Event, State
from fastnode.link.stats import LinkStats, Undelivered
from fastnode.tls.engine import TLS_ERRORS
from fastnode.wire.goodbye import decode_goodbye, encode_goodbye

log = logging.getLogger("fastnode.link")

# What a peer may send after its GOODBYE: what helps us to say ours.
cdef unsigned int AFTER_GOODBYE = 1 << CREDIT | 1 << CANCEL

# Codes of a GOODBYE below this end a link in order.
cdef enum:
    FIRST_REFUSAL = 16


@cython.final
cdef class LinkProtocol(Handshake):
    """A connection to a peer, from the first byte to the last.

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
        Handshake.__init__(
            self, engine, owner, settings, pool, receive_buffer, dialer=dialer
        )
        self.outbox.high_water = settings.high_water
        self.outbox.low_water = settings.low_water
        self.outbox.most = settings.max_queued
        self.outbox.budget = settings.budget
        self.inbox = Inbox(
            self.loop, self.outbox, registry, self.watch, settings.hello.window
        )
        self.calls = CallTable(self.loop, self.outbox, settings.poll)
        self.succession = Succession(self, self.outbox, self.inbox, self.calls)
        self.keepalive = Keepalive(
            self.loop, self.outbox, self.peer_silent, settings.poll
        )

    # --- what the connection tells -------------------------------------------

    cdef int on_bytes(self) except -1:
        self.keepalive.heard()
        return 0

    cdef int on_read(self) except -1:
        return self.inbox.windows.count(self.decoder)

    cdef int on_dry(self) except -1:
        if self.inbox.gathered:
            self.inbox.hand_over()
            self.watch.lap(self)
        return 0

    cdef int on_lost(self, exc) except -1:
        if self.state_ < State.UP:
            self.end(endings.cut_short(self.peer_text(), exc))
        else:
            self.end(endings.lost("the connection broke", self.peer, exc))
        return 0

    cdef int on_gone(self) except -1:
        self.owner = self.link = self.established = None
        self.outbox.on_error = None
        return 0

    cdef int on_failure(self, error) except -1:
        """Whatever goes wrong ends this link and nothing else."""
        # What came before it, and was good.
        self.inbox.hand_over()
        if isinstance(error, TLS_ERRORS):
            self.engine_failed(error)
        elif isinstance(error, ProtocolError):
            self.end(error, CloseReason.PROTOCOL_ERROR, error.message)
        else:
            log.error(
                "internal error on the link with %s", self.peer_text(), exc_info=error
            )
            self.internal_error(error)
        return 0

    def internal_error(self, error):
        """Our fault: the link ends, the node lives."""
        if self.state_ < State.UP:
            self.refuse(endings.no_verdict(self.peer_text(), error))
        else:
            self.end(
                endings.lost("internal error", self.peer, error, Side.LOCAL),
                CloseReason.INTERNAL_ERROR,
                "internal error",
            )

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
            self.inbox.message(self.decoder.lane, self.decoder.number, payload)
            self.decoder.pool.spares.put(payload)
            return self.inbox.messages(self.decoder, self)
        if kind == CALL or kind == CONFIRM:
            self.inbox.call(self.decoder, payload)
            return self.decoder.pool.spares.put(payload)
        if kind == REPLY:
            return self.calls.replied(self.decoder.call, payload)
        if kind == CREDIT:
            return self.outbox.add_credit(
                self.decoder.number,
                get32(<const unsigned char *><const char *>payload),
            )
        if kind == ENDPOINT:
            return self.inbox.numbers.define(
                self.decoder.lane, self.decoder.number, payload
            )
        self.decoder.payload = payload
        return self.on_rare_frame(kind)

    cdef int on_rare_frame(self, int kind) except -1:
        cdef bytes payload = self.decoder.payload
        self.decoder.payload = None
        # What may end the link, or follows all messages, overtakes none.
        self.inbox.hand_over()
        if self.ended:
            return 0
        if kind == HELLO:
            return self.on_hello(payload)
        if kind == ACCEPT:
            self.round_trip = perf_counter() - self.spoke_at
            self.enter(Event.ACCEPT_RECEIVED)
            return self.come_up()
        if kind == ERROR:
            return self.calls.failed(self.decoder.call, payload)
        if kind == CANCEL:
            return self.inbox.cancel(self.decoder.call)
        if kind == PING:
            return self.keepalive.pinged(payload)
        if kind == PONG:
            return self.keepalive.pong(payload)
        if kind == GOODBYE:
            return self.on_goodbye(payload)
        if kind == MOVED:
            self.peer_moved()
        return self.succession.on_frame(kind, payload)

    # --- traffic --------------------------------------------------------------

    cdef int come_up(self) except -1:
        self.stop_timer()
        self.inbox.set_peer(self.peer)
        self.calls.set_peer(self.peer)
        self.outbox.peer = self.peer
        self.engine.settle()
        self.decoder.max_frame = MAX_FRAME_BYTES
        self.decoder.max_message = self.settings.hello.max_message
        self.link = Link(self, self.outbox, self.calls, self.peer)
        self.succession.agree(self.hello, self.peer_hello)
        self.keepalive.start(self.settings.interval_with(self.peer_hello))
        self.limit_unacknowledged(self.keepalive.limit)
        self.inbox.windows.follow(self.decoder)
        self.inbox.windows.grows(
            self.settings.max_window, self.round_trip, self.keepalive.ping
        )
        self.owner.link_up(self)
        if self.state_ is not State.UP:
            return 0
        if not self.established.done():
            self.established.set_result(self.link)
        return 0

    def ping(self):
        """See `Link.ping`."""
        return self.keepalive.ping(True)

    def check(self, seconds):
        """Take the peer for dead unless something is heard of it within `seconds`."""
        self.keepalive.check(seconds)

    def peer_silent(self, seconds):
        """The keepalive takes the peer for dead."""
        self.end(
            endings.lost(f"nothing was heard for {seconds:g} s", self.peer),
            CloseReason.KEEPALIVE_TIMEOUT,
            f"nothing was heard of this side for {seconds:g} s",
        )

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
            credit_bytes=max(self.outbox.encoder.data.credit, 0),
            unhandled_messages=self.inbox.unhandled,
            handler_errors=self.inbox.handler_errors,
        )

    # --- a newer link takes over, see fastnode.link.succession ------------------

    def move_to(self, LinkProtocol successor):
        """What is sent from now on travels on `successor`, which is up."""
        self.succession.succeed(successor)
        if self.state_ is not State.UP:
            return
        self.enter(Event.MOVE)
        self.calls.on_idle = self.outbox.on_empty = self.inbox.on_idle = self.drained
        self.outbox.move(endings.replaced(self.peer))
        self.drained()

    def hurry(self, bint others_wait):
        """Find out soon whether the peer is dead, while a newer link waits for this."""
        interval = self.settings.interval_with(self.peer_hello)
        if others_wait:
            interval = min(interval, HANDOVER_INTERVAL_SECONDS)
        self.keepalive.pace(interval)

    # --- the end --------------------------------------------------------------

    def begin_close(self, reason, timeout=CLOSE_TIMEOUT_SECONDS):
        """End the link in order: what is queued leaves first, then a goodbye."""
        if self.state_ < State.UP:
            self.refuse(endings.given_up(self.peer_text()))
        if self.state_ in (State.UP, State.RETIRING):
            self.close_for(reason, timeout, endings.closed_here(self.peer, reason))

    cdef int close_for(self, reason, timeout, error) except -1:
        """Begin the end in order; `error` is what users are told from now on."""
        self.enter(Event.CLOSE)
        self.close_reason = reason
        self.outbox.refuse_new(error)
        self.keepalive.stop()
        self.timer = self.loop.call_later(timeout, self.close_expired)
        self.outbox.on_empty = self.drained
        self.inbox.on_idle = self.drained
        self.owner.link_closing(self)
        if self.state_ is State.CLOSING:
            self.say_goodbye_if_ready()
        return 0

    def drained(self):
        """The queue is empty, or the last handler or call has finished."""
        if self.state_ is State.RETIRING and self.succession.finished():
            self.succession.retire()
        self.say_goodbye_if_ready()

    cdef int say_goodbye_if_ready(self) except -1:
        """Our goodbye follows all messages and replies."""
        if self.state_ is not State.CLOSING:
            return 0
        if not self.outbox.goodbye_said:
            if self.outbox.size() or self.inbox.busy():
                return 0
            self.inbox.calls_refused = True
            text = "the node stops" if self.close_reason == CloseReason.SHUTDOWN else ""
            self.outbox.frame(GOODBYE, 0, encode_goodbye(self.close_reason, text, ""))
            self.outbox.flush()
        if self.goodbye_received and not self.outbox.size():
            self.end(self.outbox.closed)
        return 0

    def close_expired(self):
        """The orderly end took too long."""
        error = endings.closed_here(self.peer)
        queued = self.outbox.size()
        if queued:
            error = endings.cut_off(self.peer, queued)
            log.warning("%s", error)
        self.end(
            error,
            CloseReason.CLOSE_TIMEOUT,
            "the time to close it was over; what was on its way may be lost",
        )

    cdef int on_goodbye(self, bytes body) except -1:
        code, text, hint = decode_goodbye(body)
        if self.state_ < State.UP:
            self.end(refusal_from_wire(code, text, hint, peer=self.peer_text()))
        elif code >= FIRST_REFUSAL:
            self.end(
                endings.lost(f"the peer ended it: {text}", self.peer, hint=hint or None)
            )
        else:
            self.goodbye_received = True
            closed = endings.closed_there(self.peer, text)
            # Its replies came before its goodbye: what still waits waits in vain.
            self.calls.close(closed)
            if self.state_ is State.RETIRING:
                self.succession.retire()
            elif self.state_ is State.UP:
                self.close_for(CloseReason.CLOSED, CLOSE_TIMEOUT_SECONDS, closed)
            else:
                self.say_goodbye_if_ready()
            if not self.ended:
                self.allowed = AFTER_GOODBYE
        return 0

    cdef int on_end_of_stream(self) except -1:
        """The peer's TLS said that it sends no more."""
        self.inbox.hand_over()
        if self.ended:
            return 0
        if self.state_ < State.UP:
            error = endings.cut_short(self.peer_text())
        elif self.goodbye_received and not self.outbox.size():
            error = self.outbox.closed
        elif self.goodbye_received:
            error = endings.cut_off(self.peer, self.outbox.size())
        else:
            error = endings.lost("it was closed without a goodbye", self.peer)
        self.end(error)
        return 0

    def engine_failed(self, error):
        """TLS failed: on our judgement, by the peer's alert, or by a cut stream."""
        # The frames of Python's ssl module would keep the SSLObject.
        error = error.with_traceback(None)
        if self.state_ < State.UP:
            failure = self.owner.explain(self, error)
        else:
            failure = endings.lost(
                "TLS failed, or the stream was cut", self.peer, error
            )
        self.end(failure)

    def end(self, error, reason=None, text="", hint=None):
        """The end of the link, in order or not: `error` is what everybody is told.

        Args:
            reason: the code of a last GOODBYE; None: say nothing, but for TLS.
        """
        if self.state_ is State.CLOSED:
            return
        was = self.state_
        if error.peer is None:
            error.peer = self.peer or self.peer_text()
        cdef size_t queued = self.outbox.size()
        cdef size_t messages = self.outbox.encoder.unsent()
        if reason is not None and was is not State.TLS:
            self.outbox.last_goodbye(encode_goodbye(reason, text, hint or ""))
        self.enter(Event.END)
        self.ended = True
        self.error = error
        if was >= State.UP and not isinstance(error, LinkClosed):
            # Whoever waits has lost the link, whatever was wrong with it.
            error = endings.lost("the peer broke the protocol", self.peer, error)
        self.outbox.close(error)
        self.decoder.clear()
        self.calls.close(error)
        self.inbox.close()
        self.keepalive.close(error)
        self.left = (messages, queued, self.calls.unanswered, len(self.inbox.tasks))
        self.stop_timer()
        if self.decision is not None:
            self.decision.cancel()
        self.hang_up()
        if not self.established.done():
            self.established.set_exception(error)
            # The acceptor's side has nobody waiting for it.
            self.established.exception()
        self.owner.link_ended(self, was, self.error)
        self.succession.end(self.error)

    # --- handlers -------------------------------------------------------------

    @property
    def running(self):
        """Handlers of this link that have not finished."""
        return len(self.inbox.tasks)

    def when_idle(self, callback):
        """Have `callback` called when the last handler has finished; None: no more."""
        self.inbox.on_idle = callback

    @property
    def undelivered(self):
        """What was left when the link ended, an `Undelivered`; None if nothing was, or
        it has not ended."""
        if self.peer is None or self.left is None or not any(self.left):
            return None
        return Undelivered(self.peer.name, *self.left)

    @property
    def reason(self):
        """Why nothing can be sent any more; None while the link is up."""
        return self.error or self.outbox.closed

    def cancel_handlers(self):
        """Cancel them; returns their tasks."""
        return self.inbox.stop()
