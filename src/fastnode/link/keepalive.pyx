"""Keepalive: it finds out whether the peer is alive, by pings of users and of a timer.

A peer that was silent for `interval` is probed. It is probed again after every further
interval, and counts as dead after KEEPALIVE_MISSES intervals. Silence counts only while
this process runs. If the process was stopped or the loop was blocked, the bytes that
wait in the socket are read first. So a peer counts as dead only after two looks with a
turn of the loop between them, and a look that comes late does not count.

The same timer tells busy links from idle links. TLS may keep its buffers on busy links.
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

# If a look is late by so many seconds, or by such a part of the interval, this process
# did not run.
cdef double LATE_SECONDS = 0.1
cdef double LATE_PART = 0.25
# The time between the last two looks, as a part of the interval.
cdef double LAST_LOOK = 0.125
# Loops round their timers to milliseconds.
cdef double TICK_SECONDS = 0.002


@cython.final
cdef class Keepalive:
    """Probes a silent peer, and reports a dead peer."""

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
        """Continue with another interval, as if bytes had come now."""
        if self.timer is None or interval == self.interval:
            return
        self.timer.cancel()
        self.probes = 0
        self.doubting = False
        self.start(interval)

    def stop(self):
        """Stop looking."""
        for timer in (self.timer, self.check_timer):
            if timer is not None:
                timer.cancel()
        self.timer = self.check_timer = self.on_silent = None

    cdef int heard(self) except -1:
        """Note that bytes were received."""
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
        """Check how long the peer has been silent."""
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
                # Number 0 means that no code waits for the PONG. Its arrival is enough.
                self.outbox.frame(PING, 0, NUMBER.pack(0))
            self.wait(min(self.interval * (self.probes + 1), last_look) - silence)
        elif not self.doubting:
            self.doubting = True
            self.wait(self.limit - silence)
        else:
            self.on_dead(silence)

    def check(self, double seconds, on_silent=None):
        """Ping the peer, and treat it as dead if nothing comes within `seconds`.

        If a check is running, another one follows, because bytes that came before this
        call prove nothing about the time after it. So there is at most one ping in
        `seconds`, even if this method is called often.

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
        """Finish a check, because its time is over."""
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
        """Return the seconds from a ping to its pong.

        Args:
            polled: whether the loop polls for the pong, as for the reply of a call.
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
        """Answer a PING of the peer."""
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
        """Let every waiting ping raise `error`, because the link has ended."""
        cdef dict pings = self.pings
        self.stop()
        self.on_dead = None
        self.pings = {}
        for waiter in pings.values():
            if not waiter.done():
                fail(waiter, error)
        return 0
