cdef class HandlerContext:
    cdef object context
    # Code of the node runs in it at this moment.
    cdef bint entered

    cdef bint enter(self) except? True
    cdef int leave(self) except -1
