from libc.stdint cimport uint64_t

from fastnode.dispatch.histogram cimport Histogram

cdef enum:
    # The time of one in so many plain handlers is taken: a bit mask.
    SAMPLE = 63


cdef class EndpointCounters:
    # Messages and calls whose handler has begun. Of them, how many were calls.
    cdef uint64_t begun
    cdef uint64_t calls
    # Batches whose handler has begun.
    cdef uint64_t batches
    # Handlers that raised; calls that were refused as busy; calls that came too late.
    cdef uint64_t errors
    cdef uint64_t refused
    cdef uint64_t expired
    cdef Histogram times


cdef class NodeCounters:
    # The endpoints that have no counters of their own.
    cdef readonly EndpointCounters others
    # From the connection to the link; from a call to its reply.
    cdef readonly Histogram handshakes
    cdef readonly Histogram calls
    # Calls and confirmed messages of this node that raised `CallTimeout`.
    cdef uint64_t timed_out
    # By code, `CodeCounts`: calls of this node that failed, and what this node replied
    # to calls that failed here.
    cdef readonly object call_errors
    cdef readonly object reply_errors
