"""LinkProtocol: a connection that becomes a link, is one, and ends.

It takes the frames of a `Connection` and joins its parts: `Handshake` until both sides
have accepted each other, `Dispatcher` for what the peer sends, `CallTable` for what we
call, `Keepalive`, and `Succession` for a newer link in the place of this one. The
states are those of `fastnode.link.machine`.

Rules for whoever edits this. Handlers run inside `on_frame`: after every call that
may reach one, the state may have changed. All ways to the end lead through `terminate`.
Nothing is written after it but what it wrote itself: the alert or goodbye.
"""

cimport cython
from fastnode.buffers.pool cimport BufferPool
from fastnode.dispatch.dispatcher cimport Dispatcher
from fastnode.dispatch.endpoint cimport EndpointRegistry
from fastnode.dispatch.histogram cimport seconds_now
from fastnode.link.calls cimport LATE, CallTable
from fastnode.link.connection cimport Connection, FrameTaker
from fastnode.link.extensions cimport Extensions
from fastnode.link.handshake cimport Handshake
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
    PAUSE,
    PING,
    PONG,
    REPLY,
    get32,
)

import logging
from itertools import count

from fastnode.dispatch.current import handler_peer
from fastnode.errors import (
    CloseReason,
    LinkClosed,
    ProtocolError,
    Side,
    refusal_from_wire,
    renewed,
)
from fastnode.limits import (
    CLOSE_TIMEOUT_SECONDS,
    HANDOVER_INTERVAL_SECONDS,
    MAX_FRAME_BYTES,
)
from fastnode.link import endings
from fastnode.link.link import Link
from fastnode.link.machine import Event, State, frame_mask, next_state
from fastnode.link.stats import LinkStats, Undelivered
from fastnode.loggers import fields
from fastnode.tls.engine import TLS_ERRORS
from fastnode.wire.goodbye import decode_goodbye, encode_goodbye
from fastnode.wire.kinds import mask

log = logging.getLogger("fastnode.link")

# Bit masks of kinds: what a peer must not send after its MOVED, and what it may still
# send after its GOODBYE, because that helps us to say ours.
cdef unsigned int UNTIL_MOVED = mask(lambda kind: kind.until_moved)
cdef unsigned int AFTER_GOODBYE = mask(lambda kind: kind.after_goodbye)

# Codes of a GOODBYE below this end a link in order.
cdef enum:
    FIRST_REFUSAL = 16
    # The parts of the end of a link.
    END_PARTS = 8


#: The numbers of connections, for log records. No two of a process are the same.
numbers = count(1)


