from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from libc.stdint cimport uint16_t

from fastnode.dispatch.context cimport HandlerContext
from fastnode.dispatch.counters cimport EndpointCounters, NodeCounters
from fastnode.dispatch.lag cimport LoopLag


cdef class Endpoint:
    cdef readonly str name
    # None for a name that a peer used and nobody handles (yet).
    cdef readonly object handler
    # The handler is declared with `async def`.
    cdef readonly bint asynchronous
    # Messages are handled one by one, and the handler is declared with `async def` or
    # has returned an awaitable.
    cdef bint awaits
    # A message can begin whatever else runs: no bound, no batches, and not `awaits`.
    cdef bint plain
    # How many asynchronous handlers may be under way at once, over all links of the
    # node; 0: no bound. How many are; of them, how many wait for calls of their own.
    cdef readonly Py_ssize_t most
    cdef Py_ssize_t running
    cdef Py_ssize_t lent
    # How many deliveries wait here, over all links of the node, without those that were
    # cancelled; how many may, before calls are refused, or -1: no bound.
    cdef Py_ssize_t queued
    cdef readonly Py_ssize_t max_waiting
    # It is given lists of messages; how many of these may be under way at once, over
    # all links; 0: no bound.
    cdef readonly bint batch
    cdef Py_ssize_t batches
    # Nobody registered it: a peer made the name up.
    cdef readonly bint invented
    # It belongs to fastnode itself. Its calls are not refused while the loop is late.
    cdef readonly bint reserved
    # Deliveries of all links that wait for their turn, and calls of the peers' handlers,
    # whose turn may come sooner; None where there is no bound.
    cdef object waiting
    cdef object nested
    # What is counted of it; endpoints beyond a bound share their counters.
    cdef EndpointCounters counters
    # Of a batch endpoint: each `Batches` that has a batch for it and waits.
    cdef object turns

    cdef bint full(self, bint nested) noexcept
    cdef bint batches_full(self) noexcept


cdef class EndpointRegistry:
    cdef dict by_name
    # The name of the node, for log records.
    cdef readonly str node
    # For what its handlers raise: of all links together.
    cdef readonly object limited
    # In which all handlers of the node run.
    cdef readonly HandlerContext context
    cdef object fallback
    # The same as of an endpoint, for all of them together.
    cdef Py_ssize_t queued
    cdef readonly Py_ssize_t max_waiting
    # What the node counts beside the counters of its links.
    cdef readonly NodeCounters counters
    # How many endpoints have counters of their own.
    cdef Py_ssize_t counted_alone
    # Refuses calls while the loop is late; None: nothing does.
    cdef LoopLag lag
    # Grows with every registration: an Endpoint without handler that was looked up
    # under an older generation is looked up again.
    cdef readonly unsigned long generation

    cdef EndpointCounters new_counters(self, str name)
    cdef Endpoint find(self, str name)


cdef class EndpointNumbers:
    cdef EndpointRegistry registry
    # Number -> Endpoint, by lane, and that of the data lane.
    cdef list books
    cdef list book
    # Of the registry, when the names were looked up.
    cdef unsigned long generation

    cdef int define(self, int lane, uint16_t number, bytes name) except -1
    cdef Endpoint find(self, int lane, uint16_t number)
    cdef int look_again(self) except -1


cdef inline Endpoint data_endpoint(EndpointNumbers numbers, uint16_t number):
    """Return what `find` returns for the data lane, faster for a number that is known.
    """
    if number < PyList_GET_SIZE(numbers.book) and (
        numbers.generation == numbers.registry.generation
    ):
        return <Endpoint>PyList_GET_ITEM(numbers.book, number)
    return numbers.find(0, number)
