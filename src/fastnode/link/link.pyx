"""The public class of a link."""

cimport cython

from fastnode.link.calls cimport CallTable
from fastnode.sending.outbox cimport Outbox
from fastnode.wire.extension cimport make_block
from fastnode.wire.frame cimport DATA_LANE, HIGH_LANE

import os

from fastnode.errors import CloseReason, ConfigError, SendQueueFull
from fastnode.limits import CLOSE_TIMEOUT_SECONDS
from fastnode.names import check_timeout

# The length of a request id.
cdef int REQUEST_ID_BYTES = 16


cdef int lane_of(object priority) except -1:
    """Return the lane for messages with a priority."""
    if priority is None or priority == "normal":
        return DATA_LANE
    if priority == "high":
        return HIGH_LANE
    raise ConfigError(
        f"there is no priority {priority!r}", hint='it is "normal" or "high"'
    )


@cython.final
cdef class Link:
    """A connection to a peer, after both sides have agreed on names and limits.

    `Node.connect` and acceptors make links. A link belongs to the loop that made it.

    Attributes:
        peer: the `Peer` at the other end: its name, its address, its certificate, and
            whether the certificate was verified.
    """

    def __init__(
        self, protocol, Outbox outbox not None, CallTable calls not None, peer
    ):
        self.protocol = protocol
        self.outbox = outbox
        self.calls = calls
        self.peer = peer

    def send(self, str endpoint not None, payload, *, priority=None, metadata=None):
        """Queue a one-way message. This method never blocks.

        The message leaves together with all others of this turn of the loop.

        Args:
            endpoint: the name of the endpoint, 1 to 255 bytes of UTF-8.
            payload: `bytes`, `bytearray` or `memoryview`. Large `bytes` are not copied,
                and are kept alive until they are sent. The other types are copied.
            priority: "high" overtakes queued messages with "normal"; None means
                "normal". Messages to one endpoint keep their order within a priority.
            metadata: a mapping of `str` to `str` for the handler, with at most 64
                entries and 16 KiB. The names follow the rules of HTTP header fields,
                and arrive in lower case. A peer of an older version gets no metadata,
                and the node logs this once.

        Raises:
            LinkClosed: the link is closed, or lost (`LinkLost`).
            MessageTooLarge: the payload is larger than this node or the peer allows.
            SendQueueFull: the queue is full, so the message was not queued.
            TypeError: `payload` has another type. Text has to be encoded first.
            ConfigError: `priority` is unknown, the metadata breaks a rule, or the link
                belongs to another thread.
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
            endpoint: same as in `send`.
            payload: same as in `send`.
            timeout: seconds; None waits as long as the link lasts. The time that is
                left is sent with the call, see `Message.deadline`.
            priority: of the call, as for `send`; replies have a priority of their own.
            metadata: same as in `send`.
            inherit_deadline: whether the deadline of the running ``async`` handler
                bounds the call, if its own message has a deadline.

        Raises:
            CallTimeout: no reply came in time. The handler is cancelled, or does not
                begin.
            NoSuchEndpoint: the peer has no such endpoint.
            RemoteError: the handler raised.
            LinkClosed, MessageTooLarge, SendQueueFull, TypeError, ConfigError: as for
                `send`; ConfigError also for a negative `timeout`.
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
        """Send a call and wait for its `Reply`, which has a payload and metadata.

        The arguments and errors are those of `call`. The request has an id, see
        `Message.id`.
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
        """Send a one-way message and wait until its handler has got it.

        The peer confirms the message when a plain handler has returned, or when an
        ``async`` handler has its task. This method does not wait for room in the queue.
        ``Node.send(confirm=True)`` does.

        Args:
            endpoint: same as in `send`.
            payload: same as in `send`.
            timeout: seconds; None waits as long as the link lasts.
            priority: same as in `send`.
            metadata: same as in `send`.
            inherit_deadline: same as in `call`.

        Raises:
            CallTimeout: no confirmation came in time. The handler does not get the
                message any more, unless it already has it.
            NoSuchEndpoint: the peer has no such endpoint.
            RemoteError: the plain handler raised.
            LinkLost: the link was lost. The handler may have got the message.
            LinkClosed, MessageTooLarge, SendQueueFull, TypeError, ConfigError: as for
                `send`; ConfigError also for a negative `timeout`.
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
        """Wait until this link, and the node, have room in their send queues.

        While more than ``high_water`` bytes are queued on this link, this method waits
        until ``low_water`` or fewer are left. It also waits while more than 3/4 of
        ``max_node_queued`` are queued on all links of the node.

        Raises:
            LinkClosed: the link ended before or during the wait.
        """
        return self.outbox.drain()

    def ping(self):
        """Ping the peer's node, and return the round trip in seconds.

        The loop polls for the answer, as for a reply (``NetworkOptions.busy_poll``).

        Raises:
            LinkClosed: the link ended.
        """
        return self.protocol.ping()

    async def close(self, timeout=CLOSE_TIMEOUT_SECONDS):
        """End the link in order.

        Queued messages leave, running handlers finish, and both sides send GOODBYE. A
        handler of this peer's messages may call this method too. Then it begins the end
        and returns at once, because the end waits for the handler. The reply of the
        handler leaves before the end.

        Args:
            timeout: seconds. After that time the link ends with `LinkLost` if something
                is still queued. A later call with a shorter timeout shortens the time.

        Raises:
            ConfigError: `timeout` is negative or not a number.
        """
        timeout = check_timeout(timeout)
        self.outbox.check_loop()
        self.protocol.begin_close(CloseReason.CLOSED, timeout)
        if not self.protocol.awaited_here:
            await self.wait_closed()

    async def wait_closed(self):
        """Wait until the connection is gone, for any reason."""
        self.outbox.check_loop()
        await self.protocol.wait_gone()

    @property
    def closed(self):
        """Whether nothing can be sent any more."""
        return self.outbox.closed is not None

    @property
    def leaving(self):
        """Whether the peer has said that its node stops.

        The link still works. It is closed in order when no call and no handler runs on
        it. `Node.call` and similar methods use another link to a node of this name.
        """
        return self.protocol.extensions.leaving

    @property
    def error(self):
        """The error that ended the link, such as `LinkClosed`; None while it is up."""
        return self.protocol.error

    @property
    def dialed(self):
        """Whether this side made the connection."""
        return self.protocol.dialer

    @property
    def stats(self):
        """A `LinkStats` snapshot of the link's counters."""
        return self.protocol.stats()

    def __repr__(self):
        state = "closed" if self.closed else "up"
        return f"<Link to {self.peer}, {state}>"


def protocol_of(Link link not None):
    """Return the `LinkProtocol` of a link. Nodes and services use it, users do not."""
    return link.protocol


async def room(Link link not None, size_t size):
    """Wait until the link and the node have room for a payload of `size` bytes.

    The room is certain only until the next turn of the loop.

    Raises:
        LinkClosed: the link ended before or during the wait.
        MessageTooLarge: the payload is larger than this node or the peer allows.
    """
    cdef Outbox outbox = link.outbox
    while is_full(outbox, size):
        # A large payload may fit into an empty queue only.
        await outbox.less()


cdef bint is_full(Outbox outbox, size_t size) except -1:
    cdef bint full = outbox.budget.used > outbox.budget.high
    try:
        outbox.check(size)
    except SendQueueFull:
        full = True
    return full
