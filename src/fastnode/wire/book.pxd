from libc.stdint cimport uint16_t


cdef class Book:
    # name -> number < size; the names by number; both None as long as there is none.
    # The number that is given next.
    cdef dict numbers
    cdef list names
    cdef Py_ssize_t size
    cdef Py_ssize_t next
    # The last name used, compared by identity before the dictionary is asked.
    cdef str last_name
    cdef uint16_t last_number

    cdef int find(self, str name) except -2
    cdef str replaced(self)
    cdef int add(self, str name) except -1
