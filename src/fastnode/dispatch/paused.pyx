"""Endpoints of this node that a peer may not send to, because they are full.

How it works. The window of a lane counts all messages of the lane, for all endpoints.
If one endpoint is slow, its messages fill the window, and messages to other endpoints
cannot come through. `fastnode.dispatch.congestion` detects this. It sends PAUSE for the
endpoints that hold most, and their bytes are *set aside*. The window does not count
these bytes any more. So the peer may send again, but not to the paused endpoints.
Messages that were on their way to them are set aside when they come. RESUME follows
when few bytes of an endpoint are left.

A peer may ignore PAUSE. So the bytes that are set aside on one link are bounded. Beyond
the bound the window counts messages as before, and such a peer delays only itself.
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
        """Return the record of an endpoint. Make one if there is none."""
        cdef PausedEndpoint record = self.by_name.get(name)
        if record is None:
            record = self.by_name[name] = PausedEndpoint(name)
            self.count += 1
        return record

    cdef bint fits(self, size_t size) noexcept:
        """Return whether `size` further bytes may be set aside.

        One message of any legal size always may.
        """
        return self.size == 0 or self.size + size <= MOST

    cdef bint takes(self, str name, size_t size) except? True:
        """Set bytes aside if their endpoint is paused.

        Returns:
            False if the bytes count in the window instead.
        """
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
        """Release bytes that were set aside and are handled or dropped now."""
        cdef PausedEndpoint record = self.by_name[name]
        record.size -= size
        self.size -= size
        if record.paused and record.size <= self.low:
            record.paused = False
            self.outbox.frame(RESUME, 0, name.encode())
        return self.forget(record)

    cdef int forget(self, PausedEndpoint record) except -1:
        """Remove the record of an endpoint if it is not needed any more."""
        if record.size == 0 and not record.paused and not record.line:
            if self.by_name.pop(record.name, None) is not None:
                self.count -= 1
        return 0

    cdef int less_under_way(self, size_t size) except -1:
        """Subtract the bytes of a handler that has ended or waits for an own call."""
        self.under_way -= size
        if self.in_lines and self.on_less is not None:
            self.on_less()
        return 0
