"""The receiving side of a link: messages and calls to their handlers.

Handlers run in the order in which messages arrive; asynchronous ones are started in
that order. What they have not finished counts against the peer's window, so a slow
handler slows its senders, while replies and pings, which no window holds up, pass.

While the peer does not read the replies it asked for, nothing more is handled: what
it had sent is parked, in order, and it is granted nothing. Reading goes on, so two
nodes that do this to each other do not block each other. A link that succeeds another
parks in the same way until that one's messages are handled (fastnode.link.succession).
"""

cimport cython
from cpython.bytes cimport PyBytes_CheckExact, PyBytes_GET_SIZE
from libc.stdint cimport int32_t, uint16_t, uint32_t, uint64_t

from fastnode.link.endpoint cimport Endpoint, EndpointRegistry
from fastnode.link.handling cimport Handling
from fastnode.link.message cimport make_message
from fastnode.link.outbox cimport Outbox, as_bytes
from fastnode.link.windows cimport Windows
from fastnode.wire.decoder cimport Decoder
from fastnode.wire.frame cimport CONFIRM, ERROR, INNER_LANE, LANES

import logging
from asyncio import CancelledError
from collections import deque
from collections.abc import Coroutine
from inspect import isawaitable

from fastnode.errors import ProtocolError, Side
from fastnode.limits import (
    ENDPOINT_DICTIONARY_SIZE,
    MAX_EARLY_CANCELS,
    WINDOW_BYTES,
)
from fastnode.log_limit import LogLimit
from fastnode.link.calls import (
    HANDLER_RAISED,
    NO_SUCH_ENDPOINT,
    REPLY_TOO_LARGE,
    encode_error,
)

log = logging.getLogger("fastnode.link")

# Not among the calls: it was cancelled.
cdef object GONE = object()

cdef enum:
    # What a message under way costs besides its payload: task, message, bookkeeping.
    TASK_BYTES = 1024
    # Parts of `how`: the lane is in the bits above.
    CONFIRMED = 1
    FROM_HANDLER = 2
    HOW_LANE = 2

cdef Py_ssize_t BOOK_SIZE = ENDPOINT_DICTIONARY_SIZE
cdef Py_ssize_t MOST_EARLY_CANCELS = MAX_EARLY_CANCELS


