"""Ends a worker whose group is gone, even if the worker hangs.

A worker that is well sees the end of its channel, and stops in order. A worker whose
loop is blocked sees nothing: a handler may wait for a lock, or search with a regular
expression that takes a year. The latter holds the GIL, so no Python thread can run
either. Therefore a thread watches here that never needs the GIL.

It compares the parent process with the one at the start, once a second. Nobody else can
influence that: a descriptor can be held open by other processes, and the signal that
Linux sends at the death of a parent is one at the end of the parent's *thread*.
"""

from libc.signal cimport SIGKILL
from posix.signal cimport kill
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec
from posix.unistd cimport getpid, getppid, write

import os

cdef extern from "poll.h" nogil:
    int poll(void *none, unsigned long count, int milliseconds)

cdef extern from "sys/socket.h" nogil:
    int shutdown(int sock, int how)
    int SHUT_RDWR

cdef enum:
    LOOK_MILLISECONDS = 1000
    STANDARD_ERROR = 2

cdef bytes LAST_WORDS = (
    b"fastnode: the group of this worker is gone, and the worker has not stopped in "
    b"time: it is killed\n"
)


cdef class Leash:
    """The parent process of this one, and what happens when it is gone.

    Args:
        control: the socket to the group. When the parent is gone, the socket is shut
            down, so that a loop that runs sees the end of the channel. A copy of the
            descriptor is kept.
        seconds: that the process may live on after its parent.

    Attributes:
        seconds: may be changed at any time.
    """

    cdef public double seconds
    cdef int parent
    cdef int control
    cdef bint pulled

    def __init__(self, int control, double seconds):
        self.seconds = seconds
        self.parent = getppid()
        self.pulled = False
        self.control = os.dup(control)

    def fileno(self):
        """The descriptor of the copy."""
        return self.control

    def pull(self):
        """End the process after `seconds`, though the parent lives."""
        self.pulled = True

    def hold(self):
        """Watch. Does not return; run it in a daemon thread."""
        cdef const char *words = LAST_WORDS
        cdef size_t length = len(LAST_WORDS)
        with nogil:
            self.watch()
            write(STANDARD_ERROR, words, length)
            kill(getpid(), SIGKILL)

    cdef void watch(self) noexcept nogil:
        """Return when the time is up."""
        cdef double gone
        while not self.pulled and getppid() == self.parent:
            poll(NULL, 0, LOOK_MILLISECONDS)
        shutdown(self.control, SHUT_RDWR)
        gone = now()
        while now() - gone < self.seconds:
            poll(NULL, 0, LOOK_MILLISECONDS)


cdef double now() noexcept nogil:
    """Seconds of a clock that nobody sets."""
    cdef timespec time
    clock_gettime(CLOCK_MONOTONIC, &time)
    return time.tv_sec + time.tv_nsec * 1e-9
