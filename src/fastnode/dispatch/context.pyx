"""The `contextvars` context in which a node runs code of its user.

Callbacks of an event loop run in a copy of the context in which they were registered.
For a link that is the context of whoever happened to dial first: one request of a web
server, for example, whose user must not become the user of all later messages. So a
node has one context of its own, and every receive callback and every other place that
begins handlers enters that context first. Each asynchronous handler has a copy of it.
"""

cimport cython
from cpython.contextvars cimport (
    PyContext_Copy,
    PyContext_Enter,
    PyContext_Exit,
)

from contextvars import copy_context


@cython.final
cdef class HandlerContext:
    """One context, which is entered at most once at a time."""

    def __init__(self):
        self.context = copy_context()

    def renew(self):
        """Take the context of the caller: the node is started here."""
        self.context = copy_context()

    def run(self, function, *args, **kwargs):
        """Call a function in the context, and return what it returns."""
        cdef bint entered = self.enter()
        try:
            return function(*args, **kwargs)
        finally:
            if entered:
                self.leave()

    def copy(self):
        """Return a copy, for a task or a callback of its own."""
        return PyContext_Copy(self.context)

    cdef bint enter(self) except? True:
        """Enter the context. Returns False if the caller runs in it already; otherwise
        the caller has to call `leave`."""
        if self.entered:
            return False
        PyContext_Enter(self.context)
        self.entered = True
        return True

    cdef int leave(self) except -1:
        """Leave the context, after an `enter` that returned True."""
        self.entered = False
        PyContext_Exit(self.context)
        return 0
