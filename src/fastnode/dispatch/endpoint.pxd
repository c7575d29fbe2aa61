from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from libc.stdint cimport uint16_t

from fastnode.dispatch.context cimport HandlerContext
from fastnode.dispatch.counters cimport EndpointCounters, NodeCounters
from fastnode.dispatch.lag cimport LoopLag


cdef class Endpoint:
    cdef readonly str name
    # None for a name that a peer used and that has no handler (yet).
    cdef readonly object handler
    # The handler is declared with `async def`.
    cdef readonly bint asynchronous
    # Messages are handled one by one, and the handler is declared with `async def` or
    # has returned an awaitable.
    cdef bint awaits
    # A message can always begin: the endpoint has no bound, no batches, and not
    # `awaits`.
    cdef bint plain
    # For all links of the node together: how many asynchronous handlers may run at once
    # (0: no bound); how many run; how many of these wait for calls of their own.
    cdef readonly Py_ssize_t most
    cdef Py_ssize_t running
    cdef Py_ssize_t lent
    # For all links of the node together: how many deliveries wait here, without
    # cancelled ones; how many may wait before calls are refused (-1: no bound).
    cdef Py_ssize_t queued
    cdef readonly Py_ssize_t max_waiting
    # The handler gets lists of messages. How many batches may run at once, for all
    # links together; 0: no bound.
    cdef readonly bint batch
    cdef Py_ssize_t batches
    # The endpoint is not registered: a peer made up the name.
    cdef readonly bint invented
    # The endpoint belongs to fastnode. Its calls are not refused while the loop is
    # late.
    cdef readonly bint reserved
    # The waiting deliveries of all links; and the waiting calls of peers' handlers,
    # whose turn may come sooner. None if there is no bound.
    cdef object waiting
    cdef object nested
    # The counters of the endpoint. Endpoints beyond a bound share their counters.
    cdef EndpointCounters counters
    # For a batch endpoint: each `Batches` that waits with a batch.
    cdef object turns

    cdef bint full(self, bint nested) noexcept
    cdef bint batches_full(self) noexcept


cdef class EndpointRegistry:
    cdef dict by_name
    # The name of the node, for log records.
    cdef readonly str node
    # Limits the log lines about exceptions of handlers, for all links together.
    cdef readonly object limited
    # The context in which all handlers of the node run.
    cdef readonly HandlerContext context
    cdef object fallback
    # The same as in `Endpoint`, for all endpoints together.
    cdef Py_ssize_t queued
    cdef readonly Py_ssize_t max_waiting
    # What the node counts beside the counters of its links.
    cdef readonly NodeCounters counters
    # How many endpoints have counters of their own.
    cdef Py_ssize_t counted_alone
    # Refuses calls while the loop is late; None if calls are not refused for that.
    cdef LoopLag lag
    # Grows with every registration. An Endpoint without handler that was found in an
    # older generation is looked up again.
    cdef readonly unsigned long generation

    cdef EndpointCounters new_counters(self, str name)
    cdef Endpoint find(self, str name)


cdef class EndpointNumbers:
    cdef EndpointRegistry registry
    # Number -> Endpoint for each lane; and the one of the data lane.
    cdef list books
    cdef list book
    # The generation of the registry when the names were looked up.
    cdef unsigned long generation

    cdef int define(self, int lane, uint16_t number, bytes name) except -1
    cdef Endpoint find(self, int lane, uint16_t number)
    cdef int look_again(self) except -1


cdef inline Endpoint data_endpoint(EndpointNumbers numbers, uint16_t number):
    """Return the result of `find` for the data lane. A known number is found faster."""
    if number < PyList_GET_SIZE(numbers.book) and (
        numbers.generation == numbers.registry.generation
    ):
        return <Endpoint>PyList_GET_ITEM(numbers.book, number)
    return numbers.find(0, number)
