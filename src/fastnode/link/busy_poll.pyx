"""Busy polling: a loop that does not sleep while a reply is expected any moment.

A loop that waits for a reply sleeps in the kernel, and to be woken takes longer than
most replies: it is half of a call between two processes on two cores, and as much CPU
time as it takes to look again and again until the reply is there (docs/performance.md).
So the loop turns without sleeping, at most `limit` seconds for a reply. Everything else
on the loop has its turn as ever.

That is right only where nobody else wants the processor. So each turn offers it to
others; where one takes it, this rests for a while, see `Patience`.
"""

cimport cython
from fastnode.link.clock cimport monotonic
from fastnode.link.patience cimport Patience

from fastnode.limits import BUSY_POLL_YIELD_SECONDS

cdef extern from "<sched.h>" nogil:
    int sched_yield() noexcept

# Of 1.2 million calls of sched_yield with nobody else there, 99.97 % took less than
# 2 us; where somebody was there, all took more than 10, and many some milliseconds.
cdef double YIELDED = BUSY_POLL_YIELD_SECONDS


@cython.final
cdef class BusyPoll:
    """Keeps the loop of a node awake. One for all its links: the loop turns once,
    however many replies are expected.

    Args:
        limit: how long a reply is polled for, seconds; 0: not at all.
    """

    def __init__(self, double limit=0):
        self.limit = limit
        self.patience = Patience(limit)
        self.awaited = {}

    cdef bint begin(self, loop, reply, double now) except -1:
        """`reply`, which stands for one, is expected from `now` on. False: it is not
        polled for."""
        if not self.patience.ready(now):
            return False
        if not self.turning or loop is not self.loop:
            loop.call_soon(self.turn)
            self.loop = loop
            self.turning = True
        self.awaited[reply] = now + self.limit
        return True

    cdef int end(self, reply, bint in_time) except -1:
        """It is not expected any more. To be called once for each `begin` that was
        True, late or not."""
        self.awaited.pop(reply, None)
        if in_time and self.turning:
            self.patience.won()
        return 0

    def turn(self):
        """The loop has looked at its sockets; have it look again."""
        cdef double began = monotonic()
        cdef double now
        self.turning = False
        while self.awaited:
            first, until = next(iter(self.awaited.items()))
            if began < until:
                break
            # It is late. Others may be expected still, and for ever.
            del self.awaited[first]
        else:
            return
        self.turns += 1
        # Without the interpreter's lock: others may wait for it, in this process.
        with nogil:
            sched_yield()
        now = monotonic()
        if now - began >= YIELDED:
            self.yielded += 1
            self.patience.lost(now)
            return
        self.loop.call_soon(self.turn)
        self.turning = True
