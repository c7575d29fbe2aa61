"""Finds out what blocks the loop while a link receives.

The clock is read when a receive callback begins and after each TLS record, not for each
message: what a record's handlers took together is what the loop stood still. Which
endpoints were reached is one bit each. After a slow record the next messages are timed
one by one, so that of several endpoints the right one is named.
"""

cimport cython
from fastnode.wire.frame cimport LANES

cdef extern from *:
    """
    #include <time.h>
    #ifdef CLOCK_MONOTONIC_COARSE
    #define FASTNODE_CLOCK CLOCK_MONOTONIC_COARSE  /* 5 ns, steps of 1 to 10 ms */
    #else
    #define FASTNODE_CLOCK CLOCK_MONOTONIC
    #endif
    static double fastnode_seconds(void) {
        struct timespec now;
        clock_gettime(FASTNODE_CLOCK, &now);
        return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
    }
    """
    double seconds "fastnode_seconds" () noexcept

cdef enum:
    CLOSE_LAPS = 4096


@cython.final
cdef class Stopwatch:
    """Measures what happens in one receive callback."""

    cdef int start(self) noexcept:
        """A receive callback begins."""
        if self.limit > 0:
            self.began = seconds()
            self.forget()
        return 0

    cdef int forget(self) noexcept:
        """No endpoint was reached since `began`."""
        cdef int lane
        self.seen[0] = 0
        if self.others:
            for lane in range(1, LANES):
                self.seen[lane] = 0
            self.others = False
        return 0

    cdef bint any(self) noexcept:
        """Some endpoint was reached since `began`."""
        return self.seen[0] != 0 or self.others

    cdef int close_lap(self) except -1:
        """Take a lap for a single message."""
        self.close -= 1
        return self.lap()

    cdef int lap(self) except -1:
        """What was under way is handled: tell if it took too long."""
        cdef double now, took
        if self.limit <= 0:
            return 0
        now = seconds()
        took = now - self.began
        self.began = now
        if took >= self.limit and self.any():
            self.close = CLOSE_LAPS
            self.on_slow(took)
        self.forget()
        return 0

    # --- one handler ------------------------------------------------------------

    cdef double now(self) noexcept:
        """When a handler begins, for `tell`."""
        return seconds() if self.limit > 0 else 0

    cdef int tell(self, str name, double began) except -1:
        """A handler of endpoint `name` has been at it since `began`."""
        cdef double now
        if self.limit <= 0:
            return 0
        now = seconds()
        if now - began >= self.limit:
            # Not to be told again with what else this callback does.
            self.began = now
            self.forget()
            self.on_slow_handler(name, now - began)
        return 0
