"""What the stopwatch of a link has to do with endpoints."""

from libc.stdint cimport uint64_t

from fastnode.link.endpoint cimport Endpoint
from fastnode.link.protocol cimport LinkProtocol


def watch_callbacks(
    LinkProtocol protocol not None, double limit, on_slow, on_slow_handler
):
    """Tell `on_slow` (link, seconds, endpoint bits) of what takes `limit` seconds where
    a link receives, and `on_slow_handler` (endpoint, seconds) of handlers elsewhere."""
    protocol.watch.on_slow = on_slow
    protocol.watch.on_slow_handler = on_slow_handler
    protocol.watch.limit = limit


def names_of(LinkProtocol protocol not None, uint64_t seen):
    """The names of the endpoints whose bits are set."""
    cdef list book = protocol.inbox.numbers.book
    return [
        (<Endpoint>book[number]).name
        for number in range(len(book))
        if seen >> (number & 63) & 1
    ]
