"""Whether the peer is alive: pings, by users and by the clock.

A peer that nothing was heard of for `interval` is probed, again after every further
interval, and dead after KEEPALIVE_MISSES of them. Only silence counts, and only while
this process runs: after it was stopped, or the loop was blocked, what waits in the
socket is read before anybody is judged. So every verdict takes two looks, with a turn
of the loop between them, and one that comes late counts for nothing.

The same clock tells busy links from idle ones: TLS may keep its buffers on the former.
"""

cimport cython
from libc.stdint cimport uint64_t

from fastnode.link.busy_poll cimport BusyPoll, PolledReply
from fastnode.link.clock cimport monotonic
from fastnode.sending.outbox cimport Outbox, fail
from fastnode.wire.frame cimport PING, PONG

from struct import Struct
from time import perf_counter

from fastnode.errors import ProtocolError, Side, renewed
from fastnode.limits import BUSY_LINK_READS, KEEPALIVE_MISSES, MAX_QUEUED_PONGS

cdef object NUMBER = Struct(">Q")
cdef unsigned int MOST_PONGS = MAX_QUEUED_PONGS
cdef double MISSES = KEEPALIVE_MISSES
cdef unsigned int BUSY = BUSY_LINK_READS

# A look that comes so much later than it should, seconds or part of the interval,
# says that this process did not run.
cdef double LATE_SECONDS = 0.1
cdef double LATE_PART = 0.25
# The time between the two last looks, part of the interval.
cdef double LAST_LOOK = 0.125
# Loops round their timers to milliseconds.
cdef double TICK_SECONDS = 0.002


@cython.final
cdef class Keepalive:
    """Probes a silent peer and gives up a dead one."""

    def __init__(
        self, loop, Outbox outbox not None, on_dead, BusyPoll poll not None
    ):
        self.loop = loop
        self.outbox = outbox
        self.on_dead = on_dead
        self.pings = {}
        self.polled = PolledReply(poll)

    def start(self, double interval):
        """Probe after `interval` seconds of silence."""
        self.interval = interval
        self.limit = interval * MISSES
        self.heard()
        self.wait(interval)
        self.reads = 0

    def pace(self, double interval):
        """Go on with another interval, as if something was heard now."""
        if self.timer is None or interval == self.interval:
            return
        self.timer.cancel()
        self.probes = 0
        self.doubting = False
        self.start(interval)

    def stop(self):
        """Look no more."""
        for timer in (self.timer, self.check_timer):
            if timer is not None:
                timer.cancel()
        self.timer = self.check_timer = self.on_silent = None

    cdef int heard(self) except -1:
        """Something was received."""
        self.heard_at = monotonic()
        self.reads += 1
        if self.reads == BUSY and self.timer is not None:
            self.outbox.engine.keep_buffers(True)
        return 0

    cdef int wait(self, double seconds) except -1:
        seconds = max(seconds, TICK_SECONDS)
        self.due = monotonic() + seconds
        self.timer = self.loop.call_later(seconds, self.tick)
        return 0

    def tick(self):
        """Look how long the peer has been silent."""
        cdef double now = monotonic()
        cdef double silence = now - self.heard_at
        cdef double last_look = self.limit - self.interval * LAST_LOOK
        self.timer = None
        if self.reads < BUSY and self.outbox.engine.holding:
            self.outbox.engine.keep_buffers(False)
        self.reads = 0
        if silence + TICK_SECONDS < self.interval:
            self.probes = 0
            self.doubting = False
            self.wait(self.interval - silence)
            return
        if now - self.due > max(LATE_SECONDS, self.interval * LATE_PART):
            self.heard_at = now - self.interval
            silence = self.interval
            self.probes = 0
            self.doubting = False
        if silence + TICK_SECONDS < last_look:
            if silence + TICK_SECONDS >= self.interval * (self.probes + 1):
                self.probes += 1
                # Number 0: nobody waits for the answer, hearing it is enough.
                self.outbox.frame(PING, 0, NUMBER.pack(0))
            self.wait(min(self.interval * (self.probes + 1), last_look) - silence)
        elif not self.doubting:
            self.doubting = True
            self.wait(self.limit - silence)
        else:
            self.on_dead(silence)

    def check(self, double seconds, on_silent=None):
        """Take the peer for dead unless something is heard of it within `seconds`.

        If a check is under way, another one follows: what was heard before this call
        says nothing about now. So however often this is called, there is one ping in
        `seconds`.

        Args:
            on_silent: called without arguments if the peer is dead; None: `on_dead`.
        """
        if self.outbox.ended:
            return
        if on_silent is not None:
            self.on_silent = on_silent
        if self.check_timer is not None:
            self.check_again = True
            return
        self.outbox.frame(PING, 0, NUMBER.pack(0))
        self.check_timer = self.loop.call_later(
            seconds, self.checked, monotonic(), seconds
        )

    def checked(self, double began, double seconds):
        """The time of `check` is over."""
        cdef double now = monotonic()
        cdef bint alive = self.heard_at > began
        cdef bint late = now - began > seconds + LATE_SECONDS
        cdef bint again = self.check_again if alive else late
        cdef object on_silent = self.on_silent
        self.check_timer = self.on_silent = None
        self.check_again = False
        if again:
            self.check(seconds, on_silent)
        elif alive:
            return
        elif on_silent is not None:
            on_silent()
        else:
            self.on_dead(now - began)

    async def ping(self, bint polled=False):
        """The time from a ping to its pong, seconds.

        Args:
            polled: poll for it, as for the reply of a call: somebody waits.
        """
        if self.outbox.closed is not None:
            raise renewed(self.outbox.closed)
        self.outbox.check_loop()
        cdef uint64_t last
        self.last += 1
        last = self.last
        number = NUMBER.pack(last)
        waiter = self.loop.create_future()
        self.pings[number] = waiter
        began = perf_counter()
        try:
            self.outbox.frame(PING, 0, number)
            if polled:
                self.polled.begin(self.loop, last)
            await waiter
        finally:
            self.pings.pop(number, None)
            if self.polled.number == last:
                self.polled.stop_polling(False)
        return perf_counter() - began

    cdef int pinged(self, bytes number) except -1:
        """The peer pings: answer it."""
        if self.outbox.encoder.control.count == 0:
            self.pongs = 0
        self.pongs += 1
        if self.pongs > MOST_PONGS:
            raise ProtocolError(
                f"the peer sent {self.pongs} pings and did not read their answers",
                side=Side.REMOTE,
            )
        return self.outbox.frame(PONG, 0, number)

    cdef int pong(self, bytes number) except -1:
        cdef object waiter = self.pings.get(number)
        if waiter is not None and not waiter.done():
            if self.polled.number and self.polled.number == NUMBER.unpack(number)[0]:
                self.polled.stop_polling(True)
            waiter.set_result(None)
        return 0

    cdef int close(self, error) except -1:
        """The link has ended: whoever waits is told."""
        cdef dict pings = self.pings
        self.stop()
        self.on_dead = None
        self.pings = {}
        for waiter in pings.values():
            if not waiter.done():
                fail(waiter, error)
        return 0
