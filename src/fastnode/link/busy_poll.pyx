"""Busy polling: the loop does not sleep while a reply is expected very soon.

Normally a loop that waits for a reply sleeps in the kernel. Waking up takes longer than
most replies. It takes half of the time of a call between two processes on two cores. It
also costs as much CPU time as polling until the reply comes (docs/performance.md). So
the loop turns without sleep, for at most `limit` seconds per reply. Everything else on
the loop has its usual turn.

Polling is useful only if no other program needs the processor. So each turn offers the
processor to others. If another program takes it, polling pauses; see `PollBackoff`.
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

# Of 1.2 million calls of sched_yield on an idle processor, 99.97 % took less than 2 us.
# On a busy processor all took more than 10 us, and many took some milliseconds.
cdef double YIELDED = BUSY_POLL_YIELD_SECONDS


@cython.final
cdef class PollBackoff:
    """Pauses polling after each loss.

    Each pause is twice as long as the pause before, and each success halves the next
    pause. If every second attempt is a loss, polling pauses for more than half of the
    time. It nearly always pauses if most attempts are losses, and rarely if few are.

    The object has no clock of its own. Times are in seconds. No method raises.

    Args:
        cost: the seconds that a loss takes. The shortest pause is twice as long.
    """

    def __init__(self, double cost=0):
        self.least = max(2 * cost, LEAST)
        self.rest = self.least

    cpdef bint ready(self, double now) noexcept:
        """Return whether polling is not paused."""
        return now >= self.rests_until

    cpdef void won(self) noexcept:
        """Count a success: polling was useful."""
        self.rest = max(self.rest / 2, self.least)

    cpdef void lost(self, double now) noexcept:
        """Count a loss, and pause from `now` on."""
        self.rests_until = now + self.rest
        self.rest = min(self.rest * 2, MOST)


@cython.final
cdef class BusyPoll:
    """Keeps the loop of a node awake.

    All links of the node share one object, so one turn of the loop serves all expected
    replies.

    Args:
        limit: seconds of polling for one reply; 0 disables polling.
    """

    def __init__(self, double limit=0):
        self.limit = limit
        self.backoff = PollBackoff(limit)
        self.awaited = {}

    cdef bint begin(self, loop, reply, double now) except -1:
        """Begin to poll for a reply.

        Args:
            reply: an object that stands for the expected reply.
            now: the current time in seconds.

        Returns:
            False if the loop does not poll for it.
        """
        if not self.backoff.ready(now):
            return False
        if not self.turning or loop is not self.loop:
            loop.call_soon(self.turn)
            self.loop = loop
            self.turning = True
        self.awaited[reply] = now + self.limit
        return True

    cdef int stop_expecting(self, reply, bint in_time) except -1:
        """Stop polling for a reply.

        It has to be called once for each `begin` that returned True, even if the reply
        was late.
        """
        self.awaited.pop(reply, None)
        if in_time and self.turning:
            self.backoff.won()
        return 0

    def turn(self):
        """Plan one more turn of the loop, which looks at its sockets again."""
        cdef double began = monotonic()
        cdef double now
        self.turning = False
        while self.awaited:
            first, until = next(iter(self.awaited.items()))
            if began < until:
                break
            # This reply is late. It must not keep the loop polling for ever.
            del self.awaited[first]
        else:
            return
        self.turns += 1
        # Other threads of this process may wait for the interpreter's lock, so it is
        # released.
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
    """Polls for the replies to calls, or to pings, of one link.

    It polls for one reply at a time. `number` is the number of the call or ping, or 0.
    After a late reply it does not poll for a while, because the peer is far or slow.
    """

    def __init__(self, BusyPoll poll not None):
        self.poll = poll
        self.backoff = PollBackoff(poll.limit)

    cdef int begin(self, loop, uint64_t number) except -1:
        """Poll for the reply to `number`, unless polling is paused or already runs."""
        cdef double now
        if self.poll.limit <= 0:
            return 0
        now = monotonic()
        if self.number:
            if now < self.until:
                return 0
            # That reply may never come. It must not prevent polling for others.
            self.stop_polling(False)
        if self.backoff.ready(now) and self.poll.begin(loop, self, now):
            self.number = number
            self.until = now + self.poll.limit
        return 0

    cdef int stop_polling(self, bint replied) except -1:
        """End polling. `replied` says whether the reply has come."""
        cdef double now = monotonic()
        cdef bint in_time = now < self.until
        self.number = 0
        self.poll.stop_expecting(self, in_time and replied)
        if not in_time:
            self.backoff.lost(now)
        elif replied:
            self.backoff.won()
        return 0
