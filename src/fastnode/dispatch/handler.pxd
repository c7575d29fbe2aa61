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
    # What a message that waits or runs costs besides its payload: task, message,
    # bookkeeping. Bytes.
    TASK_BYTES = 1024

cdef enum:
    # Flags of a delivery: a message whose sender wants to know that its handler was
    # given it; sent by a handler that waits for the answer.
    CONFIRMED = 1
    NESTED = 2

cdef enum State:
    # The link holds it, because of another link or because replies are not read.
    HELD = 0
    # It waits for handlers of its lane, or at its endpoint.
    QUEUED = 1
    # Its asynchronous handler is under way.
    RUNNING = 2
    # Handled, cancelled or given up.
    DONE = 3


cdef class Delivery:
    # What came: for which endpoint, and through which link. None when it is done.
    cdef Endpoint endpoint
    cdef Handlers handlers
    # The number of the call or confirmed message that is to be answered; 0: none.
    cdef uint32_t call
    cdef bytes payload
    # What it holds of the peer's window in its lane, bytes.
    cdef size_t size
    cdef int lane
    cdef int flags
    cdef State state
    # While it waits: the `DeliveryQueue` of its link. In a batch: its place there.
    cdef object queue
    cdef Py_ssize_t place

    # While its handler runs: what the handler returned, and the messages that it was
    # given where they are more than one.
    cdef object coroutine
    cdef Batch batch
    # When its handler began, see `seconds_now`.
    cdef double began
    # Calls of its own that the handler waits for; whether `size` is not counted.
    cdef Py_ssize_t calls
    cdef bint excused
    # It was set aside: `PausedEndpoints` counts it, and not the window.
    cdef bint aside

    # What its extension block said; None: it had none. While its handler runs: the
    # message that the handler was given, and the deadline of calls that it makes (loop
    # time; 0: none).
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
    # Handlers under way: how many, and Delivery -> task.
    cdef Py_ssize_t running
    cdef dict tasks
    # What is to be answered, by the number of the call, in every state but DONE.
    cdef dict calls
    # The message that a handler was given and did not keep, to be used again; whether
    # a handler has it now.
    cdef Message spare
    cdef bint spare_given

    # Called soon after the end of a handler that others wait for, with its Delivery;
    # called soon after a handler lent its place, with its Endpoint.
    cdef object on_end
    cdef object on_lent
    # Whether each end is to be told.
    cdef bint tell_ends
    # Called with the exception when something that had waited could not be begun.
    cdef object on_error

    # Tells the peer of one-way messages that were dropped, a `Drops`; None if the peer
    # does not take that.
    cdef object drops

    # The endpoints that the peer must not send to now.
    cdef PausedEndpoints paused
    # Calls and confirmed messages that were refused, because too much waits here.
    cdef uint64_t refused

    # The queue of the link holds something: what comes has to wait.
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
    """What a delivery counts as when it was set aside."""
    return delivery.size - TASK_BYTES + ASIDE_BYTES


cdef Delivery current()
