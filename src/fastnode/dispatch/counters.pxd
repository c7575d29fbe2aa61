from libc.stdint cimport uint64_t

from fastnode.dispatch.histogram cimport Histogram

cdef enum:
    # A bit mask: one plain handler in SAMPLE + 1 is timed.
    SAMPLE = 63


cdef class EndpointCounters:
    # Messages and calls whose handler has begun. Of them, how many were calls.
    cdef uint64_t begun
    cdef uint64_t calls
    # Batches whose handler has begun.
    cdef uint64_t batches
    # Handlers that raised; calls that were refused as busy; calls whose deadline was
    # over.
    cdef uint64_t errors
    cdef uint64_t refused
    cdef uint64_t expired
    cdef Histogram times


cdef class NodeCounters:
    # The endpoints that have no counters of their own.
    cdef readonly EndpointCounters others
    # Times from the connection to the link, and from a call to its reply.
    cdef readonly Histogram handshakes
    cdef readonly Histogram calls
    # Calls and confirmed messages of this node that raised `CallTimeout`.
    cdef uint64_t timed_out
    # `CodeCounts` by code: calls of this node that failed, and the errors that this
    # node sent as answers to calls.
    cdef readonly object call_errors
    cdef readonly object reply_errors
