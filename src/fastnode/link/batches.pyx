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

from cpython.bytes cimport PyBytes_GET_SIZE
from libc.stdint cimport uint32_t, uint64_t

from fastnode.link.batch cimport MESSAGE_BYTES, Batch, BatchLine
from fastnode.link.endpoint cimport Endpoint, EndpointRegistry
from fastnode.link.handling cimport Handling
from fastnode.link.message cimport Message, make_message
from fastnode.link.numbers cimport EndpointNumbers
from fastnode.link.outbox cimport Outbox
from fastnode.link.stopwatch cimport Stopwatch
from fastnode.link.tasks cimport TASK_BYTES, HandlerTasks
from fastnode.link.windows cimport Windows
from fastnode.wire.frame cimport DATA_LANE, LANES

from inspect import isawaitable


cdef class Batches(HandlerTasks):
    """The batches of one link."""

    def __init__(
        self,
        loop,
        Outbox outbox not None,
        EndpointRegistry registry not None,
        Windows windows not None,
        Stopwatch watch not None,
    ):
        HandlerTasks.__init__(self, loop, outbox, registry, windows)
        self.numbers = EndpointNumbers(registry)
        self.watch = watch
        self.gathered = {}
        self.lines = {}

    # --- gathering --------------------------------------------------------------

    cdef int gather(
        self, Endpoint endpoint, bytes payload, int lane, uint32_t call
    ) except -1:
        """Add a message; `call` is 0 or what to confirm."""
        cdef Batch batch = self.newest
        cdef Message message = make_message(payload, self.peer, endpoint.name)
        cdef size_t size = PyBytes_GET_SIZE(payload)
        if batch is None or batch.endpoint is not endpoint:
            batch = self.gathered.get(endpoint)
            if batch is None:
                batch = self.gathered[endpoint] = Batch(endpoint)
            self.newest = batch
        batch.messages.append(message)
        batch.size += size
        batch.held[lane] += <uint64_t>size + MESSAGE_BYTES
        self.windows.held[lane] += <uint64_t>size + MESSAGE_BYTES
        if call:
            # A cancellation takes it out again.
            self.calls[call] = None
            if batch.confirms is None:
                batch.confirms = []
            batch.confirms.append((call, message))
        if batch.full():
            return self.hand(self.take(endpoint))
        return 0

    cdef int gather_nested(
        self, Endpoint endpoint, bytes payload, int lane, uint32_t call
    ) except -1:
        """Add a message whose sender's handler waits for us: all begins at once."""
        cdef BatchLine line
        cdef Batch batch
        self.gather(endpoint, payload, lane, call)
        line = self.lines.get(endpoint)
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
        """Call the handler."""
        cdef Endpoint endpoint = batch.endpoint
        cdef list messages
        cdef BatchLine line = None
        cdef Handling handling
        cdef object result
        cdef double began
        if batch.confirms is not None:
            batch.drop_cancelled(self.calls)
        messages = batch.messages
        # They are the handler's now, and live no longer than it wants.
        batch.messages = None
        if not messages:
            return self.free(batch)
        began = self.watch.now()
        try:
            result = endpoint.handler(messages)
            messages = None
            if result is not None and (endpoint.asynchronous or isawaitable(result)):
                handling = self.start(
                    result, None, endpoint, TASK_BYTES, DATA_LANE
                )
                handling.batch = batch
                line = self.lines.get(endpoint)
                if line is None:
                    line = self.lines[endpoint] = BatchLine()
                line.running += 1
        except BaseException as error:
            self.handler_failed(endpoint, error)
            if batch.confirms is not None:
                for call, _ in batch.confirms:
                    self.refuse_for(call, error)
            return self.free(batch)
        finally:
            self.watch.tell(endpoint.name, began)
        if batch.confirms is not None:
            for call, _ in batch.confirms:
                self.outbox.reply(call, b"")
            batch.confirms = None
        return 0 if line is not None else self.free(batch)

    cdef int free(self, Batch batch) except -1:
        """A batch is handled: let its sender go on."""
        cdef int lane
        cdef uint64_t held
        for lane in range(LANES):
            held = batch.held[lane]
            if held:
                batch.held[lane] = 0
                self.windows.release(lane, held)
        return 0

    # --- taking turns -----------------------------------------------------------

    cdef int batch_done(self, object done) except -1:
        cdef Batch batch = done
        cdef Endpoint endpoint = batch.endpoint
        cdef BatchLine line = self.lines[endpoint]
        cdef Batches other
        self.free(batch)
        line.running -= 1
        if line.running == 0:
            self.go_on(endpoint, False)
        if endpoint.batches:
            while endpoint.waiting and endpoint.running < endpoint.batches:
                other = endpoint.waiting.popleft()
                other.waiting -= 1
                other.go_on(endpoint, True)
                other.rest()
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
                if not self.lines and self.on_settled is not None:
                    self.on_settled()
                break
            if endpoint.batches and not admitted and endpoint.batches_full():
                return self.enqueue(endpoint)
            admitted = False
            batch = line.waiting.popleft() if line.waiting else self.take(endpoint)
            self.begin(batch)
        return 0

    cdef int enqueue(self, Endpoint endpoint) except -1:
        self.waiting += 1
        endpoint.waiting.append(self)
        return 0

    def stop(self):
        self.drop()
        return HandlerTasks.stop(self)

    cdef int drop(self) except -1:
        """Begin nothing more: what waits is given up."""
        cdef Endpoint endpoint
        cdef BatchLine line
        self.closed = True
        self.gathered = {}
        self.newest = None
        for endpoint, line in self.lines.items():
            line.waiting.clear()
            if endpoint.batches and self in endpoint.waiting:
                endpoint.waiting.remove(self)
                self.waiting -= 1
        return 0
