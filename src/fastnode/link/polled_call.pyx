"""The call of a link whose reply is polled for."""

cimport cython
from libc.stdint cimport uint32_t

from fastnode.link.busy_poll cimport BusyPoll
from fastnode.link.clock cimport monotonic
from fastnode.link.patience cimport Patience


@cython.final
cdef class PolledCall:
    """One call of a link at a time, `number`; 0 while there is none. Where a reply came
    too late to be worth it, the link does without for a while: its peer is far, or
    slow.
    """

    def __init__(self, BusyPoll poll not None):
        self.poll = poll
        self.patience = Patience()

    cdef int begin(self, loop, uint32_t number) except -1:
        """Call `number` has been sent, and there is no other: poll for its reply, where
        that is worth it."""
        cdef double now
        if self.poll.limit <= 0:
            return 0
        now = monotonic()
        if self.patience.ready(now) and self.poll.begin(loop, now):
            self.number = number
            self.until = now + self.poll.limit
        return 0

    cdef int end(self, bint replied) except -1:
        """The call is over, with or without a reply."""
        cdef double now = monotonic()
        self.number = 0
        self.poll.end()
        if now >= self.until:
            self.patience.lost(now)
        elif replied:
            self.patience.won()
        return 0
