"""Encoder: it makes frames of messages, and chooses the lane that sends next.

Payloads up to COPY_BYTES are copied into a slab behind their header. Larger payloads
are cut into frames of `max_frame` bytes. These frames refer to the user's `bytes`
object.

Theory of operation. After each frame, the next frame may come from another lane. The
order is control (everything that keeps a link alive), replies, inner, high. Then data,
bulk and bulk replies take turns. A message of several frames goes into bulk, and a
message of one frame into data. The same holds for replies, so small replies pass
between the frames of large ones. Messages to one endpoint keep their order across data
and bulk. While a message to an endpoint is queued in bulk, all later messages to the
endpoint go into bulk too. And a message of several frames waits at a *barrier* until
the data lane has sent all frames that were queued before it.

If memory runs out, a method that queues raises, and none of its frames is queued. A
frame of at most SMALL_BYTES to an endpoint with a number is one step of its lane, which
happens completely or not at all. So is a larger frame that is copied into the current
slab. An operation of several steps begins with a mark of the lane, and is rolled back
to the mark if a step fails.

The peer may pause an endpoint. Then later messages for this endpoint wait in `parked`.
See `fastnode.wire.parking`.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from fastnode.buffers.pool cimport BufferPool
from fastnode.wire.extension cimport TIME_LEFT_AT
from fastnode.wire.frame cimport (
    BLOCK_BYTES,
    CALL,
    CALL_BYTES,
    CONFIRM,
    CONTINUE,
    CONTROL_LANE,
    DATA_LANE,
    BULK_LANE,
    BULK_REPLY_LANE,
    ENDPOINT,
    ERROR,
    EXTENDED,
    HEADER_BYTES,
    HIGH_LANE,
    INNER_LANE,
    LANES,
    LANE_SHIFT,
    MESSAGE,
    MORE,
    NESTED,
    REPLY,
    REPLY_LANE,
    TOTAL_BYTES,
    prefix_size,
    put16,
    put32,
    put64,
    put_header,
)
from fastnode.wire.lane cimport Lane, LaneMark, Segment
from fastnode.wire.parked cimport Parked

from collections import deque

from fastnode.errors import ConfigError
from fastnode.limits import MAX_ENDPOINT_NAME_BYTES, MAX_FRAME_BYTES

cdef enum:
    # One TLS record: copying it costs less than a record that is not full.
    COPY_BYTES = 16 << 10
    # Copied in one piece behind their header, however little room a slab has left.
    SMALL_BYTES = 4 << 10
    # Names of which it is remembered until where they are queued in bulk; beyond it,
    # those that have left are forgotten.
    MOST_PENDING = 4096

cdef size_t NAME_BYTES = MAX_ENDPOINT_NAME_BYTES


cdef bint fits_in_slab(Lane lane, size_t prefix, size_t size) noexcept:
    """Whether a payload is to be copied in one piece behind its prefix, because the
    slab at the end of the lane has room for both."""
    return (
        size <= COPY_BYTES
        and lane.tail is not None
        and lane.tail.capacity - lane.tail_used >= prefix + size
    )


cdef inline int in_one_step(
    Lane lane,
    uint8_t kind,
    uint8_t flags,
    uint16_t number,
    uint32_t call,
    const unsigned char *data,
    size_t prefix,
    size_t size,
) except -1:
    """Queue a frame without a block: a prefix, and `size` bytes that are copied."""
    cdef unsigned char *at = lane.room(prefix + size)
    put_header(at, kind, flags, number, <uint32_t>(prefix - HEADER_BYTES + size))
    if kind != MESSAGE:
        put32(at + HEADER_BYTES, call)
    memcpy(at + prefix, data, size)
    return lane.wrote(prefix + size, True)


@cython.final
cdef class Encoder:
    """Encodes what one side of a link sends.

    Args:
        pool: where slabs come from.
    """

    def __init__(self, BufferPool pool not None):
        self.lanes = tuple([Lane(pool, number) for number in range(LANES)])
        self.data = self.lanes[DATA_LANE]
        self.control = self.lanes[CONTROL_LANE]
        self.high = self.lanes[HIGH_LANE]
        self.bulk = self.lanes[BULK_LANE]
        self.inner = self.lanes[INNER_LANE]
        self.replies = self.lanes[REPLY_LANE]
        self.bulk_replies = self.lanes[BULK_REPLY_LANE]
        self.max_frame = self.quick = MAX_FRAME_BYTES
        self.turn = DATA_LANE
        self.pending = {}
        self.parked = Parked()

    # --- the view from Python: tests, benchmarks ------------------------------

    def limit(self, size_t max_frame, Py_ssize_t endpoints):
        """Set what the peer takes: bytes of a frame, names in its dictionary."""
        self.set_limits(max_frame, endpoints)

    def add_message(
        self, str endpoint not None, bytes payload not None, int priority=DATA_LANE
    ):
        """Queue a one-way message. `payload` is kept alive until it is taken."""
        self.message(endpoint, payload, priority)

    def add_call(
        self,
        str endpoint not None,
        uint32_t call,
        bytes payload not None,
        int priority=DATA_LANE,
        *,
        bint nested=False,
    ):
        """Queue a call with this number; `nested`: a handler makes it."""
        self.call(CALL, endpoint, call, payload, priority, nested, None, 0)

    def add_confirm(self, str endpoint not None, uint32_t call, bytes payload not None):
        """Queue a message whose confirmation has this number."""
        self.call(CONFIRM, endpoint, call, payload, DATA_LANE, False, None, 0)

    def add_extended(
        self,
        uint8_t kind,
        str endpoint not None,
        uint32_t call,
        bytes payload not None,
        bytes block not None,
        int priority=DATA_LANE,
        *,
        bint nested=False,
        double deadline=0,
    ):
        """Queue a MESSAGE, CALL or CONFIRM with an extension block."""
        self.call(kind, endpoint, call, payload, priority, nested, block, deadline)

    def add_reply(
        self, uint32_t call, bytes payload not None, bytes block=None
    ):
        """Queue the reply to the call with this number."""
        self.reply(call, payload, block)

    def add_error(self, bytes body not None, *, bint extended=False):
        """Queue an ERROR. `extended`: its body has an extension block."""
        self.small_frame(ERROR, EXTENDED if extended else 0, 0, body)

    def add_frame(self, uint8_t kind, uint16_t number, bytes body not None):
        """Queue a frame without a user's payload."""
        self.small_frame(kind, 0, number, body)

    def grant(self, int lane, int64_t credit):
        """Set what the peer takes in a lane, bytes."""
        (<Lane>self.lanes[lane]).credit = credit

    def take(self, runs=None, double now=0):
        """Queued bytes as one `bytes` object.

        Args:
            runs: how many times a lane is chosen, within its credit; None: all bytes,
                whatever the credit.
            now: the time, on the clock of the deadlines.
        """
        cdef list pieces = []
        cdef Lane lane
        cdef Segment *segment
        cdef bint ends
        while runs is None or runs > 0:
            if runs is None:
                for lane in self.lanes:
                    lane.credit = 1
            else:
                runs -= 1
            lane = self.next_lane()
            if lane is None:
                break
            ends = False
            while not ends:
                segment = lane.front()
                if lane.stamp_count:
                    lane.stamp(segment.size, now)
                ends = segment.ends
                pieces.append((<const char *>segment.data)[:segment.size])
                lane.credit -= <int64_t>segment.size
                lane.pop()
        return b"".join(pieces)

    @property
    def queued(self):
        """Bytes in all lanes."""
        return self.size()

    def clear(self):
        """Give up what is queued and return all slabs."""
        cdef Lane lane
        for lane in self.lanes:
            lane.clear()
        self.pending.clear()
        self.barriers = self.ends = None
        self.barred = False
        self.parked.clear()
        self.parks = False
        self.quick = self.max_frame

    # --- the view from Cython -------------------------------------------------

    cdef int set_limits(self, size_t max_frame, Py_ssize_t endpoints) except -1:
        cdef Lane lane
        if endpoints < 1 or max_frame < 1024:
            raise ValueError("limits that no peer may have")
        self.max_frame = max_frame
        self.quick = 0 if self.parks else max_frame
        for lane in self.lanes:
            lane.book.size = endpoints
        return 0

    cdef Lane next_lane(self):
        """Return the next lane, or None. Call this only between two frames."""
        if self.barred:
            self.pass_barriers()
        if self.control.count:
            return self.control
        if self.replies.count:
            return self.replies
        if self.inner.count and self.inner.credit > 0:
            return self.inner
        if self.high.count and self.high.credit > 0:
            return self.high
        return self.next_in_turn()

    cdef Lane next_in_turn(self):
        """Return data, bulk or bulk replies, the one in turn first; or None."""
        cdef int _
        for _ in range(3):
            if self.turn == DATA_LANE:
                self.turn = BULK_LANE
                if self.data.count and self.data.credit > 0:
                    return self.data
            elif self.turn == BULK_LANE:
                self.turn = BULK_REPLY_LANE
                if self.bulk_ready():
                    return self.bulk
            else:
                self.turn = DATA_LANE
                if self.bulk_replies.count and self.bulk_replies.credit > 0:
                    return self.bulk_replies
        return None

    cdef bint bulk_ready(self) noexcept:
        """Return whether bulk may send: it has credit, and is not at a barrier."""
        if self.bulk.count == 0 or self.bulk.credit <= 0:
            return False
        return not self.barred or self.bulk.sent < self.barrier

    cdef int pass_barriers(self) except -1:
        """Forget barriers that data has reached."""
        while self.barred and self.data.sent >= self.behind:
            self.barriers.popleft()
            self.next_barrier()
        return 0

    cdef int next_barrier(self) except -1:
        self.barred = bool(self.barriers)
        if self.barred:
            self.barrier, self.behind = self.barriers[0]
        return 0

    cdef int bar(self, uint64_t barrier) except -1:
        """Let bulk stop at a position until data has sent everything queued now."""
        if self.barriers is None:
            self.barriers = deque()
        self.barriers.append((barrier, self.data.sent + self.data.size))
        if not self.barred:
            self.next_barrier()
        return 0

    cdef int unbar(self, uint64_t barrier) except -1:
        """Forget the newest barrier if it is there."""
        cdef Py_ssize_t count = len(self.barriers) if self.barriers else 0
        if count and <uint64_t>self.barriers[count - 1][0] == barrier:
            self.barriers.pop()
            self.next_barrier()
        return 0

    cdef Lane lane_for(self, str endpoint, size_t size):
        """Return data or bulk for a message of so many bytes, header included."""
        cdef object until
        if size > self.max_frame:
            return self.bulk
        if self.bulk.count == 0:
            return self.data
        until = self.pending.get(endpoint)
        if until is None or <uint64_t>until <= self.bulk.sent:
            return self.data
        return self.bulk

    cdef int went(self, str endpoint, Lane lane) except -1:
        """Remember that a message to `endpoint` was queued, if the lane is bulk."""
        if lane is self.bulk:
            if len(self.pending) >= MOST_PENDING:
                self.pending = {
                    name: until
                    for name, until in self.pending.items()
                    if <uint64_t>until > self.bulk.sent
                }
            self.pending[endpoint] = self.bulk.sent + self.bulk.size
        return 0

    cdef int announce(self, str name, Lane lane) except -1:
        """Queue the name that gets the next number of a lane, and return the number.

        The book gets the name only after all frames with the number are queued. So the
        book needs no roll-back if memory runs out.
        """
        cdef bytes text = name.encode("utf-8")
        cdef unsigned char *at
        cdef Py_ssize_t number = lane.book.next
        if not 0 < <size_t>len(text) <= NAME_BYTES:
            raise ConfigError(
                f"an endpoint's name has 1 to {NAME_BYTES} bytes, "
                f"this one has {len(text)}"
            )
        at = lane.room(HEADER_BYTES + len(text))
        put_header(
            at,
            ENDPOINT,
            <uint8_t>(lane.number << LANE_SHIFT),
            <uint16_t>number,
            <uint32_t>len(text),
        )
        memcpy(at + HEADER_BYTES, PyBytes_AS_STRING(text), len(text))
        lane.wrote(HEADER_BYTES + len(text), True)
        return <int>number

    cdef int message(self, str endpoint, bytes payload, int priority) except -1:
        cdef Lane lane = self.data
        cdef int number
        cdef size_t size = HEADER_BYTES + PyBytes_GET_SIZE(payload)
        if priority == DATA_LANE and size <= self.quick and self.bulk.count == 0:
            # The hot path: there is nothing to overtake, and nothing is parked.
            number = lane.book.find(endpoint)
            if number >= 0 and (
                size <= HEADER_BYTES + SMALL_BYTES
                or fits_in_slab(lane, HEADER_BYTES, size - HEADER_BYTES)
            ):
                return in_one_step(
                    lane,
                    MESSAGE,
                    0,
                    <uint16_t>number,
                    0,
                    <const unsigned char *>PyBytes_AS_STRING(payload),
                    HEADER_BYTES,
                    size - HEADER_BYTES,
                )
            if number >= 0:
                return self.payload(
                    lane, MESSAGE, 0, <uint16_t>number, 0, payload, None, 0
                )
        if self.parks and self.parked.park(
            MESSAGE, endpoint, 0, payload, priority, False, None, 0
        ):
            return 0
        if priority == DATA_LANE:
            lane = self.lane_for(endpoint, size)
        else:
            lane = self.high
        return self.queue(lane, MESSAGE, 0, endpoint, 0, payload, None, 0)

    cdef int call(
        self,
        uint8_t kind,
        str endpoint,
        uint32_t call,
        bytes payload,
        int priority,
        bint nested,
        bytes block,
        double deadline,
    ) except -1:
        """Queue a CALL or CONFIRM, or a MESSAGE with an extension block.

        Args:
            block: the extension block, or None.
            deadline: if it is not 0, the first field of the block is the deadline, and
                gets the time that is left when the frame leaves.
        """
        cdef Lane lane
        cdef size_t size = prefix_size(kind, block) + <size_t>PyBytes_GET_SIZE(payload)
        if self.parks and self.parked.park(
            kind, endpoint, call, payload, priority, nested, block, deadline
        ):
            return 0
        if nested and self.held_up(size, priority):
            lane = self.inner
        elif priority == DATA_LANE:
            lane = self.lane_for(endpoint, size)
        else:
            lane = self.high
        return self.queue(
            lane,
            kind,
            NESTED if nested else 0,
            endpoint,
            call,
            payload,
            block,
            deadline,
        )

    cdef int queue(
        self,
        Lane lane,
        uint8_t kind,
        uint8_t flags,
        str endpoint,
        uint32_t call,
        bytes payload,
        bytes block,
        double deadline,
    ) except -1:
        """Queue a message or call in a lane, with the name of its endpoint if that has
        no number; `block` is its extension block, or None. If this raises, nothing is
        queued, and the endpoint has no number."""
        cdef LaneMark mark
        cdef size_t size = prefix_size(kind, block) + <size_t>PyBytes_GET_SIZE(payload)
        cdef int number = lane.book.find(endpoint)
        cdef bint is_new = number < 0
        cdef bint barred = (
            lane is self.bulk
            and self.data.count > 0
            and size > self.max_frame
        )
        flags |= <uint8_t>(lane.number << LANE_SHIFT)
        if not is_new and lane is not self.bulk:
            return self.payload(
                lane, kind, flags, <uint16_t>number, call, payload, block, deadline
            )
        lane.mark(&mark)
        try:
            if barred:
                lane.open = False
            if is_new:
                number = self.announce(endpoint, lane)
            self.payload(
                lane, kind, flags, <uint16_t>number, call, payload, block, deadline
            )
            if barred:
                self.bar(lane.sent + mark.size)
            # If a later step fails, later messages to the endpoint wait without need
            # until bulk has reached this position.
            self.went(endpoint, lane)
            if is_new:
                if lane.book.replaced() is not None:
                    lane.renames(lane.sent + mark.size, endpoint)
                lane.book.add(endpoint)
        except BaseException:
            lane.roll_back(&mark)
            if barred:
                self.unbar(lane.sent + lane.size)
            raise
        return 0

    cdef bint held_up(self, size_t size, int priority) noexcept:
        """Return whether a frame of a call would have to wait for credit in its lane.

        A handler that waits for the call holds a part of our window. So such a call
        must not wait for credit.
        """
        cdef Lane lane = self.high
        if self.inner.count:
            return True
        if priority == DATA_LANE:
            lane = self.bulk if size > self.max_frame or self.bulk.count else self.data
            if lane is self.bulk and self.data.credit <= <int64_t>self.data.size:
                return True
        # The headers of further frames are less than a thousandth of the size.
        return lane.credit < <int64_t>(lane.size + size + size // 1024)

    cdef int reply(self, uint32_t call, bytes payload, bytes block) except -1:
        """Queue a reply; `block` is its extension block, or None."""
        cdef Lane lane = self.bulk_replies
        cdef LaneMark mark
        cdef size_t size = prefix_size(REPLY, block) + <size_t>PyBytes_GET_SIZE(payload)
        if size <= self.max_frame:
            return self.payload(self.replies, REPLY, 0, 0, call, payload, block, 0)
        if lane.count == 0:
            self.ends = deque()
        lane.mark(&mark)
        try:
            self.payload(lane, REPLY, 0, 0, call, payload, block, 0)
            self.ends.append(lane.sent + lane.size)
        except BaseException:
            lane.roll_back(&mark)
            raise
        return 0

    cdef size_t unread(self) except? 0:
        """Return the queued bytes of replies, without the large reply that is being
        sent."""
        cdef size_t size = self.control.size + self.replies.size
        cdef uint64_t sent = self.bulk_replies.sent
        if self.bulk_replies.count == 0:
            return size
        while <uint64_t>self.ends[0] <= sent:
            self.ends.popleft()
        return size + self.bulk_replies.size - <size_t>(<uint64_t>self.ends[0] - sent)

    cdef int small_frame(
        self, uint8_t kind, uint8_t flags, uint16_t number, bytes body
    ) except -1:
        """Queue a frame without a user's payload, in the lane of its kind."""
        return self.frame(
            self.replies if kind == ERROR else self.control,
            kind,
            flags,
            number,
            <const unsigned char *>PyBytes_AS_STRING(body),
            PyBytes_GET_SIZE(body),
        )

    cdef int frame(
        self,
        Lane lane,
        uint8_t kind,
        uint8_t flags,
        uint16_t number,
        const unsigned char *body,
        size_t size,
    ) except -1:
        """Queue a small frame whose body is `size` bytes at `body`."""
        cdef unsigned char *at = lane.room(HEADER_BYTES + size)
        put_header(at, kind, flags, number, <uint32_t>size)
        if size:
            memcpy(at + HEADER_BYTES, body, size)
        lane.wrote(HEADER_BYTES + size, True)
        return 0

    cdef int payload(
        self,
        Lane lane,
        uint8_t kind,
        uint8_t flags,
        uint16_t number,
        uint32_t call,
        bytes payload,
        bytes block,
        double deadline,
    ) except -1:
        """Queue a payload, with its extension block if that is not None: all of its
        frames, or nothing."""
        cdef size_t size = PyBytes_GET_SIZE(payload)
        cdef size_t prefix = HEADER_BYTES if kind == MESSAGE else (
            HEADER_BYTES + CALL_BYTES
        )
        if size > SMALL_BYTES or block is not None or prefix + size > self.max_frame:
            return self.in_steps(
                lane, kind, flags, number, call, payload, block, deadline
            )
        return in_one_step(
            lane,
            kind,
            flags,
            number,
            call,
            <const unsigned char *>PyBytes_AS_STRING(payload),
            prefix,
            size,
        )

    cdef int in_steps(
        self,
        Lane lane,
        uint8_t kind,
        uint8_t flags,
        uint16_t number,
        uint32_t call,
        bytes payload,
        bytes block,
        double deadline,
    ) except -1:
        """The same for what is not small, or has an extension block. What is large is
        not copied: the frames refer to it."""
        cdef LaneMark mark
        cdef size_t size = PyBytes_GET_SIZE(payload)
        cdef const unsigned char *data = (
            <const unsigned char *>PyBytes_AS_STRING(payload)
        )
        cdef size_t prefix = prefix_size(kind, block)
        cdef size_t part = size
        cdef size_t block_size
        cdef bint more = prefix + size > self.max_frame
        cdef unsigned char *at
        if block is None and not more and fits_in_slab(lane, prefix, size):
            return in_one_step(lane, kind, flags, number, call, data, prefix, size)
        if more:
            prefix += TOTAL_BYTES
            part = self.max_frame - prefix
            flags |= MORE
        if block is not None:
            flags |= EXTENDED
        lane.mark(&mark)
        try:
            if deadline:
                lane.expect_stamp()
            at = lane.room(prefix)
            put_header(
                at, kind, flags, number, <uint32_t>(prefix - HEADER_BYTES + part)
            )
            at += HEADER_BYTES
            if kind != MESSAGE:
                put32(at, call)
                at += CALL_BYTES
            if more:
                put64(at, <uint64_t>size)
                at += TOTAL_BYTES
            if block is not None:
                block_size = PyBytes_GET_SIZE(block)
                put16(at, <uint16_t>block_size)
                memcpy(at + BLOCK_BYTES, PyBytes_AS_STRING(block), block_size)
                if deadline:
                    lane.add_stamp(at + BLOCK_BYTES + TIME_LEFT_AT, deadline)
            lane.wrote(prefix, size == 0)
            if more or size > COPY_BYTES:
                lane.refer(payload, data, part, True)
                self.continued(lane, payload, data + part, size - part)
            else:
                lane.copy(data, size, True)
        except BaseException:
            lane.roll_back(&mark)
            raise
        return 0

    cdef int continued(
        self, Lane lane, bytes payload, const unsigned char *data, size_t left
    ) except -1:
        """Queue the rest of a payload of several frames: `left` bytes at `data`."""
        cdef size_t part
        cdef bint more
        cdef unsigned char *at
        while left:
            part = min(left, self.max_frame - HEADER_BYTES)
            more = part < left
            at = lane.room(HEADER_BYTES)
            put_header(
                at,
                CONTINUE,
                MORE if more else 0,
                <uint16_t>lane.number,
                <uint32_t>part,
            )
            lane.wrote(HEADER_BYTES, False)
            lane.refer(payload, data, part, True)
            left -= part
            data += part
        return 0

    cdef size_t unsent(self) noexcept:
        """Messages and calls that are queued, or whose last frame is.

        Walks over all frames: for the end of a link.
        """
        return (
            self.data.messages()
            + self.high.messages()
            + self.bulk.messages()
            + self.inner.messages()
            + self.parked.messages()
        )
