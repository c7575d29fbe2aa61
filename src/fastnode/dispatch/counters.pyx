"""The counters of a node that belong to no link.

The counters of a link are added to the totals of the node when the link has ended
(`fastnode.link.stats`). This module has the counters of endpoints, and of rare events.
All counters are plain integers, and they never decrease.
"""

cimport cython

from fastnode.dispatch.histogram cimport Histogram

from fastnode.sending.codes import CodeCounts


@cython.final
cdef class EndpointCounters:
    """Counters of one endpoint, or of several that share them."""

    def __init__(self):
        self.times = Histogram()

    def shown(self):
        """Return the counts under the field names of `EndpointStats`."""
        return {
            "messages": self.begun - self.calls,
            "calls": self.calls,
            "errors": self.errors,
            "calls_refused": self.refused,
            "calls_expired": self.expired,
        }

    @property
    def seconds(self):
        """A `Histogram` of the run times of the handlers."""
        return self.times


@cython.final
cdef class NodeCounters:
    """Counters that all links of a node share."""

    def __init__(self):
        self.others = EndpointCounters()
        self.handshakes = Histogram()
        self.calls = Histogram()
        self.call_errors = CodeCounts()
        self.reply_errors = CodeCounts()

    @property
    def calls_timed_out(self):
        """The number of calls and confirmed messages that raised `CallTimeout`."""
        return self.timed_out
