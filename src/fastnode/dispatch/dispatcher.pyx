"""The receiving side of a link: it gives complete frames to the endpoints' handlers.

Plain handlers run in the order in which messages arrive. Asynchronous handlers start in
this order. Unfinished messages count against the peer's window, so a slow handler slows
its senders. Replies and pings pass, because no window holds them up.

`DeliveryQueue` keeps deliveries that cannot begin at once. `Batches` gathers messages
for batch endpoints. `Handlers` starts handlers and answers for them. They use three
operations of the sending side: `reply`, `refuse` and `crowded`.
"""

cimport cython
from libc.stdint cimport uint16_t, uint32_t, uint64_t

from fastnode.buffers.spares cimport Spares
from fastnode.dispatch.batches cimport Batches
from fastnode.dispatch.congestion cimport Congestion
from fastnode.dispatch.context cimport HandlerContext
from fastnode.dispatch.endpoint cimport (
    Endpoint,
    EndpointNumbers,
    EndpointRegistry,
    data_endpoint,
)
from fastnode.dispatch.handler cimport CONFIRMED, NESTED, Handlers
from fastnode.dispatch.queue cimport DeliveryQueue
from fastnode.dispatch.stopwatch cimport Stopwatch, reach
from fastnode.dispatch.windows cimport Windows
from fastnode.sending.outbox cimport Outbox
from fastnode.wire.decoder cimport Decoder
from fastnode.wire.extension cimport Extension, decode_block
from fastnode.wire.frame cimport CONFIRM, DATA_LANE, DROPPED, LANES

from struct import Struct

from fastnode.dispatch.drops import Drops
from fastnode.errors import ProtocolError, Side
from fastnode.limits import MAX_EARLY_CANCELS, WINDOW_BYTES

cdef Py_ssize_t MOST_EARLY_CANCELS = MAX_EARLY_CANCELS
# The body of DROPPED: the number of dropped messages.
cdef object COUNT = Struct(">I")
# The number of a call is used again after 2**32 calls. A cancellation that is half as
# old was for a call that had ended before the cancellation came.
cdef uint64_t CANCEL_LASTS = <uint64_t>1 << 31


