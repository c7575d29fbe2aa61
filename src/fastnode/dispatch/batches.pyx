"""Batch endpoints: handlers that get lists of messages.

Messages that arrive together go to the handler together. A batch ends when it is full,
when all bytes that the socket had are read, or before a frame that must not overtake
the batch. A batch never waits for later messages.

An asynchronous handler runs one batch of a link at a time. The next batch begins when
the previous one has finished. Messages that arrive meanwhile are gathered, and count
against the peer's window. There is one exception: a confirmed message from a handler of
the peer begins at once, with all messages before it. The running batch may wait for
that handler.
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
        """Add a message. `call` is the number to confirm, or 0."""
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
            # A cancellation has to find the message and take it out again.
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
        """Begin all waiting and gathered messages, because a peer's handler waits."""
        cdef BatchLine line = self.lines.get(endpoint)
        cdef Batch batch
        while line is not None and line.waiting and not self.closed:
            self.begin(line.waiting.popleft())
        batch = self.take(endpoint)
        return 0 if batch is None else self.begin(batch)

    cdef Batch take(self, Endpoint endpoint):
        """Remove and return the batch that is gathered for an endpoint, or None."""
        cdef Batch batch = self.gathered.pop(endpoint, None)
        if batch is self.newest:
            self.newest = None
        return batch

    # --- handing over -------------------------------------------------------------

    cdef int hand_over(self) except -1:
        """Hand over all gathered batches, except those that have to wait."""
        cdef Endpoint endpoint
        cdef Batch batch
        if not self.gathered:
            return 0
        for endpoint in list(self.gathered):
            if endpoint in self.lines:
                continue
            # A handler that ran before may have removed this batch.
            batch = self.take(endpoint)
            if batch is not None:
                self.hand(batch)
        return 0

    cdef int hand(self, Batch batch) except -1:
        """Begin a complete batch, or let it wait for its turn."""
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
                # The time of a handler that runs in a task is recorded at its end.
                counters.times.record(seconds_now() - exactly)
            self.free(batch)
        return self.handlers.watch.tell(endpoint.name, began)

    cdef int drop_cancelled(self, Batch batch) except -1:
        """Drop messages that were cancelled or whose deadline is over.

        The other messages cannot be cancelled any more.
        """
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
        """Release what a handled batch holds, so that its sender can send more."""
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
        """Note that the handler of a batch has finished."""
        cdef Endpoint endpoint = batch.endpoint
        cdef BatchLine line = self.lines.get(endpoint)
        cdef Batches other
        try:
            self.free(batch)
            # The line is missing if memory ran out after the handler had begun.
            if line is not None:
                line.running -= 1
                if line.running == 0:
                    self.go_on(endpoint, False)
        except Exception as error:
            # Other links wait for the end of this batch too, so they still have to be
            # told.
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
        """Begin the batch that has waited, because the turn of this link has come.

        Args:
            endpoint: the endpoint of the batch.
            admitted: whether a place at the endpoint is reserved for this link.
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
        """Stop waiting for a place at an endpoint."""
        if self.waiting > 0 and endpoint.batches and self in endpoint.turns:
            self.waiting -= 1
            endpoint.turns.remove(self)
        return 0

    cdef bint busy(self) noexcept:
        """Return whether a batch is gathered, waits, or runs."""
        return bool(self.gathered) or bool(self.lines)

    cdef int close(self) except -1:
        """Drop everything that waits, and begin nothing more."""
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
