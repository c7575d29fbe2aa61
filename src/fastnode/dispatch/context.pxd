cdef class HandlerContext:
    cdef object context
    # Whether code of the node runs in the context at this moment.
    cdef bint entered

    cdef bint enter(self) except? True
    cdef int leave(self) except -1
