"""What users hold of a link."""

cimport cython
from libc.stdint cimport uint64_t

from fastnode.dispatch.dispatcher cimport Dispatcher
from fastnode.link.calls cimport CallTable
from fastnode.link.connection cimport Connection
from fastnode.sending.outbox cimport Outbox
from fastnode.wire.frame cimport DATA_LANE, HIGH_LANE

from fastnode.errors import CloseReason, ConfigError, SendQueueFull
from fastnode.limits import CLOSE_TIMEOUT_SECONDS
from fastnode.link.stats import LinkStats


cdef int lane_of(object priority) except -1:
    """The lane of what is sent with this priority."""
    if priority is None or priority == "normal":
        return DATA_LANE
    if priority == "high":
        return HIGH_LANE
    raise ConfigError(
        f"there is no priority {priority!r}", hint='it is "normal" or "high"'
    )


@cython.final
cdef class Link:
    """One connection to a peer, after both sides agreed on names and limits.

    Made by `Node.connect` and by acceptors. It belongs to the loop that made it.

    Attributes:
        peer: the `Peer` at the other end: name, address, certificate, whether that was
            verified.
    """

    def __init__(
        self, protocol, Outbox outbox not None, CallTable calls not None, peer
    ):
        self.protocol = protocol
        self.outbox = outbox
        self.calls = calls
        self.peer = peer

    def send(self, str endpoint not None, payload, *, priority=None):
        """Queue a one-way message; never blocks. It leaves with whatever else is
        queued in this turn of the loop.

        Args:
            endpoint: the name of the endpoint, 1 to 255 bytes of UTF-8.
            payload: `bytes`. A large one is not copied, and is kept alive until it was
                sent. A `bytearray` or `memoryview` is copied.
            priority: "high" overtakes what is queued without; None: "normal". The
                order of messages to one endpoint holds for each priority.

        Raises:
            LinkClosed: the link is closed, or lost (`LinkLost`).
            MessageTooLarge: larger than this node or the peer allows.
            SendQueueFull: too much is queued; nothing was queued.
            TypeError: `payload` is none of these; text has to be encoded first.
            ConfigError: there is no such `priority`, or it is another thread's link.
        """
        self.outbox.send(
            endpoint, payload, DATA_LANE if priority is None else lane_of(priority)
        )

    def call(self, str endpoint not None, payload, *, timeout=None, priority=None):
        """Send a call and wait for the reply of its handler.

        Args:
            timeout: seconds; None waits as long as the link lasts.
            priority: of the call, as for `send`; replies have one of their own.

        Raises:
            CallTimeout: no reply in time; the handler is cancelled, or never begun.
            NoSuchEndpoint: the peer has no such endpoint.
            RemoteError: the handler raised.
            LinkClosed, MessageTooLarge, SendQueueFull, TypeError, ConfigError: as for
                `send`; ConfigError also for a `timeout` below 0.
        """
        return self.calls.call(endpoint, payload, timeout, False, lane_of(priority))

    async def send_confirmed(
        self, str endpoint not None, payload, *, timeout=None, priority=None
    ):
        """Send a one-way message and wait until the peer's node has handed it to its
        handler: a plain handler has returned, an ``async`` one has its task.

        It does not wait for room in the queue: ``Node.send(confirm=True)`` does.

        Args:
            timeout: seconds; None waits as long as the link lasts.

        Raises:
            CallTimeout: not confirmed in time. It is not handed over any more, unless
                it has been.
            NoSuchEndpoint: the peer has no such endpoint.
            RemoteError: the plain handler raised.
            LinkLost: the link was lost; it may have been handed over.
            LinkClosed, MessageTooLarge, SendQueueFull, TypeError, ConfigError: as for
                `send`; ConfigError also for a `timeout` below 0.
        """
        await self.calls.call(endpoint, payload, timeout, True, lane_of(priority))

    def drain(self):
        """Wait while more than ``high_water`` is queued on this link, until it is
        ``low_water`` or less; and while more than 3/4 of ``max_node_queued`` are queued
        on all links of the node.

        Raises:
            LinkClosed: the link ended while waiting, or before.
        """
        return self.outbox.drain()

    def ping(self):
        """Wait for an answer of the peer's node and return the round trip, seconds;
        as for a reply, the loop polls for it (``NetworkOptions.busy_poll``).

        Raises:
            LinkClosed: the link ended.
        """
        return self.protocol.ping()

    async def close(self, timeout=CLOSE_TIMEOUT_SECONDS):
        """End the link in order: what is queued leaves, handlers under way finish,
        both sides say goodbye.

        Args:
            timeout: seconds. When they are over, the link ends with `LinkLost` if
                something was still queued.
        """
        self.outbox.check_loop()
        self.protocol.begin_close(CloseReason.CLOSED, timeout)
        await self.wait_closed()

    async def wait_closed(self):
        """Wait until the connection is gone, for whatever reason."""
        self.outbox.check_loop()
        await self.protocol.wait_gone()

    @property
    def closed(self):
        """True when nothing can be sent any more."""
        return self.outbox.closed is not None

    @property
    def error(self):
        """Why the link ended, a `LinkClosed` or other error; None while it is up."""
        return self.protocol.error

    @property
    def dialed(self):
        """True on the side that made the connection."""
        return self.protocol.dialer

    @property
    def stats(self):
        """A `LinkStats` snapshot of the link's counters."""
        return self.protocol.stats()

    def __repr__(self):
        state = "closed" if self.closed else "up"
        return f"<Link to {self.peer}, {state}>"


def stats_of(
    Connection connection not None, Dispatcher dispatcher not None, uint64_t dropped
):
    """Return a snapshot of the counters of a link; `dropped`: by the peer."""
    cdef Outbox outbox = connection.outbox
    return LinkStats(
        messages_sent=outbox.messages,
        messages_received=dispatcher.handlers.messages_received,
        calls_sent=outbox.calls,
        calls_received=dispatcher.calls_received,
        bytes_sent=outbox.bytes_written,
        bytes_received=connection.bytes_received,
        queued_bytes=outbox.size(),
        credit_bytes=max(outbox.encoder.data.credit, 0),
        unhandled_messages=dispatcher.handlers.unhandled,
        handler_errors=dispatcher.handlers.errors,
        messages_dropped_by_peer=dropped,
    )


async def room(Link link not None, size_t size):
    """Wait until a payload of `size` bytes may be queued, and the node is not so full
    that whoever can wait should. Holds until the loop turns.

    Raises:
        LinkClosed: the link ended while waiting, or before.
        MessageTooLarge: larger than this node or the peer allows.
    """
    cdef Outbox outbox = link.outbox
    while is_full(outbox, size):
        # It may take an empty queue.
        await outbox.less()


cdef bint is_full(Outbox outbox, size_t size) except -1:
    cdef bint full = outbox.budget.used > outbox.budget.high
    try:
        outbox.check(size)
    except SendQueueFull:
        full = True
    return full