@cython.final
cdef class LinkProtocol(FrameTaker):
    """A connection to a peer, from the first byte to the last.

    Args:
        engine: a fresh `TlsEngine`.
        owner: judges the peer and hears how the link fares; see `LinkOwner`.
        settings: limits and times.
        registry: the endpoints of the node, and the context of its handlers.
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
        cdef Connection connection = Connection(
            self, engine, pool, receive_buffer, registry.context
        )
        self.number = next(numbers)
        self.connection = connection
        self.loop = connection.loop
        self.outbox = connection.outbox
        self.decoder = connection.decoder
        self.owner = owner
        self.settings = settings
        self.dialer = dialer
        self.state_ = State.TLS
        self.authorities = ()
        self.established = self.loop.create_future()
        self.outbox.high_water = settings.high_water
        self.outbox.low_water = settings.low_water
        self.outbox.most = settings.max_queued
        self.outbox.budget = settings.budget
        self.dispatcher = Dispatcher(
            self.loop,
            self.outbox,
            registry,
            connection.watch,
            pool.spares,
            connection.failed,
            settings.hello.window,
        )
        self.calls = CallTable(
            self.loop, self.outbox, settings.poll, registry.counters
        )
        self.succession = Succession(self, self.outbox, self.dispatcher, self.calls)
        self.extensions = Extensions(
            self, self.decoder, self.outbox, self.dispatcher
        )
        self.handshake = Handshake(self, connection, owner, settings, dialer)
        self.keepalive = Keepalive(
            self.loop, self.outbox, self.peer_silent, settings.poll
        )

    # --- what it shows of its parts ---------------------------------------------

    @property
    def state(self):
        """Where the link stands."""
        return self.state_

    @property
    def presented(self):
        """The engine, for who judges the peer: certificate, version, cipher, alpn."""
        return self.connection.engine

    @property
    def hello(self):
        """What we have told the peer; None before that."""
        return self.handshake.hello

    @property
    def peer_hello(self):
        """What the peer has told us; None before that."""
        return self.handshake.peer_hello

    @property
    def address(self):
        """Host and port of the peer."""
        return self.connection.address

    @address.setter
    def address(self, value):
        self.connection.address = value

    @property
    def began(self):
        """When the handshake's time began, in the loop's time."""
        return self.connection.began

    @began.setter
    def began(self, double value):
        self.connection.began = value

    @property
    def heard(self):
        """Whether a byte of the peer has come."""
        return self.connection.bytes_received > 0

    @property
    def gone(self):
        """A future: done when the connection is gone."""
        return self.connection.gone

    async def wait_gone(self):
        """Wait until the connection is gone."""
        await self.connection.wait_gone()

    def abort(self):
        """Cut the connection at once, without a word."""
        self.connection.abort()

    def connection_lost(self, exc):
        """There is no connection, or not any more."""
        self.connection.connection_lost(exc)

    def unfinished(self):
        """See `Dispatcher.unfinished`."""
        return self.dispatcher.unfinished()

    def peer_text(self):
        """The best name for the peer that is known by now."""
        if self.peer is not None:
            return self.peer.name
        if self.handshake.peer_hello is not None:
            return str(self.handshake.peer_hello.name)
        if self.connection.address:
            return f"{self.connection.address[0]}:{self.connection.address[1]}"
        return "the peer"

    def log_fields(self, str event, error):
        """Return the fields of a log record about this link."""
        return fields(
            event,
            node=self.settings.hello.name,
            peer=self.peer,
            link=self.number,
            address=self.address,
            error=error,
        )

    def watch_callbacks(self, double limit, on_slow, on_slow_handler):
        """Tell of callbacks that block the loop for `limit` seconds.

        Args:
            on_slow: called with the peer's name, seconds and names of endpoints where
                the link receives.
            on_slow_handler: called with the name of an endpoint and seconds elsewhere.
        """
        self.on_slow = on_slow
        self.connection.watch.on_slow = self.tell_slow
        self.connection.watch.on_slow_handler = on_slow_handler
        self.connection.watch.limit = limit

    def tell_slow(self, double took):
        """A receive callback took so many seconds."""
        if self.on_slow is not None:
            self.on_slow(self.peer_text(), took, self.dispatcher.names_seen())

    # --- states -----------------------------------------------------------------

    def enter(self, event):
        """Enter the state that follows after `event`."""
        self.state_ = next_state(self.state_, event)
        self.allowed = frame_mask(self.state_)
        if self.succession.moved:
            self.peer_moved()

    cdef int peer_moved(self) except -1:
        """The peer begins no more messages and calls on this link."""
        self.allowed &= ~UNTIL_MOVED
        return 0

    def refuse(self, error):
        """Refuse the peer, and tell it why."""
        self.terminate(
            error,
            getattr(error, "close_reason", CloseReason.REFUSED),
            error.message,
            error.hint,
        )

    # --- what the connection tells -------------------------------------------

    cdef int on_made(self) except -1:
        self.made = seconds_now()
        return self.handshake.begin()

    cdef int on_secure(self) except -1:
        return self.handshake.secure()

    cdef int on_bytes(self) except -1:
        return self.keepalive.heard()

    cdef int on_read(self) except -1:
        return self.dispatcher.windows.count(self.decoder)

    cdef int on_dry(self) except -1:
        return self.dispatcher.dry()

    cdef int on_lost(self, exc) except -1:
        if self.state_ < State.UP:
            self.terminate(endings.cut_short(self.peer_text(), exc))
        else:
            self.terminate(endings.lost("the connection broke", self.peer, exc))
        return 0

    cdef int on_gone(self) except -1:
        self.owner = self.link = self.established = None
        self.handshake.protocol = self.handshake.owner = None
        self.extensions.let_go()
        self.on_slow = None
        self.connection.watch.limit = 0
        self.connection.watch.on_slow = None
        return self.dispatcher.let_go()

    cdef int on_failure(self, error) except -1:
        """Whatever goes wrong ends this link and nothing else."""
        # What came before it, and was good.
        self.dispatcher.batches.hand_over()
        if isinstance(error, TLS_ERRORS):
            self.engine_failed(error)
        elif isinstance(error, ProtocolError):
            self.terminate(error, CloseReason.PROTOCOL_ERROR, error.message)
        else:
            log.error(
                "internal error on the link with %s",
                self.peer_text(),
                exc_info=error,
                extra=self.log_fields("internal_error", error),
            )
            self.internal_error(error)
        return 0

    def internal_error(self, error):
        """Our fault: the link ends, the node lives."""
        if self.state_ < State.UP:
            self.refuse(endings.no_verdict(self.peer_text(), error))
        else:
            self.terminate(
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
            if self.decoder.block is not None:
                self.dispatcher.extended_message(self.decoder, payload)
            else:
                self.dispatcher.message(
                    self.decoder.lane, self.decoder.number, payload
                )
            self.decoder.pool.spares.put(payload)
            return self.dispatcher.messages(self.decoder)
        if kind == CALL or kind == CONFIRM:
            self.dispatcher.call(self.decoder, payload)
            return self.decoder.pool.spares.put(payload)
        if kind == REPLY:
            return self.calls.replied(self.decoder, payload)
        if kind == CREDIT:
            return self.outbox.add_credit(
                self.decoder.number,
                get32(<const unsigned char *><const char *>payload),
            )
        if kind == ENDPOINT:
            return self.dispatcher.numbers.define(
                self.decoder.lane, self.decoder.number, payload
            )
        self.decoder.payload = payload
        return self.on_rare_frame(kind)

    cdef int on_rare_frame(self, int kind) except -1:
        cdef bytes payload = self.decoder.payload
        self.decoder.payload = None
        # What may end the link, or follows all messages, overtakes none.
        self.dispatcher.batches.hand_over()
        if self.connection.ended:
            return 0
        if kind == HELLO:
            return self.handshake.on_hello(payload)
        if kind == ACCEPT:
            return self.handshake.on_accept()
        if kind == ERROR:
            return self.calls.failed(self.decoder, payload)
        if kind == CANCEL:
            return self.dispatcher.cancel(
                self.decoder.call,
                self.extensions.agreed and self.decoder.number == LATE,
            )
        if kind == PING:
            return self.keepalive.pinged(payload)
        if kind == PONG:
            return self.keepalive.pong(payload)
        if kind == GOODBYE:
            return self.on_goodbye(payload)
        if kind >= PAUSE:
            return self.extensions.on_frame(kind, payload)
        if kind == MOVED:
            self.peer_moved()
        return self.succession.on_frame(kind, payload)

    def introduced_too_long(self):
        """The peer sent more than a HELLO needs before it was admitted."""
        self.on_failure(endings.introduced_itself_too_long(self.peer_text()))

    # --- traffic --------------------------------------------------------------

    def come_up(self):
        """Both sides have accepted each other."""
        self.connection.stop_timer()
        self.dispatcher.registry.counters.handshakes.record(seconds_now() - self.made)
        self.dispatcher.set_peer(self.peer)
        self.calls.set_peer(self.peer)
        self.outbox.peer = self.peer
        self.connection.engine.settle()
        self.decoder.max_frame = MAX_FRAME_BYTES
        self.decoder.max_message = self.settings.hello.max_message
        self.link = Link(self, self.outbox, self.calls, self.peer)
        self.succession.agree(self.hello, self.peer_hello)
        self.extensions.agree(self.hello, self.peer_hello)
        self.keepalive.start(self.settings.interval_with(self.peer_hello))
        self.connection.limit_unacknowledged(self.keepalive.limit)
        self.dispatcher.windows.follow(self.decoder)
        self.dispatcher.windows.grows(
            self.settings.max_window, self.handshake.round_trip, self.keepalive.ping
        )
        self.owner.link_up(self)
        if self.state_ is State.UP and not self.established.done():
            self.established.set_result(self.link)

    def ping(self):
        """See `Link.ping`."""
        return self.keepalive.ping(True)

    def check(self, seconds, on_silent=None):
        """Take the peer for dead unless something is heard of it within `seconds`.

        Args:
            on_silent: called if the peer is dead; None: the link is lost.
        """
        self.keepalive.check(seconds, on_silent)

    def peer_silent(self, seconds):
        """The keepalive takes the peer for dead."""
        self.terminate(
            endings.lost(f"nothing was heard for {seconds:g} s", self.peer),
            CloseReason.KEEPALIVE_TIMEOUT,
            f"nothing was heard of this side for {seconds:g} s",
        )

    def stats(self):
        """A snapshot of the counters."""
        return LinkStats(
            messages_sent=self.outbox.messages,
            messages_received=self.dispatcher.handlers.messages_received,
            calls_sent=self.outbox.calls,
            calls_received=self.dispatcher.calls_received,
            bytes_sent=self.outbox.bytes_written,
            bytes_received=self.connection.bytes_received,
            queued_bytes=self.outbox.size(),
            credit_bytes=max(self.outbox.encoder.data.credit, 0),
            unhandled_messages=self.dispatcher.handlers.unhandled,
            handler_errors=self.dispatcher.handlers.errors,
            messages_dropped_by_peer=self.extensions.dropped,
            calls_expired=self.dispatcher.handlers.expired,
            calls_expired_at_peer=self.calls.expired_there,
            calls_refused=self.dispatcher.handlers.refused,
        )

    def counters(self):
        """What is counted of the link, in the order of `COUNTERS` in
        `fastnode.link.stats`. No count ever goes back, and none changes after the link
        is gone and its handlers have finished."""
        return (
            self.outbox.messages,
            self.dispatcher.handlers.messages_received,
            self.outbox.calls,
            self.dispatcher.calls_received,
            self.outbox.bytes_written,
            self.connection.bytes_received,
            self.dispatcher.handlers.unhandled,
            self.dispatcher.handlers.errors,
            self.extensions.dropped,
            self.dispatcher.handlers.expired,
            self.calls.expired_there,
            self.dispatcher.handlers.refused,
            self.dispatcher.windows.limited,
        )

    def gauges(self):
        """What goes on at this moment, in the order of `GAUGES` in
        `fastnode.link.stats`."""
        cdef unsigned int lanes = self.dispatcher.windows.at_limit
        cdef int at_limit = 0
        while lanes:
            at_limit += lanes & 1
            lanes >>= 1
        return (
            len(self.calls.waiting),
            len(self.dispatcher.handlers.calls),
            self.dispatcher.handlers.running,
            at_limit,
            self.outbox.encoder.data.credit <= 0 and self.outbox.size() > 0,
        )

    # --- a newer link takes over, see fastnode.link.succession ------------------

    def hand_over_to(self, LinkProtocol successor):
        """What is sent from now on travels on `successor`, which is up."""
        self.succession.succeed(successor)
        if self.state_ is not State.UP:
            return
        self.enter(Event.MOVE)
        self.calls.on_idle = self.outbox.on_empty = self.drained
        self.dispatcher.tell_idle(self.drained)
        self.outbox.move(endings.replaced(self.peer))
        self.drained()

    def probe_sooner(self, bint others_wait):
        """Find out soon whether the peer is dead, while a newer link waits for this."""
        interval = self.settings.interval_with(self.peer_hello)
        if others_wait:
            interval = min(interval, HANDOVER_INTERVAL_SECONDS)
        self.keepalive.pace(interval)

    def turn_away(self):
        """The peer leaves: end this link in order as soon as nothing of this side is
        under way on it.

        Not at once: frames of the peer may follow in the same read, and callers that
        have found this link in this turn of the loop may be about to use it.
        """
        if self.state_ is State.UP:
            self.calls.on_idle = self.outbox.on_empty = self.drained
            self.dispatcher.tell_idle(self.drained)
            self.loop.call_soon(self.drained)

    # --- the end --------------------------------------------------------------

    def begin_close(self, reason, timeout=CLOSE_TIMEOUT_SECONDS):
        """End the link in order: what is queued leaves first, then a goodbye. A second
        call can only shorten the time."""
        if self.state_ < State.UP:
            self.refuse(endings.given_up(self.peer_text()))
        if self.state_ in (State.UP, State.RETIRING):
            self.close_for(reason, timeout, endings.closed_here(self.peer, reason))
        elif self.state_ is State.CLOSING:
            self.hasten(timeout)

    cdef int hasten(self, double timeout) except -1:
        """Shorten an end in order that is under way."""
        cdef object timer = self.connection.timer
        if timer is not None and timer.when() > self.loop.time() + timeout:
            timer.cancel()
            self.connection.timer = self.loop.call_later(timeout, self.close_expired)
        return 0

    @property
    def awaited_here(self):
        """Whether the caller is a handler of this peer's messages, for which the end
        in order waits."""
        peer = handler_peer(self.dispatcher.handlers.registry)
        return (
            peer is not None
            and self.peer is not None
            and (peer.name, peer.instance) == (self.peer.name, self.peer.instance)
        )

    cdef int close_for(self, reason, timeout, error) except -1:
        """Begin the end in order; `error` is what users are told from now on."""
        self.enter(Event.CLOSE)
        self.close_reason = reason
        self.outbox.refuse_new(error)
        self.keepalive.stop()
        self.connection.timer = self.loop.call_later(timeout, self.close_expired)
        self.outbox.on_empty = self.drained
        self.dispatcher.tell_idle(self.drained)
        self.owner.link_closing(self)
        if self.state_ is State.CLOSING:
            self.say_goodbye_if_ready()
        return 0

    def drained(self):
        """The queue is empty, or the last handler or call has finished."""
        if self.state_ is State.RETIRING and self.succession.finished():
            self.succession.retire()
        elif (
            self.state_ is State.UP
            and self.extensions.leaving
            and self.succession.finished_here()
        ):
            self.close_for(
                CloseReason.CLOSED,
                self.succession.patience(),
                endings.closed_there(self.peer, "the node stops"),
            )
        self.say_goodbye_if_ready()

    cdef int say_goodbye_if_ready(self) except -1:
        """Our goodbye follows all messages and replies."""
        if self.state_ is not State.CLOSING:
            return 0
        if not self.outbox.goodbye_said:
            if self.outbox.size() or self.dispatcher.busy():
                return 0
            self.dispatcher.calls_refused = True
            text = "the node stops" if self.close_reason == CloseReason.SHUTDOWN else ""
            self.outbox.frame(GOODBYE, 0, encode_goodbye(self.close_reason, text, ""))
            self.outbox.flush()
        self.outbox.finished = self.goodbye_received
        # Messages that crossed our goodbye may still wait for their handlers.
        if self.outbox.finished and not (self.outbox.size() or self.dispatcher.busy()):
            self.terminate(self.outbox.closed)
        return 0

    def close_expired(self):
        """The orderly end took too long."""
        error = endings.closed_here(self.peer)
        queued = self.outbox.size()
        if queued:
            error = endings.cut_off(self.peer, queued)
            log.warning("%s", error, extra=self.log_fields("close_timeout", error))
        self.terminate(
            error,
            CloseReason.CLOSE_TIMEOUT,
            "the time to close it was over; what was on its way may be lost",
        )

    cdef int on_goodbye(self, bytes body) except -1:
        code, text, hint = decode_goodbye(body)
        if self.state_ < State.UP:
            self.terminate(refusal_from_wire(code, text, hint, peer=self.peer_text()))
        elif code >= FIRST_REFUSAL:
            self.terminate(
                endings.lost(f"the peer ended it: {text}", self.peer, hint=hint or None)
            )
        else:
            self.goodbye_received = True
            closed = endings.closed_there(self.peer, text)
            # The peer says goodbye when its handlers have finished and their replies
            # have left. So the calls that still wait have not begun, and never will.
            self.calls.close(renewed(closed, begun="no"))
            if self.state_ is State.RETIRING:
                self.succession.retire()
            elif self.state_ is State.UP:
                if self.extensions.announced:
                    # The peer has turned away, because this node stops.
                    closed = endings.closed_here(self.peer, CloseReason.SHUTDOWN)
                self.close_for(
                    CloseReason.CLOSED, self.extensions.close_seconds, closed
                )
            else:
                self.say_goodbye_if_ready()
            if not self.connection.ended:
                self.allowed = AFTER_GOODBYE
        return 0

    cdef int on_end_of_stream(self) except -1:
        """The peer's TLS said that it sends no more."""
        self.dispatcher.batches.hand_over()
        if self.connection.ended:
            return 0
        if self.state_ < State.UP:
            error = endings.cut_short(self.peer_text())
        elif self.goodbye_received and not self.outbox.size():
            if self.outbox.finished and self.dispatcher.busy():
                self.connection.half_open = True  # the last handler ends the link
                return 0
            error = self.outbox.closed
        elif self.goodbye_received:
            error = endings.cut_off(self.peer, self.outbox.size())
        else:
            error = endings.lost("it was closed without a goodbye", self.peer)
        self.terminate(error)
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
        self.terminate(failure)

    def terminate(self, error, reason=None, text="", hint=None):
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
        self.error = error
        try:
            if reason is not None and was is not State.TLS:
                self.outbox.last_goodbye(encode_goodbye(reason, text, hint or ""))
            if was >= State.UP and not isinstance(error, LinkClosed):
                # Whoever waits has lost the link, whatever was wrong with it.
                error = endings.lost("the peer broke the protocol", self.peer, error)
        except MemoryError:
            pass
        self.enter(Event.END)
        self.connection.ended = True
        self.decoder.clear()
        self.connection.stop_timer()
        self.handshake.close()
        wrong = None
        for part in range(END_PARTS):
            try:
                self.end_part(part, error, was, messages, queued)
            except Exception as failure:
                wrong = failure
        if wrong is not None:
            raise wrong

    cdef int end_part(
        self, int part, error, was, size_t messages, size_t queued
    ) except -1:
        """Do one part of the end: none is left out because another one failed."""
        if part == 0:
            self.outbox.close(error)
        elif part == 1:
            self.calls.close(error)
        elif part == 2:
            self.keepalive.close(error)
        elif part == 3:
            self.dispatcher.close()
        elif part == 4:
            self.left = messages, queued, self.calls.unanswered, self.dispatcher.running
            self.connection.hang_up()
        elif part == 5 and not self.established.done():
            self.established.set_exception(error)
            # The acceptor's side has nobody waiting for it.
            self.established.exception()
        elif part == 6:
            self.owner.link_ended(self, was, self.error)
        elif part == 7:
            self.succession.link_ended(self.error)
        return 0

    # --- handlers -------------------------------------------------------------

    @property
    def running(self):
        """Handlers of this link that have not finished."""
        return self.dispatcher.running

    def when_idle(self, callback):
        """Have `callback` called when the last handler has finished; None: no more."""
        self.dispatcher.tell_idle(callback)

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
        return self.dispatcher.stop()

    # --- a fork -----------------------------------------------------------------

    def orphan(self, error):
        """Raise `error` wherever the link is used, and write nothing any more.

        For a process that was forked from the link's own. The socket is shared with
        the parent; TLS and counters are copies. One byte more or less, written or read
        here, would end the link of the parent.

        Returns:
            The descriptor of its socket, -1 if there is none.
        """
        cdef int descriptor = self.connection.detach()
        self.enter(Event.END)
        self.connection.ended = True
        self.error = error
        self.decoder.clear()
        # The parent's links live on, and its peers may handle what was sent.
        self.calls.close(renewed(error, begun="maybe"))
        self.connection.stop_timer()
        self.outbox.close(error)
        self.keepalive.close(error)
        for waiter in (self.established, self.connection.gone):
            if not waiter.done():
                waiter.set_exception(error)
                waiter.exception()
        return descriptor
