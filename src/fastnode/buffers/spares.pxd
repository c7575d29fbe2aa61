cdef class Spares:
    # Payloads to whom nobody else refers, the newest last.
    cdef list payloads
    # Payloads below it are left alone, bytes.
    cdef readonly size_t least
    # Called without arguments when a payload was kept; None: none are.
    cdef public object on_kept
    # Whether one was kept or taken since `age` was called, and whether none was
    # between its last two calls.
    cdef bint used
    cdef bint expired

    cdef bytes get(self, size_t size)
    cdef int put(self, bytes payload) except -1
    cdef bytes resize(self, Py_ssize_t at, size_t size)
