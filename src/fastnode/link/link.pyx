"""What users hold of a link."""

cimport cython

from fastnode.link.calls cimport CallTable
from fastnode.sending.outbox cimport Outbox
from fastnode.wire.extension cimport make_block
from fastnode.wire.frame cimport DATA_LANE, HIGH_LANE

import os

from fastnode.errors import CloseReason, ConfigError, SendQueueFull
from fastnode.limits import CLOSE_TIMEOUT_SECONDS
from fastnode.names import check_timeout

# Of the id of a request.
cdef int REQUEST_ID_BYTES = 16


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

    def send(self, str endpoint not None, payload, *, priority=None, metadata=None):
        """Queue a one-way message; never blocks. It leaves with whatever else is
        queued in this turn of the loop.

        Args:
            endpoint: the name of the endpoint, 1 to 255 bytes of UTF-8.
            payload: `bytes`. A large one is not copied, and is kept alive until it was
                sent. A `bytearray` or `memoryview` is copied.
            priority: "high" overtakes what is queued without; None: "normal". The
                order of messages to one endpoint holds for each priority.
            metadata: a mapping of `str` to `str`, for the handler: names as in HTTP
                header fields, at most 64 entries and 16 KiB. Names arrive in lower
                case. A peer of an older version gets none, which is logged once.

        Raises:
            LinkClosed: the link is closed, or lost (`LinkLost`).
            MessageTooLarge: larger than this node or the peer allows.
            SendQueueFull: too much is queued; nothing was queued.
            TypeError: `payload` is none of these; text has to be encoded first.
            ConfigError: there is no such `priority`, the metadata breaks a rule, or it
                is another thread's link.
        """
        if metadata is not None:
            self.send_with(endpoint, payload, lane_of(priority), metadata)
        else:
            self.outbox.send(
                endpoint, payload, DATA_LANE if priority is None else lane_of(priority)
            )

    cdef int send_with(
        self, str endpoint, object payload, int priority, object metadata
    ) except -1:
        """Send a message with metadata."""
        cdef bytes block = make_block(False, None, 1, metadata)
        if block is not None and not self.outbox.extensions:
            self.calls.say_no_metadata()
            block = None
        if block is None:
            return self.outbox.send(endpoint, payload, priority)
        return self.outbox.send_with(endpoint, payload, priority, block)

    def call(
        self,
        str endpoint not None,
        payload,
        *,
        timeout=None,
        priority=None,
        metadata=None,
        bint inherit_deadline=True,
    ):
        """Send a call and wait for the reply of its handler.

        Args:
            timeout: seconds; None waits as long as the link lasts. The time that is
                left travels with the call, see `Message.deadline`.
            priority: of the call, as for `send`; replies have one of their own.
            metadata: as for `send`.
            inherit_deadline: in an ``async`` handler whose own message has a deadline,
                the call takes no longer than what is left until then. False: it does
                not look at that.

        Raises:
            CallTimeout: no reply in time; the handler is cancelled, or never begun.
            NoSuchEndpoint: the peer has no such endpoint.
            RemoteError: the handler raised.
            LinkClosed, MessageTooLarge, SendQueueFull, TypeError, ConfigError: as for
                `send`; ConfigError also for a `timeout` below 0.
        """
        return self.calls.call(
            endpoint,
            payload,
            timeout,
            False,
            lane_of(priority),
            metadata,
            inherit_deadline,
        )

    def request(
        self,
        str endpoint not None,
        payload,
        *,
        timeout=None,
        priority=None,
        metadata=None,
        bint inherit_deadline=True,
    ):
        """Send a call and wait for its `Reply`: what the handler returned, and the
        metadata that it sent with it. The request has an id, see `Message.id`.

        Args:
            As for `call`.

        Raises:
            As `call`.
        """
        return self.calls.call(
            endpoint,
            payload,
            timeout,
            False,
            lane_of(priority),
            metadata,
            inherit_deadline,
            os.urandom(REQUEST_ID_BYTES),
        )

    async def send_confirmed(
        self,
        str endpoint not None,
        payload,
        *,
        timeout=None,
        priority=None,
        metadata=None,
        bint inherit_deadline=True,
    ):
        """Send a one-way message and wait until the peer's node has handed it to its
        handler: a plain handler has returned, an ``async`` one has its task.

        It does not wait for room in the queue: ``Node.send(confirm=True)`` does.

        Args:
            timeout: seconds; None waits as long as the link lasts.
            priority: as for `send`.
            metadata: as for `send`.
            inherit_deadline: as for `call`.

        Raises:
            CallTimeout: not confirmed in time. It is not handed over any more, unless
                it has been.
            NoSuchEndpoint: the peer has no such endpoint.
            RemoteError: the plain handler raised.
            LinkLost: the link was lost; it may have been handed over.
            LinkClosed, MessageTooLarge, SendQueueFull, TypeError, ConfigError: as for
                `send`; ConfigError also for a `timeout` below 0.
        """
        await self.calls.call(
            endpoint,
            payload,
            timeout,
            True,
            lane_of(priority),
            metadata,
            inherit_deadline,
        )

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
                something was still queued. A later call with a shorter timeout
                shortens the first one.

        The end waits for handlers, so in a handler of this peer's messages this begins
        the end and returns at once. The reply of the handler leaves before the end.

        Raises:
            ConfigError: `timeout` is no number of seconds, or below 0.
        """
        timeout = check_timeout(timeout)
        self.outbox.check_loop()
        self.protocol.begin_close(CloseReason.CLOSED, timeout)
        if not self.protocol.awaited_here:
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
    def leaving(self):
        """True when the peer has said that its node stops. The link still works. It is
        closed in order when no call and no handler is under way on it. A node that is
        given the peer's name uses another link."""
        return self.protocol.extensions.leaving

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


def protocol_of(Link link not None):
    """Return the `LinkProtocol` of a link. For nodes and services, not for users."""
    return link.protocol


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
