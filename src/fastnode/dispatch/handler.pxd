from cpython.object cimport PyObject
from libc.stdint cimport uint32_t, uint64_t

from fastnode.buffers.spares cimport Spares
from fastnode.dispatch.batch cimport Batch
from fastnode.dispatch.endpoint cimport Endpoint, EndpointNumbers, EndpointRegistry
from fastnode.dispatch.message cimport Message
from fastnode.dispatch.paused cimport ASIDE_BYTES, PausedEndpoints
from fastnode.dispatch.stopwatch cimport Stopwatch
from fastnode.dispatch.windows cimport Windows
from fastnode.sending.outbox cimport Outbox
from fastnode.wire.decoder cimport Decoder
from fastnode.wire.extension cimport Extension

cdef enum:
    # Bytes that a waiting or running message needs besides its payload: for the task,
    # the message and the bookkeeping.
    TASK_BYTES = 1024

cdef enum:
    # Flags of a delivery. The sender wants a confirmation that the handler got the
    # message. The sender is a handler that waits for the answer.
    CONFIRMED = 1
    NESTED = 2

cdef enum State:
    # The link holds it, because of an older link or because the peer reads no replies.
    HELD = 0
    # It waits for handlers of its lane, or in the line of its endpoint.
    QUEUED = 1
    # Its asynchronous handler is under way.
    RUNNING = 2
    # It was handled, cancelled or dropped.
    DONE = 3


cdef class Delivery:
    # The endpoint, and the handlers of the link. None when the delivery is done.
    cdef Endpoint endpoint
    cdef Handlers handlers
    # The number of the call or confirmed message that needs an answer; 0 if none does.
    cdef uint32_t call
    cdef bytes payload
    # Bytes that it holds of the peer's window in its lane.
    cdef size_t size
    cdef int lane
    cdef int flags
    cdef State state
    # While it waits: the `DeliveryQueue` of its link. In a batch: its index.
    cdef object queue
    cdef Py_ssize_t place

    # While its handler runs: the awaitable that the handler returned, and the messages
    # of a batch.
    cdef object coroutine
    cdef Batch batch
    # When its handler began, in seconds as of `seconds_now`.
    cdef double began
    # Number of own calls that the handler waits for; whether `size` is not counted.
    cdef Py_ssize_t calls
    cdef bint excused
    # It was set aside: `PausedEndpoints` counts it, and not the window.
    cdef bint aside

    # Its extension block; None if it had none. While its handler runs: the message that
    # the handler got, and the deadline of the handler's own calls in loop time, or 0.
    cdef Extension extension
    cdef Message message
    cdef double deadline

    cdef PyObject *step(self, object value) except? NULL
    cdef int raised(self) except -1
    cdef int ended(self, object result, object error) except -1
    cdef int wait(self) except -1
    cdef int go_on(self) except -1


cdef class Handlers:
    cdef object loop
    cdef Outbox outbox
    cdef Spares spares
    cdef EndpointRegistry registry
    cdef Windows windows
    # Times handlers.
    cdef Stopwatch watch
    cdef object peer
    # The number of running handlers, and their tasks: Delivery -> task.
    cdef Py_ssize_t running
    cdef dict tasks
    # Deliveries that need an answer, by the number of the call, in every state but
    # DONE.
    cdef dict calls
    # A message object that no handler has kept, for reuse; whether a handler has it
    # now.
    cdef Message spare
    cdef bint spare_given

    # Is called soon after the end of a handler that others wait for; is called with an
    # Endpoint soon after a handler lent its place there.
    cdef object on_end
    cdef object on_lent
    # Whether `on_end` is called for every handler.
    cdef bint tell_ends
    # Is called with the exception when a waiting delivery could not begin.
    cdef object on_error

    # A `Drops`, which reports dropped one-way messages to the peer; None if the peer
    # does not understand DROPPED.
    cdef object drops

    # The endpoints to which the peer must not send now.
    cdef PausedEndpoints paused
    # Calls and confirmed messages that were refused, because too much waits here.
    cdef uint64_t refused

    # Whether the queue of the link holds something, so that new frames have to wait.
    cdef bint held

    cdef uint64_t messages_received
    cdef uint64_t unhandled
    cdef uint64_t errors
    # Calls and confirmed messages whose time was over before their handler began.
    cdef uint64_t expired

    cdef int begin(
        self,
        Endpoint endpoint,
        bytes payload,
        int lane,
        uint32_t call,
        int flags,
        Extension extension,
    ) except -1
    cdef int run(
        self,
        Endpoint endpoint,
        bytes payload,
        int lane,
        uint32_t call,
        int flags,
        Extension extension,
    ) except -1
    cdef bint is_over(self, Extension extension) except? True
    cdef int refuse_late(self, Endpoint endpoint, uint32_t call) except -1
    cdef bytes begin_plain(self, Decoder decoder, EndpointNumbers numbers)
    cdef int begin_batch(self, Endpoint endpoint, Batch batch) except -1
    cdef int returned(
        self,
        Endpoint endpoint,
        object result,
        bytes payload,
        int lane,
        uint32_t call,
        int flags,
        Batch batch,
        Message message,
        Extension extension,
    ) except -1
    cdef int raised(
        self, Endpoint endpoint, uint32_t call, Batch batch
    ) except -1
    cdef int failed(
        self, Endpoint endpoint, uint32_t call, Batch batch, object error
    ) except -1
    cdef int confirm(self, Batch batch) except -1
    cdef int nobody(self, Endpoint endpoint, uint32_t call, int flags) except -1
    cdef int start(self, object awaitable, Delivery delivery) except -1
    cdef int handler_ended(self, Delivery delivery, object result, object error) except -1
    cdef int answer(
        self, Endpoint endpoint, uint32_t call, object result, object error
    ) except -1
    cdef int finish(self, Delivery delivery) except -1
    cdef int refuse_busy(self, Endpoint endpoint, uint32_t call, str text) except -1
    cdef bint cancel(self, uint32_t call, bint late) except? True
    cdef int close(self) except -1
    cdef int begin_failed(self, object error) except -1
    cdef dict log_fields(self, str event, str endpoint)
    cdef int log_error(self, Endpoint endpoint, object error) except -1


cdef Delivery new_delivery(
    Handlers handlers,
    Endpoint endpoint,
    bytes payload,
    int lane,
    uint32_t call,
    int flags,
    Extension extension,
)


cdef inline size_t aside_size(Delivery delivery) noexcept:
    """Return the bytes that a delivery counts when it is set aside."""
    return delivery.size - TASK_BYTES + ASIDE_BYTES


cdef Delivery current()
