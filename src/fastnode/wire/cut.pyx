"""Parts that are removed from a lane."""

cimport cython
from libc.stdint cimport uint64_t

from bisect import bisect_left


@cython.final
cdef class Cut:
    """The parts of a lane that are removed."""

    def __init__(self):
        self.starts = []
        self.ends = []
        self.sums = []
        self.found = []

    cdef int add(self, uint64_t start, uint64_t end) except -1:
        """Add a frame, which follows all frames that were added before."""
        cdef Py_ssize_t last = len(self.ends) - 1
        self.size += <size_t>(end - start)
        if last >= 0 and <uint64_t>self.ends[last] == start:
            self.ends[last] = end
            self.sums[last] = self.size
        else:
            self.starts.append(start)
            self.ends.append(end)
            self.sums.append(self.size)
        return 0

    cdef uint64_t moved(self, uint64_t position) except? 0:
        """Return the position after the cut for a `position` before the cut."""
        cdef Py_ssize_t parts = bisect_left(self.starts, position)
        cdef uint64_t gone
        if parts == 0:
            return position
        gone = self.sums[parts - 1]
        if position < <uint64_t>self.ends[parts - 1]:
            gone -= <uint64_t>self.ends[parts - 1] - position
        return position - gone
