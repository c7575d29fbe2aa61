"""Measurement of how late the event loop is.

A timer is set repeatedly. A loop with too much work calls the timer late. If the timer
is overdue now, or was late the last time, the loop cannot keep up.
"""

cimport cython

from fastnode.dispatch.histogram cimport Histogram

from math import inf
from time import monotonic

from fastnode.limits import LAG_LEAST_SECONDS, LAG_MOST_SECONDS, LAG_PARTS


@cython.final
cdef class LoopLag:
    """Measures the lag of a loop.

    Args:
        most: seconds that the loop may be late. None: there is no bound, and the lag is
            only recorded.
    """

    def __init__(self, most):
        self.most = inf if most is None else most
        self.times = Histogram()
        self.interval = max(self.most / LAG_PARTS, LAG_LEAST_SECONDS)
        self.interval = min(self.interval, LAG_MOST_SECONDS)

    def start(self, loop):
        """Measure the lag of this loop, from now on until `stop`."""
        self.loop = loop
        self.due = monotonic() + self.interval
        self.timer = loop.call_later(self.interval, self.tick)

    def stop(self):
        """Measure nothing more."""
        if self.timer is not None:
            self.timer.cancel()
        self.timer = self.loop = None
        self.late = 0

    def tick(self):
        """Take a measurement, and plan the next one."""
        cdef double now = monotonic()
        self.late = now - self.due
        self.times.record(self.late)
        self.due = now + self.interval
        self.timer = self.loop.call_later(self.interval, self.tick)

    @property
    def seconds(self):
        """How late the loop is, in seconds.

        The larger one of the lag at this moment and the last measured lag. 0 if nothing
        is measured.
        """
        if self.timer is None:
            return 0.0
        return max(self.late, <double>monotonic() - self.due, 0.0)

    cdef bint over(self) noexcept:
        """Return whether the loop is too late now, or was at the last measurement."""
        if self.timer is None:
            return False
        return self.late > self.most or <double>monotonic() - self.due > self.most

    cdef str text(self):
        """Return the text of the error for a refused call."""
        return f"the event loop of this node is more than {self.most:g} s late"
