"""The reply of a link that is polled for."""

cimport cython
from libc.stdint cimport uint64_t

from fastnode.link.busy_poll cimport BusyPoll
from fastnode.link.clock cimport monotonic
from fastnode.link.patience cimport Patience


@cython.final
cdef class PolledReply:
    """Of one kind on a link, to calls or to pings: one at a time, to number `number`; 0
    while there is none. Where one came too late to be worth it, that kind does without
    for a while: the peer is far, or slow.
    """

    def __init__(self, BusyPoll poll not None):
        self.poll = poll
        self.patience = Patience(poll.limit)

    cdef int begin(self, loop, uint64_t number) except -1:
        """Poll for the reply to `number`, if that is worth it and there is no other."""
        cdef double now
        if self.poll.limit <= 0:
            return 0
        now = monotonic()
        if self.number:
            if now < self.until:
                return 0
            # It may take for ever: it is not to keep others from being polled for.
            self.end(False)
        if self.patience.ready(now) and self.poll.begin(loop, self, now):
            self.number = number
            self.until = now + self.poll.limit
        return 0

    cdef int end(self, bint replied) except -1:
        """It is not waited for any more, with or without a reply."""
        cdef double now = monotonic()
        cdef bint in_time = now < self.until
        self.number = 0
        self.poll.end(self, in_time and replied)
        if not in_time:
            self.patience.lost(now)
        elif replied:
            self.patience.won()
        return 0
