"""Finds the handlers that block the loop while a link receives.

The clock is read when a receive callback begins and after each TLS record, not for each
message. The handlers of one record together block the loop for the measured time. One
bit for each endpoint says whether it was reached. After a slow record the next messages
are timed one by one, so that the warning names the right endpoint.
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
        """Begin to measure a receive callback."""
        if self.limit > 0:
            self.began = seconds()
            self.forget()
        return 0

    cdef int forget(self) noexcept:
        """Forget the endpoints that were reached since `began`."""
        cdef int lane
        self.seen[0] = 0
        if self.others:
            for lane in range(1, LANES):
                self.seen[lane] = 0
            self.others = False
        return 0

    cdef bint any(self) noexcept:
        """Return whether an endpoint was reached since `began`."""
        return self.seen[0] != 0 or self.others

    cdef int close_lap(self) except -1:
        """Take a lap for a single message."""
        self.close -= 1
        return self.lap()

    cdef int lap(self) except -1:
        """Report the handlers since the last lap if they took too long."""
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
        """Return the time at which a handler begins, for `tell`."""
        return seconds() if self.limit > 0 else 0

    cdef int tell(self, str name, double began) except -1:
        """Report a handler of endpoint `name` that began at `began`, if it is slow."""
        cdef double now
        if self.limit <= 0:
            return 0
        now = seconds()
        if now - began >= self.limit:
            # The rest of this callback must not report the same time again.
            self.began = now
            self.forget()
            self.on_slow_handler(name, now - began)
        return 0
