"""LinkProtocol: the whole life of a link, from its connection to its end.

It takes the frames of a `Connection` and joins its parts. `Handshake` works until both
sides have accepted each other. `Dispatcher` takes the peer's messages and calls,
`CallTable` has our calls, `Keepalive` finds dead peers, and `Succession` replaces the
link by a newer one. The states are those of `fastnode.link.machine`.

Rules for editors of this file. Handlers run inside `on_frame`, so the state may have
changed after every call that may reach a handler. All ways to the end go through
`terminate`. It writes the alert or GOODBYE, and nothing is written after that.
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
from fastnode.wire.frame cimport ACCEPT, CALL, CANCEL, CONFIRM, CREDIT, ENDPOINT
from fastnode.wire.frame cimport ERROR, GOODBYE, HELLO, MESSAGE, MOVED, PAUSE, PING
from fastnode.wire.frame cimport PONG, REPLY, get32

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

# Bit masks of kinds: those that a peer must not send after its MOVED, and those that it
# may still send after its GOODBYE, because they help us to send ours.
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
        owner: checks the peer and gets the events of the link; see `LinkOwner`.
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

    # --- attributes of its parts ------------------------------------------------

    @property
    def state(self):
        """The state of the link."""
        return self.state_

    @property
    def presented(self):
        """The engine, which has the peer's certificate, version, cipher and ALPN."""
        return self.connection.engine

    @property
    def hello(self):
        """Our HELLO; None before we have sent it."""
        return self.handshake.hello

    @property
    def peer_hello(self):
        """The HELLO of the peer; None before it has come."""
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
        """When the time of the handshake began, in the loop's time."""
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
        """Cut the connection at once, without an alert or GOODBYE."""
        self.connection.abort()

    def connection_lost(self, exc):
        """Note that the connection failed or is gone."""
        self.connection.connection_lost(exc)

    def unfinished(self):
        """See `Dispatcher.unfinished`."""
        return self.dispatcher.unfinished()

    def peer_text(self):
        """Return the best name for the peer that is known now."""
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
        """Report callbacks that block the loop for `limit` seconds.

        Args:
            on_slow: called after a slow receive callback, with the peer's name, the
                seconds and the names of endpoints.
            on_slow_handler: called after another slow handler, with endpoint and time.
        """
        self.on_slow = on_slow
        self.connection.watch.on_slow = self.tell_slow
        self.connection.watch.on_slow_handler = on_slow_handler
        self.connection.watch.limit = limit

    def tell_slow(self, double took):
        """Report a receive callback that took `took` seconds."""
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
        """Handle MOVED: the peer begins no more messages and calls on this link."""
        self.allowed &= ~UNTIL_MOVED
        return 0

    def refuse(self, error):
        """Refuse the peer, and tell it the reason."""
        self.terminate(
            error,
            getattr(error, "close_reason", CloseReason.REFUSED),
            error.message,
            error.hint,
        )

    # --- events of the connection --------------------------------------------

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
        """End this link, and nothing else, because of an error."""
        # The messages before the error are valid, so their handlers get them.
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
        """End the link because of an error of this node, which goes on."""
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
        # A frame that may end the link, or comes after all messages, must not overtake
        # messages.
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
        """End the link, because the peer sent too many bytes before its admission."""
        self.on_failure(endings.introduced_itself_too_long(self.peer_text()))

    # --- traffic --------------------------------------------------------------

    def come_up(self):
        """Begin the use of the link: both sides have accepted each other."""
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
        """Ping the peer, and treat it as dead if nothing comes within `seconds`.

        Args:
            on_silent: called if the peer is dead; None: the link is lost.
        """
        self.keepalive.check(seconds, on_silent)

    def peer_silent(self, seconds):
        """End the link, because the peer was silent for `seconds`."""
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
        """Return the counts in the order of `COUNTERS` in `fastnode.link.stats`. No
        count decreases. None changes after the link and its handlers have ended.
        """
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
        """Return the values of this moment, in the order of `GAUGES` in
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
        """Send everything new on `successor` from now on, which is up."""
        self.succession.succeed(successor)
        if self.state_ is not State.UP:
            return
        self.enter(Event.MOVE)
        self.calls.on_idle = self.outbox.on_empty = self.drained
        self.dispatcher.tell_idle(self.drained)
        self.outbox.move(endings.replaced(self.peer))
        self.drained()

    def probe_sooner(self, bint others_wait):
        """Find out soon whether the peer is dead, because a newer link waits for it."""
        interval = self.settings.interval_with(self.peer_hello)
        if others_wait:
            interval = min(interval, HANDOVER_INTERVAL_SECONDS)
        self.keepalive.pace(interval)

    def turn_away(self):
        """End this link in order when our work is done, because the peer stops.

        The end does not begin in this turn of the loop. Frames of the peer may follow
        in the same read, and callers that have just found this link may still use it.
        """
        if self.state_ is State.UP:
            self.calls.on_idle = self.outbox.on_empty = self.drained
            self.dispatcher.tell_idle(self.drained)
            self.loop.call_soon(self.drained)

    # --- the end --------------------------------------------------------------

    def begin_close(self, reason, timeout=CLOSE_TIMEOUT_SECONDS):
        """End the link in order: queued frames leave first, then GOODBYE. A second call
        can only shorten the time."""
        if self.state_ < State.UP:
            self.refuse(endings.given_up(self.peer_text()))
        if self.state_ in (State.UP, State.RETIRING):
            self.close_for(reason, timeout, endings.closed_here(self.peer, reason))
        elif self.state_ is State.CLOSING:
            self.hasten(timeout)

    cdef int hasten(self, double timeout) except -1:
        """Shorten the time of an orderly end that has begun."""
        cdef object timer = self.connection.timer
        if timer is not None and timer.when() > self.loop.time() + timeout:
            timer.cancel()
            self.connection.timer = self.loop.call_later(timeout, self.close_expired)
        return 0

    @property
    def awaited_here(self):
        """Return whether the caller is a handler of this peer's messages. The orderly
        end waits for such a handler."""
        peer = handler_peer(self.dispatcher.handlers.registry)
        return (
            peer is not None
            and self.peer is not None
            and (peer.name, peer.instance) == (self.peer.name, self.peer.instance)
        )

    cdef int close_for(self, reason, timeout, error) except -1:
        """Begin the orderly end. Users get `error` from now on."""
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
        """Continue the end, because the queue is empty, or the last handler or call has
        finished."""
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
        """Send GOODBYE if all messages and replies have left."""
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
        """Cut the orderly end, because it took too long."""
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
            # The peer sends GOODBYE after its handlers have finished and their replies
            # have left. So calls that still wait did not begin and will not begin.
            self.calls.close(renewed(closed, begun="no"))
            if self.state_ is State.RETIRING:
                self.succession.retire()
            elif self.state_ is State.UP:
                if self.extensions.announced:
                    # The peer closes the link because this node stops.
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
        """Handle the end of the peer's TLS stream."""
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
        """End the link after an error of TLS: ours, an alert, or a cut stream."""
        # The traceback would keep the SSLObject alive.
        error = error.with_traceback(None)
        if self.state_ < State.UP:
            failure = self.owner.explain(self, error)
        else:
            failure = endings.lost(
                "TLS failed, or the stream was cut", self.peer, error
            )
        self.terminate(failure)

    def terminate(self, error, reason=None, text="", hint=None):
        """End the link, in order or not. All users of the link get `error`.

        Args:
            reason: the code of a last GOODBYE; None sends no GOODBYE.
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
                # Code that waits for this link gets `LinkLost` with the cause.
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
        """Do one part of the end. The other parts follow even if this one fails."""
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
            # On the acceptor's side no code waits for this future.
            self.established.exception()
        elif part == 6:
            self.owner.link_ended(self, was, self.error)
        elif part == 7:
            self.succession.link_ended(self.error)
        return 0

    # --- handlers -------------------------------------------------------------

    @property
    def running(self):
        """The number of handlers of this link that have not finished."""
        return self.dispatcher.running

    def when_idle(self, callback):
        """Call `callback` when the last handler has finished. None removes it."""
        self.dispatcher.tell_idle(callback)

    @property
    def undelivered(self):
        """The unfinished work at the end of the link, an `Undelivered`. None if nothing
        was left, or if the link has not ended."""
        if self.peer is None or self.left is None or not any(self.left):
            return None
        return Undelivered(self.peer.name, *self.left)

    @property
    def reason(self):
        """The error for new messages; None while the link is up."""
        return self.error or self.outbox.closed

    def cancel_handlers(self):
        """Cancel the handlers, and return their tasks."""
        return self.dispatcher.stop()

    # --- a fork -----------------------------------------------------------------

    def orphan(self, error):
        """Raise `error` at each use of the link, and write nothing any more.

        This is for a forked child. The socket is shared with the parent process. TLS
        and counters are copies. One byte that the child writes or reads would end the
        link of the parent.

        Returns:
            The descriptor of its socket, -1 if there is none.
        """
        cdef int descriptor = self.connection.detach()
        self.enter(Event.END)
        self.connection.ended = True
        self.error = error
        self.decoder.clear()
        # The parent's links continue, so its peers may still handle these calls.
        self.calls.close(renewed(error, begun="maybe"))
        self.connection.stop_timer()
        self.outbox.close(error)
        self.keepalive.close(error)
        for waiter in (self.established, self.connection.gone):
            if not waiter.done():
                waiter.set_exception(error)
                waiter.exception()
        return descriptor
