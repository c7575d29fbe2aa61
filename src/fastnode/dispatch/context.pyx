"""The `contextvars` context in which a node runs code of its user.

Callbacks of an event loop run in a copy of the context in which they were registered.
For a link, that would be the context of the code that dialed first. This may be one
request of a web server, and its user must not become the user of all later messages.
So a node has a context of its own. Every receive callback, and every other place that
begins handlers, enters this context first. Each asynchronous handler gets a copy of it.
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
    """A context that is entered at most once at a time."""

    def __init__(self):
        self.context = copy_context()

    def renew(self):
        """Take a copy of the caller's context. It is called when the node starts."""
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
        """Enter the context.

        Returns:
            False if the caller runs in the context already. After True the caller has
            to call `leave`.
        """
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
