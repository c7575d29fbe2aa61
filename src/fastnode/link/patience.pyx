"""Whether to try again what costs something when it was in vain."""

cimport cython

from fastnode.limits import BUSY_POLL_LEAST_REST_SECONDS, BUSY_POLL_MOST_REST_SECONDS

cdef double LEAST = BUSY_POLL_LEAST_REST_SECONDS
cdef double MOST = BUSY_POLL_MOST_REST_SECONDS


@cython.final
cdef class Patience:
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
