"""An asynchronous handler that is under way, and the calls that it waits for.

Two nodes whose handlers call each other must not wait for each other's memory or turn.
So while a handler waits for a call of its own

- that call passes messages that wait for credit, in the inner lane;
- its place at a bounded endpoint is lent to calls that handlers of the peers make: one
  of them may be what it waits for;
- what it holds, if it came in the inner lane itself, is not counted.
"""

cimport cython

from fastnode.link.endpoint cimport Endpoint
from fastnode.link.windows cimport Windows

from contextvars import ContextVar

# The handler in whose context something runs.
CURRENT = ContextVar("fastnode handler", default=None)


@cython.final
@cython.freelist(256)
cdef class Handling:
    """One asynchronous handler, from its task's making to its end."""

    def __init__(
        self,
        Windows windows not None,
        Endpoint endpoint not None,
        admit,
        int lane,
        size_t size,
    ):
        self.windows = windows
        self.endpoint = endpoint
        self.admit = admit
        self.lane = lane
        self.size = size
        windows.held[lane] += size
        endpoint.running += 1

    def enter(self):
        """Called in the handler's task."""
        CURRENT.set(self)

    cdef int wait(self) except -1:
        """It has made a call."""
        self.calls += 1
        if self.calls == 1:
            self.excused = self.windows.excuse(self.lane, self.size)
            self.endpoint.lent += 1
            if self.endpoint.nested:
                self.admit(self.endpoint)
        return 0

    cdef int go_on(self) except -1:
        """A call of its own is over."""
        self.calls -= 1
        if self.calls == 0 and not self.done:
            self.count_again()
        return 0

    cdef int count_again(self) except -1:
        self.endpoint.lent -= 1
        if self.excused:
            self.excused = False
            self.windows.excused -= self.size
            self.windows.held[self.lane] += self.size
        return 0

    cdef int finish(self) except -1:
        """Its task is done; calls of tasks that it left behind are not its own."""
        if self.calls:
            self.count_again()
        self.done = True
        self.endpoint.running -= 1
        return self.windows.release(self.lane, self.size)


cdef Handling current():
    """The handler that makes a call, or None."""
    cdef Handling handling = CURRENT.get()
    return None if handling is None or handling.done else handling
