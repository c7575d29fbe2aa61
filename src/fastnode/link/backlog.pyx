"""What waits because too many asynchronous handlers of its lane are under way.

A window counts bytes, and a handler under way costs a task, however small its message:
without this a window of empty messages would become 130 thousand tasks at once. What
waits here costs some 250 bytes.

Large and small messages of normal priority share a line, for they share an order.
"""

cimport cython
from libc.stdint cimport uint64_t

from fastnode.link.windows cimport Windows
from fastnode.wire.frame cimport BULK_LANE, DATA_LANE, LANES

from collections import deque

from fastnode.limits import MAX_UNDER_WAY_BYTES

cdef uint64_t MOST = MAX_UNDER_WAY_BYTES


cdef inline int line_of(int lane) noexcept:
    return DATA_LANE if lane == BULK_LANE else lane


@cython.final
cdef class Backlog:
    """The lines of one link."""

    def __init__(self, Windows windows not None):
        self.windows = windows

    cdef bint holds(self, int lane) noexcept:
        """Something waits before whatever comes in this lane now."""
        return self.count > 0 and bool(self.lines[line_of(lane)])

    cdef bint full(self, int lane) noexcept:
        """No more handlers of this lane may begin."""
        return self.windows.under_way[lane] > MOST

    cdef int put(self, tuple entry, int lane, size_t size) except -1:
        """Have something of `size` bytes wait."""
        cdef int line = line_of(lane)
        if self.lines is None:
            self.lines = [None] * LANES
        if self.lines[line] is None:
            self.lines[line] = deque()
        self.lines[line].append(entry)
        self.sizes[lane] += size
        self.windows.held[lane] += size
        self.count += 1
        return 0

    cdef tuple first(self, int line):
        """What has waited longest, or None."""
        cdef object waiting = self.lines[line] if self.count else None
        return <tuple>waiting[0] if waiting else None

    cdef int drop_first(self, int lane, size_t size) except -1:
        """It waits no more. The windows hold its bytes until they are released."""
        self.lines[line_of(lane)].popleft()
        self.sizes[lane] -= size
        self.count -= 1
        return 0

    cdef int clear(self) except -1:
        """Nothing of it will be handled."""
        cdef int lane
        for lane in range(LANES):
            self.windows.held[lane] -= self.sizes[lane]
            self.sizes[lane] = 0
        self.lines = None
        self.count = 0
        return 0