@cython.final
cdef class Inbox:
    """Dispatches what one link receives."""

    def __init__(
        self,
        loop,
        Outbox outbox not None,
        EndpointRegistry registry not None,
        uint64_t window=WINDOW_BYTES,
    ):
        self.loop = loop
        self.outbox = outbox
        self.registry = registry
        self.generation = registry.generation
        self.windows = Windows(loop, outbox, window)
        self.books = [[] for _ in range(LANES)]
        self.book = self.books[0]
        self.tasks = {}
        self.calls = {}
        self.early_cancels = set()
        self.limited = LogLimit(log)

    def set_peer(self, peer):
        """Who sends: the `sender` of all messages."""
        self.peer = peer

    # --- the endpoint dictionary ----------------------------------------------

    cdef int define(self, int lane, uint16_t number, bytes name) except -1:
        cdef str text
        cdef Endpoint endpoint
        cdef list book = self.books[lane]
        if number > len(book) or number >= BOOK_SIZE:
            raise ProtocolError(
                f"the peer gave an endpoint the number {number}, where "
                f"{len(book)} is the next and {BOOK_SIZE} the bound",
                side=Side.REMOTE,
            )
        try:
            text = name.decode("utf-8")
        except UnicodeDecodeError:
            raise ProtocolError(
                "the peer sent an endpoint's name that is not UTF-8", side=Side.REMOTE
            ) from None
        endpoint = self.registry.find(text)
        if number == len(book):
            book.append(endpoint)
        else:
            book[number] = endpoint
        return 0

    cdef Endpoint endpoint(self, int lane, uint16_t number):
        cdef list book = self.book if lane == 0 else <list>self.books[lane]
        if number >= len(book):
            raise ProtocolError(
                f"the peer used endpoint number {number} without naming it",
                side=Side.REMOTE,
            )
        if self.generation != self.registry.generation:
            self.look_again()
        return <Endpoint>book[number]

    cdef int look_again(self) except -1:
        """Handlers were registered since: look all names up once more."""
        cdef Py_ssize_t i
        cdef list book
        for book in self.books:
            for i in range(len(book)):
                book[i] = self.registry.find((<Endpoint>book[i]).name)
        self.generation = self.registry.generation
        return 0

    # --- messages and calls ---------------------------------------------------

    cdef int message(self, int lane, uint16_t number, bytes payload) except -1:
        cdef Endpoint endpoint = self.endpoint(lane, number)
        self.messages_received += 1
        if self.parked is not None or endpoint.most:
            return self.later(endpoint, 0, payload, lane << HOW_LANE)
        return self.handle_message(endpoint, payload, lane)

    cdef int handle_message(self, Endpoint endpoint, bytes payload, int lane) except -1:
        cdef object result
        if endpoint.handler is None:
            self.unhandled += 1
            self.complain(
                "a message from %s to %r was dropped: no such endpoint here",
                self.peer.name,
                endpoint.name,
            )
            return 0
        try:
            result = endpoint.handler(make_message(payload, self.peer, endpoint.name))
            if result is not None and (endpoint.asynchronous or isawaitable(result)):
                self.start(result, None, endpoint, PyBytes_GET_SIZE(payload), lane)
        except Exception:
            self.handler_failed(endpoint.name)
        return 0

    cdef int call(self, Decoder decoder, bytes payload) except -1:
        """A call, or a message that is to be confirmed; `decoder` has its frame."""
        cdef int lane = decoder.lane
        cdef uint16_t number = decoder.number
        cdef uint32_t call = decoder.call
        cdef bint confirm = decoder.kind == CONFIRM
        cdef Endpoint endpoint = self.endpoint(lane, number)
        if confirm:
            self.messages_received += 1
        else:
            self.calls_received += 1
        if call == 0 or call in self.calls:
            raise ProtocolError(
                f"the peer used the number {call} for a new call", side=Side.REMOTE
            )
        self.last_call = call
        if self.calls_refused:
            # The goodbye in flight tells the caller that nobody will reply.
            return 0
        if self.early_cancels and call in self.early_cancels:
            self.early_cancels.discard(call)
            return 0
        if self.parked is not None or endpoint.most or self.outbox.crowded():
            return self.later(
                endpoint,
                call,
                payload,
                lane << HOW_LANE
                | (CONFIRMED if confirm else 0)
                | (FROM_HANDLER if decoder.nested else 0),
            )
        if confirm:
            return self.handle_confirmed(endpoint, call, payload, lane)
        return self.handle_call(endpoint, call, payload, lane)

    cdef int handle_call(
        self, Endpoint endpoint, uint32_t call, bytes payload, int lane
    ) except -1:
        cdef object result
        if endpoint.handler is None:
            return self.refuse(call, NO_SUCH_ENDPOINT, "NoSuchEndpoint", endpoint.name)
        try:
            result = endpoint.handler(make_message(payload, self.peer, endpoint.name))
            if PyBytes_CheckExact(result):
                return self.reply(call, result)
            if endpoint.asynchronous or isawaitable(result):
                return self.start(
                    result, call, endpoint, PyBytes_GET_SIZE(payload), lane
                )
            return self.reply(call, result)
        except Exception as error:
            self.refuse(call, HANDLER_RAISED, type(error).__name__, str(error))
        return 0

    cdef int handle_confirmed(
        self, Endpoint endpoint, uint32_t call, bytes payload, int lane
    ) except -1:
        """A message whose sender wants to know that its handler was given it."""
        cdef object result
        if endpoint.handler is None:
            self.unhandled += 1
            return self.refuse(call, NO_SUCH_ENDPOINT, "NoSuchEndpoint", endpoint.name)
        try:
            result = endpoint.handler(make_message(payload, self.peer, endpoint.name))
            if result is not None and (endpoint.asynchronous or isawaitable(result)):
                self.start(result, None, endpoint, PyBytes_GET_SIZE(payload), lane)
        except Exception as error:
            self.handler_failed(endpoint.name)
            return self.refuse(call, HANDLER_RAISED, type(error).__name__, str(error))
        return self.outbox.reply(call, b"")

    cdef int handle(
        self, Endpoint endpoint, uint32_t call, bytes payload, int how
    ) except -1:
        cdef int lane = how >> HOW_LANE
        if call == 0:
            return self.handle_message(endpoint, payload, lane)
        if how & CONFIRMED:
            return self.handle_confirmed(endpoint, call, payload, lane)
        return self.handle_call(endpoint, call, payload, lane)

    cdef int reply(self, uint32_t call, object result) except -1:
        """Send what a handler returned; None is an empty reply."""
        cdef bytes payload
        if PyBytes_CheckExact(result):
            payload = <bytes>result
        elif result is None:
            payload = b""
        else:
            payload = as_bytes(result)
        if <uint64_t>PyBytes_GET_SIZE(payload) > self.outbox.max_message:
            return self.refuse(
                call,
                REPLY_TOO_LARGE,
                "MessageTooLarge",
                f"it has {len(payload)} bytes, the caller takes "
                f"{self.outbox.max_message}",
            )
        return self.outbox.reply(call, payload)

    cdef int refuse(self, uint32_t call, int code, str name, str text) except -1:
        return self.outbox.frame(ERROR, 0, encode_error(call, code, name, text))

    # --- waiting ----------------------------------------------------------------

    cdef int later(
        self, Endpoint endpoint, uint32_t call, bytes payload, int how
    ) except -1:
        """Handle a message (call 0) or call, or keep it until its turn comes."""
        cdef bint crowded = call and self.outbox.crowded()
        if crowded or (self.parked is not None and how >> HOW_LANE != INNER_LANE):
            return self.park(endpoint, call, payload, how)
        if endpoint.most and endpoint.full(how & FROM_HANDLER):
            return self.queue(endpoint, call, payload, how)
        return self.handle(endpoint, call, payload, how)

    cdef int queue(
        self, Endpoint endpoint, uint32_t call, bytes payload, int how
    ) except -1:
        """Wait for a full endpoint, in order over all links, against our window."""
        if call:
            self.calls[call] = None
        self.windows.held[how >> HOW_LANE] += (
            <size_t>PyBytes_GET_SIZE(payload) + TASK_BYTES
        )
        self.waiting += 1
        waiting = endpoint.nested if how & FROM_HANDLER else endpoint.waiting
        waiting.append((self, call, payload, how))
        return 0

    def admit(self, Endpoint endpoint not None):
        """There is room at a bounded endpoint: the next ones, of any link."""
        cdef Inbox inbox
        cdef uint32_t call
        cdef int how
        while True:
            if endpoint.nested and endpoint.running < endpoint.most + endpoint.lent:
                entry = endpoint.nested.popleft()
            elif endpoint.waiting and endpoint.running < endpoint.most:
                entry = endpoint.waiting.popleft()
            else:
                break
            inbox, call, payload, how = entry
            inbox.waiting -= 1
            if call == 0 or inbox.calls.pop(call, GONE) is not GONE:
                inbox.handle(endpoint, call, payload, how)
            inbox.windows.release(how >> HOW_LANE, <size_t>len(payload) + TASK_BYTES)
            inbox.rest()

    cdef int leave(self) except -1:
        """The link has ended: what waits at endpoints is given up."""
        cdef Endpoint endpoint
        for endpoint in self.registry.by_name.values():
            if endpoint.most:
                endpoint.waiting = self.others(endpoint.waiting)
                endpoint.nested = self.others(endpoint.nested)
        self.waiting = 0
        return 0

    def others(self, waiting):
        """What waits and came over other links."""
        return deque(entry for entry in waiting if entry[0] is not self)

    cdef int park(
        self, Endpoint endpoint, uint32_t call, bytes payload, int how
    ) except -1:
        """Keep a message (call 0) or call for later; the window bounds how many."""
        if self.parked is None:
            self.parked = deque()
            self.windows.shut = True
            self.outbox.on_room = self.resume
        if call:
            self.calls[call] = None
        self.parked.append((endpoint, call, payload, how))
        return 0

    def resume(self):
        """Replies were read, or nothing is held any more: handle what is parked."""
        cdef Endpoint endpoint
        cdef uint32_t call
        cdef int how
        # Replies that are flushed in here must not come back here.
        self.outbox.on_room = None
        while self.parked:
            if self.outbox.crowded():
                self.outbox.on_room = self.resume
                return
            endpoint, call, payload, how = self.parked.popleft()
            if endpoint is None:
                self.come_through()
                continue
            if call and self.calls.pop(call, GONE) is GONE:
                continue
            if endpoint.most and endpoint.full(how & FROM_HANDLER):
                self.queue(endpoint, call, payload, how)
            else:
                self.handle(endpoint, call, payload, how)
        self.parked = None
        self.windows.open()
        self.rest()

    cdef int hold(self) except -1:
        """Park all messages and calls until `release`."""
        self.holding = True
        if self.parked is None:
            self.parked = deque()
        self.windows.shut = True
        self.outbox.on_room = None
        return 0

    cdef int release(self) except -1:
        """Handle what was held."""
        if self.holding:
            self.holding = False
            self.resume()
        return 0

    cdef int moved(self) except -1:
        """The peer's MOVED: the last of its messages has come."""
        if self.parked is not None:
            self.parked.append((None, 0, None, 0))
        else:
            self.come_through()
        return 0

    def come_through(self):
        """The last of the peer's messages has been handled, or its handler runs."""
        self.through = True
        if self.on_through is not None:
            self.on_through()

    cdef bint busy(self) noexcept:
        """Something that was received is not handled yet."""
        return bool(self.tasks) or self.parked is not None or self.waiting > 0

    cdef int rest(self) except -1:
        """Tell who waits for it that nothing is left to do."""
        if self.on_idle is not None and not self.busy():
            self.on_idle()
        return 0

    # --- asynchronous handlers ------------------------------------------------

    cdef int start(
        self,
        object awaitable,
        object number,
        Endpoint endpoint,
        size_t size,
        int lane,
    ) except -1:
        cdef Handling handling = Handling(
            self.windows, endpoint, self.admit, lane, size + TASK_BYTES
        )
        task = self.loop.create_task(self.run(awaitable, number, handling))
        self.tasks[task] = handling, awaitable
        task.add_done_callback(self.finished)
        if number is not None:
            self.calls[number] = task
        return 0

    async def run(self, awaitable, number, Handling handling):
        """One asynchronous handler, to its end."""
        handling.enter()
        try:
            result = await awaitable
            if number is not None and self.calls.pop(number, None) is not None:
                self.reply(number, result)
        except CancelledError:
            if number is not None and self.calls.pop(number, None) is not None:
                self.refuse(
                    number, HANDLER_RAISED, "CancelledError", "it was cancelled"
                )
            raise
        except Exception as error:
            if number is None:
                self.handler_failed(handling.endpoint.name)
            else:
                self.calls.pop(number, None)
                self.refuse(number, HANDLER_RAISED, type(error).__name__, str(error))

    def finished(self, task):
        """A handler's task is done, even if it was cancelled before it began."""
        cdef Handling handling
        handling, awaitable = self.tasks.pop(task)
        if task.cancelled() and isinstance(awaitable, Coroutine):
            # One that never began would complain that nobody awaited it.
            awaitable.close()
        handling.finish()
        if handling.endpoint.most:
            self.admit(handling.endpoint)
        self.rest()

    cdef int cancel(self, uint32_t call) except -1:
        """The caller gave up: a handler that is still at it is cancelled, one that
        has not begun never does."""
        cdef object task
        if call in self.calls:
            task = self.calls.pop(call)
            if task is not None:
                task.cancel()
        elif (
            # Numbers ascend, modulo 2**32: this call is still on its way.
            <int32_t>(call - self.last_call) > 0
            and len(self.early_cancels) < MOST_EARLY_CANCELS
        ):
            self.early_cancels.add(call)
        return 0

    # --- errors, end ----------------------------------------------------------

    def handler_failed(self, str endpoint):
        """A handler of a one-way message raised: nobody waits for it, so log it."""
        self.handler_errors += 1
        log.exception(
            "the handler of %r raised on a message from %s", endpoint, self.peer.name
        )

    def complain(self, str text, *args):
        """Log a warning, but not each of the many that a peer can cause."""
        self.limited.say(logging.WARNING, text, text, *args)

    def stop(self):
        """Cancel the handlers that are under way; returns their tasks."""
        for task in self.tasks:
            task.cancel()
        return list(self.tasks)

    cdef int close(self) except -1:
        """The link has ended: nobody waits for replies any more."""
        cdef dict calls = self.calls
        self.calls = {}
        self.on_idle = self.on_through = self.parked = None
        if self.waiting:
            self.leave()
        for task in calls.values():
            if task is not None:
                task.cancel()
        return 0