@cython.final
cdef class Dispatcher:
    """Dispatches what one link receives."""

    def __init__(
        self,
        loop,
        Outbox outbox not None,
        EndpointRegistry registry not None,
        Stopwatch watch not None,
        Spares spares not None,
        on_error,
        uint64_t window=WINDOW_BYTES,
    ):
        self.outbox = outbox
        self.registry = registry
        self.watch = watch
        self.numbers = EndpointNumbers(registry)
        self.windows = Windows(loop, outbox, window)
        self.handlers = Handlers(loop, outbox, registry, self.windows, watch, spares)
        self.batches = Batches(self.handlers)
        self.queue = DeliveryQueue(self.handlers, self.batches)
        self.congestion = Congestion(self.handlers, self.queue, self.batches)
        self.early_cancels = {}
        outbox.errors = registry.counters.reply_errors
        self.handlers.on_end = self.handler_ended
        self.batches.on_rest = self.queue.on_rest = self.rest
        self.queue.on_mark = self.come_through
        self.handlers.on_error = on_error

    def set_peer(self, peer):
        """Set the peer, which is the `sender` of all messages."""
        self.handlers.peer = peer

    def report_drops(self):
        """Report dropped one-way messages, because the peer understands DROPPED."""
        self.handlers.drops = Drops(self.tell_dropped)

    def pause_endpoints(self):
        """Pause endpoints that are full, because the peer understands PAUSE."""
        self.congestion.enable()

    def tell_dropped(self, uint32_t count, str name not None):
        """Send DROPPED for `count` messages to an endpoint that does not exist."""
        self.outbox.frame(DROPPED, 0, COUNT.pack(count) + name.encode())

    # --- frames -----------------------------------------------------------------

    cdef int message(self, int lane, uint16_t number, bytes payload) except -1:
        """Take a one-way message."""
        self.handlers.messages_received += 1
        return self.queue.accept(
            self.numbers.find(lane, number), payload, lane, 0, 0, None
        )

    cdef int extended_message(self, Decoder decoder, bytes payload) except -1:
        """Take a one-way message with an extension block. `decoder` has its frame."""
        cdef Extension extension = self.extension_of(decoder)
        # One-way messages have no deadline, because no caller waits.
        extension.deadline = 0
        self.handlers.messages_received += 1
        return self.queue.accept(
            self.numbers.find(decoder.lane, decoder.number),
            payload,
            decoder.lane,
            0,
            0,
            extension,
        )

    cdef Extension extension_of(self, Decoder decoder):
        """Read the extension block of the frame that `decoder` has."""
        cdef Extension extension = decode_block(decoder.block)
        decoder.block = None
        if extension.time_left >= 0:
            extension.deadline = <double>self.handlers.loop.time() + extension.time_left
        return extension

    cdef int messages(self, Decoder decoder) except -1:
        """Take the complete plain messages that follow in the decoder.

        The result is that of `message` for each of them, with less work per message.
        """
        cdef Handlers handlers = self.handlers
        cdef EndpointNumbers numbers = self.numbers
        cdef Stopwatch watch = self.watch
        cdef Endpoint endpoint
        cdef bytes payload = handlers.begin_plain(decoder, numbers)
        while payload is not None:
            reach(watch, DATA_LANE, decoder.number)
            endpoint = data_endpoint(numbers, decoder.number)
            handlers.messages_received += 1
            if handlers.held:
                self.queue.accept(endpoint, payload, DATA_LANE, 0, 0, None)
            else:
                self.queue.place(endpoint, payload, DATA_LANE, 0, 0, None, None)
            if endpoint.plain:
                payload = handlers.begin_plain(decoder, numbers)
            else:
                payload = decoder.next_message()
        return 0

    cdef int call(self, Decoder decoder, bytes payload) except -1:
        """Take a call or a confirmed message. `decoder` has its frame."""
        cdef int lane = decoder.lane
        cdef uint32_t call = decoder.call
        cdef int flags = NESTED if decoder.nested else 0
        cdef Endpoint endpoint = self.numbers.find(lane, decoder.number)
        cdef Extension extension = None
        if decoder.block is not None:
            extension = self.extension_of(decoder)
        if decoder.kind == CONFIRM:
            flags |= CONFIRMED
            self.handlers.messages_received += 1
        else:
            self.calls_received += 1
        if call == 0 or call in self.handlers.calls:
            raise ProtocolError(
                f"the peer used the number {call} for a new call", side=Side.REMOTE
            )
        self.numbered += 1
        if self.calls_refused:
            # Our GOODBYE, which is on its way, tells the caller that no reply follows.
            return 0
        if (
            self.registry.lag is not None
            and not flags & NESTED
            and not endpoint.reserved
            and not self.outbox.crowded()
            and self.registry.lag.over()
        ):
            # A refusal is a reply too. So nothing is refused while the peer does not
            # read its replies.
            self.early_cancels.pop(call, None)
            return self.handlers.refuse_busy(
                endpoint, call, self.registry.lag.text()
            )
        if self.batches.gathered and not (flags & CONFIRMED and endpoint.batch):
            self.batches.hand_over()
            if self.queue.closed:
                return 0
        if self.early_cancels and self.is_cancelled(call):
            return 0
        if (
            self.handlers.held
            or endpoint.most
            or endpoint.awaits
            or self.outbox.crowded()
        ):
            return self.queue.accept(endpoint, payload, lane, call, flags, extension)
        return self.queue.begin(endpoint, payload, lane, call, flags, extension)

    cdef int cancel(self, uint32_t call, bint late) except -1:
        """Cancel a call, because its caller gave up.

        A cancellation can overtake its call if the call is large or waits for credit,
        because the call is in another lane then. So a cancellation without a call is
        kept. Most kept cancellations are for calls that have ended. The oldest ones
        make room for new ones.

        Args:
            call: the number of the call.
            late: whether the caller gave up because the deadline is over.
        """
        if self.handlers.cancel(call, late):
            return 0
        self.early_cancels.pop(call, None)
        if len(self.early_cancels) >= MOST_EARLY_CANCELS:
            self.early_cancels.pop(next(iter(self.early_cancels)))
        self.early_cancels[call] = self.numbered
        return 0

    cdef bint is_cancelled(self, uint32_t call) except? True:
        """Return whether the cancellation of a call came before the call."""
        cdef object when = self.early_cancels.pop(call, None)
        return when is not None and self.numbered - <uint64_t>when < CANCEL_LASTS

    cdef int dry(self) except -1:
        """Hand over gathered batches, because all bytes of the socket are read."""
        if self.batches.gathered:
            self.batches.hand_over()
            self.watch.lap()
            if self.on_idle is not None:
                self.rest()
        return 0

    # --- what handlers leave ------------------------------------------------------

    def handler_ended(self, Endpoint endpoint not None, batch):
        """Begin what waited for the end of an asynchronous handler."""
        cdef HandlerContext context = self.registry.context
        cdef bint entered = context.enter()
        try:
            if batch is not None:
                self.batches.done(batch)
            elif endpoint.most:
                self.queue.run_endpoint(endpoint)
            self.rest()
        except Exception as error:
            self.handlers.begin_failed(error)
        finally:
            if entered:
                context.leave()
            if self.closed:
                self.let_go()

    def rest(self):
        """Call the callbacks that wait for the end of all work, if it has ended."""
        self.settle()
        if self.on_idle is not None and not self.busy():
            self.on_idle()

    cdef int tell_idle(self, callback) except -1:
        """Call `callback` when nothing is left to do. None removes the callback."""
        self.on_idle = callback
        self.handlers.tell_ends = callback is not None or self.closed
        return 0

    cdef bint busy(self) noexcept:
        """Return whether a received message or call is not handled yet."""
        return (
            self.handlers.running > 0 or self.queue.waits() or self.batches.busy()
        )

    # --- an older or newer link, see fastnode.link.succession -----------------------

    cdef int hold_deliveries(self) except -1:
        """Hold all messages and calls until `release`."""
        return self.queue.hold_deliveries()

    cdef int release(self) except -1:
        """Begin the messages and calls that were held."""
        return self.queue.release()

    cdef int moved(self) except -1:
        """Take the peer's MOVED: all its messages on this link have come."""
        if not self.queue.mark():
            self.come_through()
        return 0

    def come_through(self):
        """Note that all messages of the peer have begun.

        Batches are the exception. Batches of the next link follow when those of this
        link are done.
        """
        self.all_came = True
        self.settle()

    def settle(self):
        """Let the next link begin, if no batch, lane or stalled delivery of ours waits.
        """
        if (
            self.all_came
            and not self.through
            and not self.batches.lines
            and self.queue.in_lanes == 0
            and self.queue.stalled is None
        ):
            self.through = True
            if self.on_through is not None:
                self.on_through()

    # --- the end ----------------------------------------------------------------

    @property
    def running(self):
        """The number of running handlers."""
        return self.handlers.running

    def stop(self):
        """Begin nothing more, cancel the running handlers, and return their tasks."""
        self.batches.close()
        self.queue.close()
        self.congestion.close()
        return self.handlers.stop()

    cdef int close(self) except -1:
        """Drop everything that waits, because the link has ended."""
        self.closed = True
        self.on_idle = self.on_through = None
        self.batches.close()
        self.queue.close()
        self.congestion.close()
        self.handlers.tell_ends = True
        return self.handlers.close()

    cdef int let_go(self) except -1:
        """Remove all references back to this object, if no handler runs any more.

        So the object is freed with its last user, without the garbage collector. This
        method is called when the connection is gone, and when a handler ends after the
        link. `close` does not call it, because the handler that has closed the link may
        continue in a task.
        """
        if self.handlers.running == 0:
            self.handlers.on_end = self.handlers.on_lent = self.handlers.on_error = None
            self.batches.on_rest = None
            self.queue.on_rest = self.queue.on_mark = None
            self.handlers.paused.on_less = None
        return 0

    # --- for tests ----------------------------------------------------------------

    def unfinished(self):
        """Return the counters of unfinished deliveries that are not 0, by name."""
        cdef int lane
        cdef Windows windows = self.windows
        cdef DeliveryQueue queue = self.queue
        cdef dict found = {
            "excused": windows.excused,
            "shut": windows.shut,
            "running": self.handlers.running,
            "tasks": len(self.handlers.tasks),
            "calls": len(self.handlers.calls),
            "given": self.handlers.spare_given,
            "held back": 0 if queue.held is None else len(queue.held) + 1,
            "in lanes": queue.in_lanes,
            "at endpoints": queue.at_endpoints,
            "stalled": 0 if queue.stalled is None else len(queue.stalled) + 1,
            "gathered": len(self.batches.gathered),
            "lines": len(self.batches.lines),
            "waiting for turns": self.batches.waiting,
            "paused": self.handlers.paused.count,
            "set aside": self.handlers.paused.size,
            "set aside under way": self.handlers.paused.under_way,
            "in lines": self.handlers.paused.in_lines,
        }
        for lane in range(LANES):
            found[f"held, lane {lane}"] = windows.held[lane]
            found[f"under way, lane {lane}"] = windows.under_way[lane]
        return {name: count for name, count in found.items() if count}

    # --- slow callbacks -----------------------------------------------------------

    def names_seen(self):
        """Return the endpoints that the stopwatch has seen since its last lap."""
        cdef int lane
        cdef Py_ssize_t number
        cdef list book
        cdef dict names = {}
        for lane in range(LANES):
            book = self.numbers.books[lane]
            for number in range(len(book)):
                if self.watch.seen[lane] >> (number & 63) & 1:
                    names[(<Endpoint>book[number]).name] = None
        return list(names)
