"""The endpoint dictionary of one lane on the sending side."""

cimport cython
from libc.stdint cimport uint16_t

from fastnode.limits import ENDPOINT_DICTIONARY_SIZE


@cython.final
cdef class Book:
    """Gives the names of endpoints their numbers."""

    def __init__(self):
        self.size = ENDPOINT_DICTIONARY_SIZE

    cdef int find(self, str name) except -2:
        """Return the number of a name, or -1."""
        cdef object known
        if name is self.last_name:
            return self.last_number
        known = None if self.numbers is None else self.numbers.get(name)
        if known is None:
            return -1
        self.last_name = name
        self.last_number = <uint16_t>known
        return self.last_number

    cdef str replaced(self):
        """Return the name that loses its number to the next new name, or None."""
        if self.names is None or self.next >= len(self.names):
            return None
        return self.names[self.next]

    cdef int add(self, str name) except -1:
        """Give a new name the number `next`, and return it.

        When the dictionary is full, the name gets the oldest number. Both sides handle
        a lane in order, so they agree at every frame. If memory runs out, nothing
        changes.
        """
        cdef Py_ssize_t number = self.next
        cdef dict numbers = self.numbers
        cdef list names = self.names
        if numbers is None:
            numbers, names = {}, []
            self.numbers, self.names = numbers, names
        numbers[name] = number
        if number < len(names):
            del numbers[names[number]]
            names[number] = name
        else:
            try:
                names.append(name)
            except BaseException:
                del numbers[name]
                raise
        self.next = number + 1 if number + 1 < self.size else 0
        self.last_name = name
        self.last_number = <uint16_t>number
        return <int>number
