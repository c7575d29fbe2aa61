cdef class Handle:
    # The `ssl.SSLObject` or `ssl.SSLSocket`, and the object in it that owns the SSL.
    cdef readonly object ssl
    cdef object owner
    cdef void *pointer
