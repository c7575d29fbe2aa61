"""Endpoints of this node that a peer may not send to, because they are full.

How it works. The window of a lane counts what came in the lane, whatever its endpoint.
If one endpoint is slow, what came for this endpoint fills the window, and nothing for
other endpoints gets through. `fastnode.dispatch.congestion` finds that out. It sends
PAUSE for the endpoints that hold most, and their bytes are *set aside*: the window does
not count them any more, so the peer may send again, but nothing to these endpoints.
What was on its way to them is set aside when it comes. When little of an endpoint is
left, RESUME follows.

A peer may ignore the PAUSE. So all that is set aside on one link is bounded. Beyond the
bound the window counts as before, and such a peer holds up itself.
"""

cimport cython
from libc.stdint cimport uint64_t

from fastnode.sending.outbox cimport Outbox
from fastnode.wire.frame cimport PAUSE, RESUME

from fastnode.limits import MAX_SET_ASIDE_BYTES, RESUME_PARTS

cdef uint64_t MOST = MAX_SET_ASIDE_BYTES
cdef uint64_t PARTS = RESUME_PARTS


@cython.final
cdef class PausedEndpoint:
    """An endpoint that is full, for one link."""

    def __init__(self, str name not None):
        self.name = name


@cython.final
cdef class PausedEndpoints:
    """The full endpoints of one link, and what was set aside of them."""

    def __init__(self, Outbox outbox not None, uint64_t window):
        self.outbox = outbox
        self.by_name = {}
        self.low = window // PARTS

    cdef PausedEndpoint add(self, str name):
        """The record of an endpoint; a new one if there was none."""
        cdef PausedEndpoint record = self.by_name.get(name)
        if record is None:
            record = self.by_name[name] = PausedEndpoint(name)
            self.count += 1
        return record

    cdef bint fits(self, size_t size) noexcept:
        """So many bytes may be set aside, too. One message of any legal size may."""
        return self.size == 0 or self.size + size <= MOST

    cdef bint takes(self, str name, size_t size) except? True:
        """Set so many bytes aside if their endpoint is paused. False: they count in the
        window."""
        cdef PausedEndpoint record = self.by_name.get(name)
        if record is None or not record.paused or not self.fits(size):
            return False
        record.size += size
        self.size += size
        return True

    cdef int pause(self, PausedEndpoint record) except -1:
        """Tell the peer to send nothing more to an endpoint."""
        if not record.paused:
            record.paused = True
            self.outbox.frame(PAUSE, 0, record.name.encode())
        return 0

    cdef int free(self, str name, size_t size) except -1:
        """So many bytes that were set aside are handled, or given up."""
        cdef PausedEndpoint record = self.by_name[name]
        record.size -= size
        self.size -= size
        if record.paused and record.size <= self.low:
            record.paused = False
            self.outbox.frame(RESUME, 0, name.encode())
        return self.forget(record)

    cdef int forget(self, PausedEndpoint record) except -1:
        """Forget an endpoint of which nothing is left here."""
        if record.size == 0 and not record.paused and not record.line:
            if self.by_name.pop(record.name, None) is not None:
                self.count -= 1
        return 0

    cdef int less_under_way(self, size_t size) except -1:
        """A handler of an endpoint here has ended, or waits for a call of its own."""
        self.under_way -= size
        if self.in_lines and self.on_less is not None:
            self.on_less()
        return 0
