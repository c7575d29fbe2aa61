"""What a node counts beside the counters of its links.

The counters of a link are added to the totals of the node when the link has ended
(`fastnode.link.stats`). What is here belongs to no link: counters of endpoints, and
things that happen rarely. All are plain integers, and none of them goes back.
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
        """Return the counts by the names that `EndpointStats` has for them."""
        return {
            "messages": self.begun - self.calls,
            "calls": self.calls,
            "errors": self.errors,
            "calls_refused": self.refused,
            "calls_expired": self.expired,
        }

    @property
    def seconds(self):
        """How long handlers took, a `Histogram`."""
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
        """Calls and confirmed messages of this node that raised `CallTimeout`."""
        return self.timed_out
