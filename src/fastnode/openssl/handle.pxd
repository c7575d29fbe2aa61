cdef class Handle:
    # The `ssl.SSLObject`, and the object in it that owns the SSL.
    cdef readonly object ssl
    cdef object owner
    cdef void *pointer
