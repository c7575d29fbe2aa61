from libc.stdint cimport uint32_t

from fastnode.dispatch.batches cimport Batches
from fastnode.dispatch.endpoint cimport Endpoint
from fastnode.dispatch.handler cimport Delivery, Handlers
from fastnode.dispatch.paused cimport PausedEndpoint, PausedEndpoints
from fastnode.dispatch.windows cimport Windows
from fastnode.sending.outbox cimport Outbox
from fastnode.wire.extension cimport Extension


cdef class DeliveryQueue:
    cdef Handlers handlers
    cdef Batches batches
    cdef Windows windows
    cdef Outbox outbox
    cdef PausedEndpoints paused

    # A deque of the deliveries that the link holds; None if it holds nothing back.
    cdef object held
    # Everything is held until `release`.
    cdef bint holding
    # Deliveries that wait for handlers of their lane: one deque for all lanes that
    # share an order. Their number, with those in the lines of `paused`.
    cdef list lanes
    cdef Py_ssize_t in_lanes
    # The number of deliveries that wait at full endpoints. Those of them whose turn
    # came while the peer did not read its replies: Endpoint -> deque.
    cdef Py_ssize_t at_endpoints
    cdef dict stalled

    # Whether `pump` is scheduled; whether the link has ended.
    cdef bint scheduled
    cdef bint closed
    # Is called when a delivery has to wait for its lane; may be None.
    cdef object on_full
    # Are called when the position of `mark` is reached, and when a waiting delivery has
    # begun.
    cdef object on_mark
    cdef object on_rest

    cdef int accept(
        self,
        Endpoint endpoint,
        bytes payload,
        int lane,
        uint32_t call,
        int flags,
        Extension extension,
    ) except -1
    cdef int place(
        self,
        Endpoint endpoint,
        bytes payload,
        int lane,
        uint32_t call,
        int flags,
        Extension extension,
        Delivery delivery,
    ) except -1
    cdef int place_paused(
        self,
        PausedEndpoint record,
        Endpoint endpoint,
        bytes payload,
        int lane,
        uint32_t call,
        int flags,
        Extension extension,
        Delivery delivery,
    ) except -1
    cdef int begin(
        self,
        Endpoint endpoint,
        bytes payload,
        int lane,
        uint32_t call,
        int flags,
        Extension extension,
    ) except -1
    cdef int start(self, Delivery delivery) except -1
    cdef int hold_back(self, Delivery delivery) except -1
    cdef int wait_for_lane(self, Delivery delivery) except -1
    cdef int wait_at_endpoint(self, Delivery delivery) except -1
    cdef int wait_in_line(self, Delivery delivery, PausedEndpoint record) except -1
    cdef int count_in(self, Delivery delivery) except -1
    cdef int count_out(self, Delivery delivery) except -1
    cdef str refusal(self, Delivery delivery)
    cdef int refuse(self, Delivery delivery, str text) except -1
    cdef bint has_room(self, int lane) noexcept
    cdef int run_paused(self) except -1
    cdef int forget_waiting(self, Delivery delivery) except -1
    cdef bint blocked(self, Endpoint endpoint, int flags) except? True
    cdef bint stalls(self, Delivery delivery) except? True
    cdef int wait_for_room(self) except -1
    cdef int run(self) except -1
    cdef int run_held(self) except -1
    cdef int run_lanes(self) except -1
    cdef int run_endpoint(self, Endpoint endpoint) except -1
    cdef int run_stalled(self) except -1
    cdef int hold_deliveries(self) except -1
    cdef int release(self) except -1
    cdef bint mark(self) except? True
    cdef bint waits(self) noexcept
    cdef int close(self) except -1
