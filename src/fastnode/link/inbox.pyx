"""The receiving side of a link: messages and calls to their handlers.

Handlers run in the order in which messages arrive; asynchronous ones are started in
that order. What they have not finished counts against the peer's window, so a slow
handler slows its senders, while replies and pings, which no window holds up, pass.

While the peer does not read the replies it asked for, nothing more is handled: what
it had sent is parked, in order, and it is granted nothing. Reading goes on, so two
nodes that do this to each other do not block each other. A link that succeeds another
parks in the same way until that one's messages are handled (fastnode.link.succession).

`Turns`, below it, has what waits its turn, `Batches` what goes to batch endpoints, and
`HandlerTasks` the asynchronous handlers that are under way.
"""

cimport cython
from cpython.bytes cimport PyBytes_CheckExact, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_REFCNT
from libc.stdint cimport uint16_t, uint32_t, uint64_t

from fastnode.link.endpoint cimport Endpoint, EndpointRegistry
from fastnode.link.handling cimport Handling
from fastnode.link.message cimport Message, make_message
from fastnode.link.numbers cimport EndpointNumbers
from fastnode.link.outbox cimport Outbox
from fastnode.link.stopwatch cimport Stopwatch
from fastnode.link.tasks cimport TASK_BYTES
from fastnode.link.turns cimport CONFIRMED, FROM_HANDLER, GONE, HOW_LANE, Turns
from fastnode.link.windows cimport Windows
from fastnode.wire.decoder cimport Decoder
from fastnode.wire.frame cimport CONFIRM, DATA_LANE, INNER_LANE

import logging
from collections import deque
from inspect import isawaitable

from fastnode.errors import ProtocolError, Side
from fastnode.limits import WINDOW_BYTES
from fastnode.link.calls import HANDLER_RAISED, NO_SUCH_ENDPOINT


# Why a batch endpoint cannot be called.
cdef str NO_REPLY = (
    "this endpoint takes batches and replies to nothing: send to it "
    "(confirm=True waits until it was handed over), or call another one"
)

cdef extern from *:
    """
    static int fastnode_reraise(void) { return -1; }
    """
    PyObject *call_one "PyObject_CallOneArg" (object function, object argument)
    # Makes Cython see the exception that is set.
    int reraise "fastnode_reraise" () except -1


