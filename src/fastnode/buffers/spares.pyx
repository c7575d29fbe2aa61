"""Large payloads that nobody needs any more: memory for the next ones, or given back.

The C library maps an object of 32 MiB and more for itself. Its pages come one by one
while it is filled, which takes as long as to receive it, and go in one call when it is
freed: 2.4 ms for 64 MiB, in which the loop stands still. So the newest such payload
is kept for the next one, and what is not used again is given back in pieces.

Rules for whoever edits this: an object is resized only where the one reference to it is
ours. What is in it is not erased, as that of new memory is not: whoever takes it fills
all of it before anybody sees it.
"""

cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF

from fastnode.limits import MAX_SPARES, SPARE_LEAST_BYTES, SPARE_PIECE_BYTES

cdef extern from *:
    """
    #ifdef Py_GIL_DISABLED
    /* Other threads may have references that are not counted yet. */
    #define fastnode_alone(object) 0
    #else
    #define fastnode_alone(object) (Py_REFCNT(object) == 1)
    #endif
    """
    bint alone "fastnode_alone" (PyObject *object) noexcept
    int resize_bytes "_PyBytes_Resize" (PyObject **bytes, Py_ssize_t size) except -1

cdef Py_ssize_t MOST = MAX_SPARES
cdef size_t PIECE = SPARE_PIECE_BYTES


@cython.final
cdef class Spares:
    """The large payloads of a node that wait for their next use or their end.

    Not thread-safe: it belongs to one node and so to one loop.

    Args:
        least: smaller payloads are left alone, bytes.

    Attributes:
        on_kept: called when a payload was kept, to have `age` and `give_back` called.
            None, the default: none is kept.
    """

    def __init__(self, size_t least=SPARE_LEAST_BYTES):
        self.least = least
        self.payloads = []

    # --- the view from Python ---------------------------------------------------

    def __len__(self):
        return len(self.payloads)

    @property
    def held(self):
        """Bytes of all payloads that are kept."""
        return sum(len(payload) for payload in self.payloads)

    def take(self, size_t size):
        """A payload of `size` bytes, for tests: what is in it is arbitrary."""
        return self.get(size)

    def release(self, list payloads not None):
        """Keep the last one of a list, which leaves it, if it is large and nobody else
        refers to it: for tests."""
        cdef bytes payload = payloads.pop()
        self.put(payload)

    @property
    def due(self):
        """Whether there is something for `give_back`."""
        return len(self.payloads) > (0 if self.expired else 1)

    def give_back(self):
        """Give back a piece of what is due."""
        cdef bytes payload
        cdef size_t size
        if not self.due:
            return
        size = len(self.payloads[0])
        if size <= PIECE:
            self.payloads.pop(0)
            return
        payload = self.resize(0, size - PIECE)
        if payload is not None:
            self.payloads.insert(0, payload)

    def age(self):
        """Some time has passed: what was not used in it is due."""
        self.expired = not self.used
        self.used = False

    def clear(self):
        """Give everything back at once, and keep nothing from now on."""
        self.on_kept = None
        self.payloads.clear()

    # --- the view from Cython ---------------------------------------------------

    cdef bytes get(self, size_t size):
        """`bytes` of a size that was compared with its limit: the caller fills all."""
        cdef bytes payload = None
        if size >= self.least and self.payloads:
            self.used = True
            self.expired = False
            payload = self.resize(len(self.payloads) - 1, size)
        if payload is None:
            payload = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>size)
        return payload

    cdef int put(self, bytes payload) except -1:
        """Keep a payload if it is large and its caller's reference is the only one.

        To keep one is worth nothing where memory has run out, so this does not fail
        for that reason.
        """
        if (
            <size_t>PyBytes_GET_SIZE(payload) < self.least
            or self.on_kept is None
            or not alone(<PyObject *>payload)
        ):
            return 0
        try:
            self.payloads.append(payload)
            if len(self.payloads) > MOST:
                self.payloads.pop(0)
            self.used = True
            self.expired = False
            self.on_kept()
        except MemoryError:
            self.payloads.clear()
        return 0

    cdef bytes resize(self, Py_ssize_t at, size_t size):
        """Take one out, with another size; None if somebody refers to it after all."""
        cdef bytes payload = self.payloads.pop(at)
        cdef PyObject *owned = <PyObject *>payload
        if not alone(owned):
            return None
        Py_INCREF(payload)
        payload = None
        # The hash that it remembers is forgotten only where the size changes.
        resize_bytes(&owned, <Py_ssize_t>size - 1)
        resize_bytes(&owned, <Py_ssize_t>size)
        payload = <bytes>owned
        Py_DECREF(payload)
        return payload
