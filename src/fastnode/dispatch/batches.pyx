"""Batch endpoints: handlers that are given lists of messages.

What arrives together is handed over together: a batch ends when it is full, when all
that the socket had was read, or before something that must not overtake it. Nothing
waits for more to come.

Of an asynchronous handler one batch is under way on a link, so that the next begins
when the one before has finished; meanwhile what arrives is gathered, against the
peer's window. A confirmed message from a handler of the peer is the exception: it
begins, with all before it, at once, because the batch that is under way may be waiting
for that very handler.
"""

cimport cython
from cpython.bytes cimport PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_SIZE
from libc.stdint cimport uint32_t, uint64_t

from fastnode.dispatch.batch cimport MESSAGE_BYTES, Batch, BatchLine
from fastnode.dispatch.counters cimport SAMPLE, EndpointCounters
from fastnode.dispatch.endpoint cimport Endpoint
from fastnode.dispatch.handler cimport (
    DONE,
    NESTED,
    QUEUED,
    Delivery,
    Handlers,
    new_delivery,
)
from fastnode.dispatch.histogram cimport seconds_now
from fastnode.dispatch.message cimport Message, make_message
from fastnode.wire.extension cimport Extension
from fastnode.wire.frame cimport LANES


@cython.final
cdef class Batches:
    """The batches of one link."""

    def __init__(self, Handlers handlers not None):
        self.handlers = handlers
        self.gathered = {}
        self.lines = {}

    # --- gathering --------------------------------------------------------------

    cdef int gather(
        self,
        Endpoint endpoint,
        bytes payload,
        int lane,
        uint32_t call,
        int flags,
        Extension extension,
    ) except -1:
        """Add a message; `call` is 0 or what to confirm."""
        cdef Batch batch = self.newest
        cdef Delivery delivery
        cdef Message message = make_message(
            payload, self.handlers.peer, endpoint.name
        )
        cdef size_t size = PyBytes_GET_SIZE(payload)
        if extension is not None:
            message.extension = extension
        if batch is None or batch.endpoint is not endpoint:
            batch = self.gathered.get(endpoint)
            if batch is None:
                batch = self.gathered[endpoint] = Batch(endpoint)
            self.newest = batch
        batch.messages.append(message)
        batch.size += size
        if self.handlers.paused.count and not flags & NESTED and (
            self.handlers.paused.takes(endpoint.name, size + MESSAGE_BYTES)
        ):
            batch.aside += <uint64_t>size + MESSAGE_BYTES
        else:
            batch.held[lane] += <uint64_t>size + MESSAGE_BYTES
            self.handlers.windows.held[lane] += <uint64_t>size + MESSAGE_BYTES
        if call:
            # A cancellation takes it out again.
            delivery = new_delivery(
                self.handlers, endpoint, None, lane, call, flags, extension
            )
            delivery.state = QUEUED
            delivery.place = len(batch.messages) - 1
            self.handlers.calls[call] = delivery
            if batch.confirms is None:
                batch.confirms = []
            batch.confirms.append(delivery)
            if flags & NESTED:
                return self.begin_all(endpoint)
        if batch.full():
            return self.hand(self.take(endpoint))
        return 0

    cdef int begin_all(self, Endpoint endpoint) except -1:
        """Begin all that waits and is gathered: a handler of the peer waits for it."""
        cdef BatchLine line = self.lines.get(endpoint)
        cdef Batch batch
        while line is not None and line.waiting and not self.closed:
            self.begin(line.waiting.popleft())
        batch = self.take(endpoint)
        return 0 if batch is None else self.begin(batch)

    cdef Batch take(self, Endpoint endpoint):
        """What is gathered for an endpoint, or None; it is gathered no more."""
        cdef Batch batch = self.gathered.pop(endpoint, None)
        if batch is self.newest:
            self.newest = None
        return batch

    # --- handing over -------------------------------------------------------------

    cdef int hand_over(self) except -1:
        """Hand over what is gathered, but for what has to wait for its turn."""
        cdef Endpoint endpoint
        cdef Batch batch
        if not self.gathered:
            return 0
        for endpoint in list(self.gathered):
            if endpoint in self.lines:
                continue
            # A handler may have brought about that there is nothing left.
            batch = self.take(endpoint)
            if batch is not None:
                self.hand(batch)
        return 0

    cdef int hand(self, Batch batch) except -1:
        """A batch is complete: handle it, or have it wait."""
        cdef Endpoint endpoint = batch.endpoint
        cdef BatchLine line = self.lines.get(endpoint)
        if line is None:
            if not (endpoint.batches and endpoint.batches_full()):
                return self.begin(batch)
            line = self.lines[endpoint] = BatchLine()
            self.enqueue(endpoint)
        line.waiting.append(batch)
        return 0

    cdef int begin(self, Batch batch) except -1:
        """Give a batch to its handler."""
        cdef Endpoint endpoint = batch.endpoint
        cdef BatchLine line
        cdef EndpointCounters counters = endpoint.counters
        cdef double began
        cdef double exactly = 0
        if batch.confirms is not None:
            self.drop_cancelled(batch)
        if not batch.messages:
            return self.free(batch)
        began = self.handlers.watch.now()
        if not counters.batches & SAMPLE:
            exactly = seconds_now()
        counters.batches += 1
        counters.begun += <uint64_t>PyList_GET_SIZE(batch.messages)
        if self.handlers.begin_batch(endpoint, batch):
            line = self.lines.get(endpoint)
            if line is None:
                line = self.lines[endpoint] = BatchLine()
            line.running += 1
        else:
            if exactly > 0:
                # A handler that goes on in a task is timed when it ends.
                counters.times.record(seconds_now() - exactly)
            self.free(batch)
        return self.handlers.watch.tell(endpoint.name, began)

    cdef int drop_cancelled(self, Batch batch) except -1:
        """Leave out what its sender has given up, and what comes too late; the others
        cannot be given up any more."""
        cdef Endpoint endpoint = batch.endpoint
        cdef Delivery each
        cdef list confirms = []
        cdef set gone = set()
        for each in batch.confirms:
            if each.state == DONE:
                gone.add(each.place)
                continue
            self.handlers.calls.pop(each.call, None)
            each.state = DONE
            if self.handlers.is_over(each.extension):
                self.handlers.refuse_late(endpoint, each.call)
                gone.add(each.place)
                continue
            confirms.append(each)
        if gone:
            batch.messages = [
                message
                for place, message in enumerate(batch.messages)
                if place not in gone
            ]
        batch.confirms = confirms
        return 0

    cdef int free(self, Batch batch) except -1:
        """A batch is handled: let its sender go on."""
        cdef int lane
        cdef uint64_t held
        if batch.aside:
            held = batch.aside
            batch.aside = 0
            self.handlers.paused.free(batch.endpoint.name, held)
        for lane in range(LANES):
            held = batch.held[lane]
            if held:
                batch.held[lane] = 0
                self.handlers.windows.release(lane, held)
        return 0

    # --- taking turns -----------------------------------------------------------

    cdef int done(self, Batch batch) except -1:
        """The handler of a batch has finished."""
        cdef Endpoint endpoint = batch.endpoint
        cdef BatchLine line = self.lines.get(endpoint)
        cdef Batches other
        try:
            self.free(batch)
            # There is no line if memory ran out when the handler had begun.
            if line is not None:
                line.running -= 1
                if line.running == 0:
                    self.go_on(endpoint, False)
        except Exception as error:
            # Other links wait for this end too.
            self.handlers.begin_failed(error)
        if endpoint.batches:
            while endpoint.turns and endpoint.running < endpoint.batches:
                other = endpoint.turns.popleft()
                other.waiting -= 1
                try:
                    other.go_on(endpoint, True)
                    if other.on_rest is not None:
                        other.on_rest()
                except Exception as error:
                    other.handlers.begin_failed(error)
        return 0

    cdef int go_on(self, Endpoint endpoint, bint admitted) except -1:
        """It is this link's turn again: begin what has waited for it.

        Args:
            admitted: there is a place at the endpoint, and it is ours.
        """
        cdef BatchLine line = self.lines.get(endpoint)
        cdef Batch batch
        while line is not None and line.running == 0:
            if not line.waiting and endpoint not in self.gathered:
                del self.lines[endpoint]
                return self.leave(endpoint)
            if endpoint.batches and not admitted and endpoint.batches_full():
                return self.enqueue(endpoint)
            admitted = False
            batch = line.waiting.popleft() if line.waiting else self.take(endpoint)
            self.begin(batch)
            # The handler may have ended the link.
            line = self.lines.get(endpoint)
        return 0

    cdef int enqueue(self, Endpoint endpoint) except -1:
        """Wait for a place at a full endpoint."""
        if self.waiting == 0 or self not in endpoint.turns:
            self.waiting += 1
            endpoint.turns.append(self)
        return 0

    cdef int leave(self, Endpoint endpoint) except -1:
        """Wait for no place at an endpoint any more."""
        if self.waiting > 0 and endpoint.batches and self in endpoint.turns:
            self.waiting -= 1
            endpoint.turns.remove(self)
        return 0

    cdef bint busy(self) noexcept:
        """Something is gathered, waits, or is under way."""
        return bool(self.gathered) or bool(self.lines)

    cdef int close(self) except -1:
        """Begin nothing more: what waits is given up."""
        cdef Endpoint endpoint
        cdef BatchLine line
        self.closed = True
        self.gathered = {}
        self.newest = None
        for endpoint, line in list(self.lines.items()):
            line.waiting.clear()
            self.leave(endpoint)
            if line.running == 0:
                del self.lines[endpoint]
        return 0
