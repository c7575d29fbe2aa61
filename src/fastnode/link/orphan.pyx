"""A link in a process that was forked from its own.

The socket is shared with the parent, TLS and counters are copies: one byte more or
less, written or read here, and the link of the parent is lost.
"""

from fastnode.link.protocol cimport LinkProtocol

from fastnode.link.machine import Event


def orphan(LinkProtocol protocol not None, error):
    """Make a link raise `error` wherever it is used, and write nothing any more.

    Returns the descriptor of its socket, -1 if there is none.
    """
    cdef object transport = protocol.transport
    cdef object sock = None
    if transport is not None:
        sock = transport.get_extra_info("socket")
    protocol.transport = None
    protocol.outbox.write = None
    protocol.outbox.close(error)
    protocol.enter(Event.END)
    protocol.ended = True
    protocol.error = error
    protocol.decoder.clear()
    protocol.calls.close(error)
    protocol.keepalive.close(error)
    protocol.stop_timer()
    for waiter in (protocol.established, protocol.gone):
        if not waiter.done():
            waiter.set_exception(error)
            waiter.exception()
    return sock.fileno() if sock is not None else -1
