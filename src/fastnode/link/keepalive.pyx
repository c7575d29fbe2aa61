"""Whether the peer is alive: pings, by users and by the clock."""

cimport cython

from fastnode.link.outbox cimport Outbox
from fastnode.wire.frame cimport PING, PONG

from struct import Struct
from time import perf_counter

from fastnode.errors import ProtocolError, Side, renewed
from fastnode.limits import KEEPALIVE_MISSES, MAX_QUEUED_PONGS

cdef object NUMBER = Struct(">Q")
cdef unsigned int MOST_PONGS = MAX_QUEUED_PONGS


@cython.final
cdef class Keepalive:
    """Probes a silent peer and gives up a dead one."""

    def __init__(self, loop, Outbox outbox not None, on_dead):
        self.loop = loop
        self.outbox = outbox
        self.on_dead = on_dead
        self.pings = {}

    def start(self, double interval):
        """Look every `interval` seconds whether something was heard."""
        self.interval = interval
        self.timer = self.loop.call_later(interval, self.tick)

    def stop(self):
        """Look no more."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def tick(self):
        """The interval is over."""
        self.silent = 0 if self.heard else self.silent + 1
        self.heard = False
        if self.silent > KEEPALIVE_MISSES:
            self.timer = None
            self.on_dead(self.silent * self.interval)
            return
        if self.silent:
            # Number 0: nobody waits for the answer, hearing it is enough.
            self.outbox.frame(PING, 0, NUMBER.pack(0))
        self.timer = self.loop.call_later(self.interval, self.tick)

    async def ping(self):
        """The time from a ping to its pong, seconds."""
        if self.outbox.closed is not None:
            raise renewed(self.outbox.closed)
        self.outbox.check_loop()
        self.last += 1
        number = NUMBER.pack(self.last)
        waiter = self.loop.create_future()
        self.pings[number] = waiter
        began = perf_counter()
        try:
            self.outbox.frame(PING, 0, number)
            await waiter
        finally:
            self.pings.pop(number, None)
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
                waiter.set_exception(renewed(error))
        return 0
