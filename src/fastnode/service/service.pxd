from libc.stdint cimport uint64_t

from fastnode.service.balancer cimport Balancer, Candidate


cdef class Service:
    cdef readonly str name
    cdef readonly object members
    cdef readonly object retry
    cdef object budget
    cdef Balancer balancer

    # The instances that take calls, and until when the list holds, seconds.
    cdef list ready
    cdef bint stale
    cdef double fresh_until
    # When an instance was chosen last, seconds.
    cdef double now
    # Every instance in the list stops or is ejected: there is no better one.
    cdef bint last_choice
    # Every target of the first answer was tried.
    cdef bint settled
    cdef readonly bint closed

    # Totals, see `ServiceStats`.
    cdef uint64_t calls
    cdef uint64_t messages
    cdef public uint64_t failures
    cdef public uint64_t retries
    cdef public uint64_t hedges
    cdef public uint64_t budget_exhausted
    cdef object __weakref__

    cdef Candidate pick(self, bytes key)
    cdef int refresh(self, double now) except -1
