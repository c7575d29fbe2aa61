"""Busy polling: a loop that does not sleep while a reply is expected any moment.

A loop that waits for a reply sleeps in the kernel, and to be woken takes longer than
most replies: it is half of a call between two processes on two cores, and as much CPU
time as it takes to look again and again until the reply is there (docs/performance.md).
So the loop turns without sleeping, at most `limit` seconds for a reply. Everything else
on the loop has its turn as ever.

That is right only where nobody else wants the processor. So each turn offers it to
others; where one takes it, polling rests for a while, see `PollBackoff`.
"""

cimport cython
from libc.stdint cimport uint64_t

from fastnode.link.clock cimport monotonic

from fastnode.limits import (
    BUSY_POLL_LEAST_REST_SECONDS,
    BUSY_POLL_MOST_REST_SECONDS,
    BUSY_POLL_YIELD_SECONDS,
)

cdef double LEAST = BUSY_POLL_LEAST_REST_SECONDS
cdef double MOST = BUSY_POLL_MOST_REST_SECONDS

cdef extern from "<sched.h>" nogil:
    int sched_yield() noexcept

# Of 1.2 million calls of sched_yield with nobody else there, 99.97 % took less than
# 2 us; where somebody was there, all took more than 10, and many some milliseconds.
cdef double YIELDED = BUSY_POLL_YIELD_SECONDS


@cython.final
cdef class PollBackoff:
    """Rests after each loss, twice as long as after the one before; each success
    halves that. It rests more than half of the time where every second one is a loss,
    nearly always where most are, and hardly ever where few are.

    It has no clock of its own; times are in seconds. Nothing here raises.

    Args:
        cost: what a loss takes. The shortest rest is twice as long.
    """

    def __init__(self, double cost=0):
        self.least = max(2 * cost, LEAST)
        self.rest = self.least

    cpdef bint ready(self, double now) noexcept:
        """Whether it does not rest."""
        return now >= self.rests_until

    cpdef void won(self) noexcept:
        """It was not in vain."""
        self.rest = max(self.rest / 2, self.least)

    cpdef void lost(self, double now) noexcept:
        """It was in vain: rest from `now` on."""
        self.rests_until = now + self.rest
        self.rest = min(self.rest * 2, MOST)


@cython.final
cdef class BusyPoll:
    """Keeps the loop of a node awake. One for all its links: the loop turns once,
    however many replies are expected.

    Args:
        limit: how long a reply is polled for, seconds; 0: not at all.
    """

    def __init__(self, double limit=0):
        self.limit = limit
        self.backoff = PollBackoff(limit)
        self.awaited = {}

    cdef bint begin(self, loop, reply, double now) except -1:
        """`reply`, which stands for one, is expected from `now` on. False: it is not
        polled for."""
        if not self.backoff.ready(now):
            return False
        if not self.turning or loop is not self.loop:
            loop.call_soon(self.turn)
            self.loop = loop
            self.turning = True
        self.awaited[reply] = now + self.limit
        return True

    cdef int stop_expecting(self, reply, bint in_time) except -1:
        """It is not expected any more. To be called once for each `begin` that was
        True, late or not."""
        self.awaited.pop(reply, None)
        if in_time and self.turning:
            self.backoff.won()
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
            self.backoff.lost(now)
            return
        self.loop.call_soon(self.turn)
        self.turning = True


@cython.final
cdef class PolledReply:
    """Of one kind on a link, to calls or to pings: one at a time, to number `number`; 0
    while there is none. Where one came too late to be worth it, that kind does without
    for a while: the peer is far, or slow.
    """

    def __init__(self, BusyPoll poll not None):
        self.poll = poll
        self.backoff = PollBackoff(poll.limit)

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
            self.stop_polling(False)
        if self.backoff.ready(now) and self.poll.begin(loop, self, now):
            self.number = number
            self.until = now + self.poll.limit
        return 0

    cdef int stop_polling(self, bint replied) except -1:
        """It is not waited for any more, with or without a reply."""
        cdef double now = monotonic()
        cdef bint in_time = now < self.until
        self.number = 0
        self.poll.stop_expecting(self, in_time and replied)
        if not in_time:
            self.backoff.lost(now)
        elif replied:
            self.backoff.won()
        return 0
