cdef class Endpoint:
    cdef readonly str name
    # None for a name that a peer used and nobody handles (yet).
    cdef readonly object handler
    # The handler is declared with `async def`.
    cdef readonly bint asynchronous


cdef class EndpointRegistry:
    cdef dict by_name
    cdef object fallback
    # Grows with every registration: an Endpoint without handler that was looked up
    # under an older generation is looked up again.
    cdef readonly unsigned long generation

    cdef Endpoint find(self, str name)