@cython.final
cdef class Inbox(Turns):
    """Dispatches what one link receives."""

    def __init__(
        self,
        loop,
        Outbox outbox not None,
        EndpointRegistry registry not None,
        Stopwatch watch not None,
        uint64_t window=WINDOW_BYTES,
    ):
        Turns.__init__(
            self, loop, outbox, registry, Windows(loop, outbox, window), watch
        )
        self.on_settled = self.settled

    # --- messages and calls ---------------------------------------------------

    cdef int message(self, int lane, uint16_t number, bytes payload) except -1:
        cdef Endpoint endpoint = self.numbers.find(lane, number)
        self.messages_received += 1
        if self.parked is not None or endpoint.most or endpoint.awaits:
            return self.later(endpoint, 0, payload, lane << HOW_LANE)
        return self.handle_message(endpoint, payload, lane)

    cdef int messages(self, Decoder decoder, object link) except -1:
        """The messages that follow in the decoder, as long as they are whole and plain:
        as `message`, with nothing done for each that need not be."""
        cdef EndpointNumbers numbers = self.numbers
        cdef list book = numbers.book
        cdef Stopwatch watch = self.watch
        cdef Endpoint endpoint
        cdef uint16_t number
        # When a handler has ended the link, the decoder is empty.
        cdef bytes payload = decoder.next_message()
        while payload is not None:
            number = decoder.number
            if watch.close:
                watch.message(link, number)
            watch.seen |= <uint64_t>1 << (number & 63)
            if (
                number < PyList_GET_SIZE(book)
                and numbers.generation == self.registry.generation
            ):
                endpoint = <Endpoint>PyList_GET_ITEM(book, number)
            else:
                endpoint = numbers.find(DATA_LANE, number)
            self.messages_received += 1
            if self.parked is not None or endpoint.most or endpoint.awaits:
                self.later(endpoint, 0, payload, DATA_LANE << HOW_LANE)
            else:
                self.handle_message(endpoint, payload, DATA_LANE)
            payload = decoder.next_message()
        return 0

    cdef int handle_message(self, Endpoint endpoint, bytes payload, int lane) except -1:
        cdef PyObject *returned
        cdef object result
        cdef Message message
        if endpoint.batch:
            return self.gather(endpoint, payload, lane, 0)
        if endpoint.handler is None:
            return self.nobody(endpoint)
        message = self.spare
        if message is None:
            message = make_message(payload, self.peer, endpoint.name)
        else:
            self.spare = None
            message.payload = payload
            message.endpoint = endpoint.name
        # Not in a `try`, which costs as much as the rest of this.
        returned = call_one(endpoint.handler, message)
        if Py_REFCNT(message) == 1:
            # Nobody can see that it is used again.
            message.payload = None
            self.spare = message
        if returned == NULL:
            return self.raised(endpoint)
        result = <object>returned
        Py_DECREF(result)
        if result is None:
            return 0
        return self.returned(endpoint, result, payload, lane)

    cdef int returned(
        self, Endpoint endpoint, object result, bytes payload, int lane
    ) except -1:
        """What the handler of a one-way message returned: only a coroutine counts."""
        try:
            if endpoint.asynchronous or isawaitable(result):
                self.start_with(payload, result, None, endpoint, lane)
        except BaseException as error:
            self.handler_failed(endpoint, error)
        return 0

    cdef int start_with(
        self,
        bytes payload,
        object awaitable,
        object number,
        Endpoint endpoint,
        int lane,
    ) except -1:
        """Run what a handler returned that was given `payload`."""
        cdef size_t size = <size_t>PyBytes_GET_SIZE(payload)
        cdef Handling handling = self.start(
            awaitable, number, endpoint, size + TASK_BYTES, lane
        )
        endpoint.awaits = True
        if size >= self.outbox.pool.spares.least and not handling.done:
            handling.payload = payload
        return 0

    cdef int raised(self, Endpoint endpoint) except -1:
        """The handler of a one-way message raised what is set as exception."""
        try:
            reraise()
        except BaseException as error:
            self.handler_failed(endpoint, error)
        return 0

    cdef int nobody(self, Endpoint endpoint) except -1:
        """A one-way message to an endpoint that has no handler."""
        self.unhandled += 1
        self.registry.limited.say(
            logging.WARNING,
            "no such endpoint",
            "a message from %s to %r was dropped: no such endpoint here",
            self.peer.name,
            endpoint.name,
        )
        return 0

    cdef int call(self, Decoder decoder, bytes payload) except -1:
        """A call, or a message that is to be confirmed; `decoder` has its frame."""
        cdef int lane = decoder.lane
        cdef uint16_t number = decoder.number
        cdef uint32_t call = decoder.call
        cdef bint confirm = decoder.kind == CONFIRM
        cdef Endpoint endpoint = self.numbers.find(lane, number)
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
        if self.gathered and not (confirm and endpoint.batch):
            self.hand_over()
            if self.closed:
                return 0
        if self.early_cancels and call in self.early_cancels:
            self.early_cancels.discard(call)
            return 0
        if (
            self.parked is not None
            or endpoint.most
            or endpoint.awaits
            or self.outbox.crowded()
        ):
            return self.later(
                endpoint,
                call,
                payload,
                lane << HOW_LANE
                | (CONFIRMED if confirm else 0)
                | (FROM_HANDLER if decoder.nested else 0),
            )
        if confirm:
            return self.handle_confirmed(
                endpoint,
                call,
                payload,
                lane << HOW_LANE | (FROM_HANDLER if decoder.nested else 0),
            )
        return self.handle_call(endpoint, call, payload, lane)

    cdef int handle_call(
        self, Endpoint endpoint, uint32_t call, bytes payload, int lane
    ) except -1:
        cdef object result
        if endpoint.handler is None:
            return self.refuse(call, NO_SUCH_ENDPOINT, "NoSuchEndpoint", endpoint.name)
        if endpoint.batch:
            return self.refuse(call, HANDLER_RAISED, "ConfigError", NO_REPLY)
        try:
            result = endpoint.handler(make_message(payload, self.peer, endpoint.name))
            if PyBytes_CheckExact(result):
                return self.reply(call, result)
            if endpoint.asynchronous or isawaitable(result):
                self.start_with(payload, result, call, endpoint, lane)
                return 0
            return self.reply(call, result)
        except BaseException as error:
            self.handler_failed(endpoint, error)
            self.refuse_for(call, error)
        return 0

    cdef int handle_confirmed(
        self, Endpoint endpoint, uint32_t call, bytes payload, int how
    ) except -1:
        """A message whose sender wants to know that its handler was given it."""
        cdef int lane = how >> HOW_LANE
        cdef object result
        if endpoint.handler is None:
            self.unhandled += 1
            return self.refuse(call, NO_SUCH_ENDPOINT, "NoSuchEndpoint", endpoint.name)
        if endpoint.batch and how & FROM_HANDLER:
            return self.gather_nested(endpoint, payload, lane, call)
        if endpoint.batch:
            return self.gather(endpoint, payload, lane, call)
        try:
            result = endpoint.handler(make_message(payload, self.peer, endpoint.name))
            if result is not None and (endpoint.asynchronous or isawaitable(result)):
                self.start_with(payload, result, None, endpoint, lane)
        except BaseException as error:
            self.handler_failed(endpoint, error)
            return self.refuse_for(call, error)
        return self.outbox.reply(call, b"")

    cdef int handle(
        self, Endpoint endpoint, uint32_t call, bytes payload, int how
    ) except -1:
        cdef int lane = how >> HOW_LANE
        if call == 0:
            return self.handle_message(endpoint, payload, lane)
        if how & CONFIRMED:
            return self.handle_confirmed(endpoint, call, payload, how)
        return self.handle_call(endpoint, call, payload, lane)

    # --- waiting ----------------------------------------------------------------

    cdef int later(
        self, Endpoint endpoint, uint32_t call, bytes payload, int how
    ) except -1:
        """Handle a message (call 0) or call, or keep it until its turn comes."""
        cdef bint crowded = call and self.outbox.crowded()
        if crowded or (self.parked is not None and how >> HOW_LANE != INNER_LANE):
            return self.park(endpoint, call, payload, how)
        return self.place(endpoint, call, payload, how)

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
        cdef double began
        # Replies that are flushed in here must not come back here.
        self.outbox.on_room = None
        self.unstall()
        if self.holding:
            self.go_on_late()
            return
        while self.parked:
            if self.outbox.crowded():
                self.outbox.on_room = self.resume
                self.hand_over()
                return
            endpoint, call, payload, how = self.parked.popleft()
            if endpoint is None:
                self.hand_over()
                self.come_through()
                continue
            if call and self.calls.pop(call, GONE) is GONE:
                continue
            began = self.watch.now()
            self.place(endpoint, call, payload, how)
            self.watch.tell(endpoint.name, began)
        self.parked = None
        self.windows.open()
        self.hand_over()
        self.go_on_late()
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

    cdef int come_through(self) except -1:
        """The last of the peer's messages has been handled, or its handler runs; but
        for batches: those of the next link follow when ours are done."""
        self.all_came = True
        self.settled()
        return 0

    def settled(self):
        """No batch is under way or waits, nothing is put off or stalled: if all of them
        are so, what follows ours on another link may begin."""
        if (
            self.all_came
            and not self.through
            and not self.lines
            and self.backlog.count == 0
            and self.stalled is None
        ):
            self.through = True
            if self.on_through is not None:
                self.on_through()

    cdef bint busy(self) noexcept:
        return (
            Turns.busy(self)
            or self.parked is not None
            or bool(self.gathered)
            or bool(self.lines)
        )

    cdef int close(self) except -1:
        """The link has ended: nobody waits for replies any more."""
        cdef dict calls = self.calls
        self.calls = {}
        self.on_idle = self.on_through = self.on_settled = self.parked = None
        self.drop()
        self.give_up()
        for handling in calls.values():
            self.cancel_task(handling)
        return 0
