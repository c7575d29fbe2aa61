"""How late the event loop is.

A timer is set again and again. A loop that has too much to do calls it late. A call that
comes while the timer is overdue, or whose last measurement was late, comes to a loop that
cannot keep up.
"""

cimport cython

from time import monotonic

from fastnode.limits import LAG_LEAST_SECONDS, LAG_MOST_SECONDS, LAG_PARTS


@cython.final
cdef class LoopLag:
    """Measures the lag of a loop.

    Args:
        most: seconds that the loop may be late.
    """

    def __init__(self, double most):
        self.most = most
        self.interval = min(max(most / LAG_PARTS, LAG_LEAST_SECONDS), LAG_MOST_SECONDS)

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
        """Take a measurement, and have the next one made."""
        cdef double now = monotonic()
        self.late = now - self.due
        self.due = now + self.interval
        self.timer = self.loop.call_later(self.interval, self.tick)

    cdef bint over(self) noexcept:
        """Whether the loop is too late, at this moment or when it was last measured."""
        if self.timer is None:
            return False
        return self.late > self.most or <double>monotonic() - self.due > self.most

    cdef str text(self):
        """What a caller is told that was refused."""
        return f"the event loop of this node is more than {self.most:g} s late"
