"""The sending side of a link: it queues frames, and sends full TLS records.

All frames of one loop turn leave together. The first frame schedules a flush for the
end of the turn. When FLUSH_BYTES are queued, they are flushed at once, while they are
in the cache. A flush stops when the transport asks for a pause. A lane with flow
control also stops when its credit is used up.

The `QueueBudget` of a node counts the queued bytes of all its links. Each outbox
updates it whenever its queue has changed. Replies and control frames do not count.

If memory runs out while a frame is queued, the method raises and nothing is queued. So
a flush is scheduled first, which does no harm if no frame follows. If a flush fails,
the link ends. The bytes that the engine or the transport has taken may end inside a
frame. So nothing more is written, and the stream is `torn`.
"""

cimport cython
from cpython.bytes cimport PyBytes_CheckExact, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from fastnode.buffers.pool cimport BufferPool
from fastnode.buffers.slab cimport Slab
from fastnode.tls.engine cimport TlsEngine
from fastnode.wire.encoder cimport Encoder
from fastnode.wire.frame cimport (
    CALL,
    ERROR,
    EXTENDED,
    GOODBYE,
    LANES,
    MESSAGE,
    MOVED,
    has_credit,
)
from fastnode.wire.lane cimport Lane, Segment
from fastnode.wire.parking cimport Parking

import logging
from asyncio import get_running_loop
from threading import get_ident

from fastnode.errors import (
    ConfigError,
    MessageTooLarge,
    ProtocolError,
    SendQueueFull,
    Side,
    renewed,
)
from fastnode.limits import (
    BULK_WINDOW_BYTES,
    CONTROL_HIGH_WATER_BYTES,
    FLUSH_BYTES,
    NODE_QUEUE_BYTES,
    WINDOW_LIMIT_BYTES,
)
from fastnode.loggers import fields
from fastnode.tls.engine import TLS_ERRORS
from fastnode.wire.call_error import CODES, REPLY_TOO_LARGE, encode_call_error
from fastnode.wire.kinds import mask

log = logging.getLogger("fastnode.link")

cdef extern from "pythread.h":
    unsigned long PyThread_get_thread_ident() noexcept nogil

cdef enum:
    RECORD_BYTES = 16 << 10

cdef size_t FLUSH_AT = FLUSH_BYTES
cdef int64_t FIRST_BULK = BULK_WINDOW_BYTES
cdef int64_t CREDIT_LIMIT = WINDOW_LIMIT_BYTES
cdef size_t CROWDED_AT = CONTROL_HIGH_WATER_BYTES
# The kinds that may leave after our GOODBYE, as a bit mask.
cdef unsigned int AFTER_GOODBYE = mask(lambda kind: kind.after_goodbye)


@cython.final
cdef class QueueBudget:
    """Counts the queued bytes of a node's links.

    Args:
        most: the ceiling, bytes.
    """

    def __init__(self, size_t most=NODE_QUEUE_BYTES):
        self.most = most
        self.high = most - most // 4
        self.waiters = []

    cdef int shrink(self, size_t size) except -1:
        """Subtract bytes that are not queued any more."""
        self.used -= size
        # The mark is not lower, because stalled peers may keep bytes queued for ever.
        if self.used <= self.high and self.waiters:
            wake_all(self.waiters)
        return 0

    @property
    def crowded(self):
        """Return whether senders that can wait should wait."""
        return self.used > self.high

    def enter(self, waiter):
        """Set the result of a future when there is room again."""
        self.waiters.append(waiter)

    def leave(self, waiter):
        """Forget a future, because no code waits for it any more."""
        if waiter in self.waiters:
            self.waiters.remove(waiter)


@cython.final
cdef class Outbox:
    """Queues and sends the frames of one link."""

    def __init__(self, loop, TlsEngine engine not None, BufferPool pool not None):
        self.loop = loop
        self.engine = engine
        self.pool = pool
        self.encoder = Encoder(pool)
        self.parking = Parking(self.encoder)
        self.thread = get_ident()
        self.writable = True
        self.drainers = []
        self.budget = QueueBudget()

    cdef int begin(self, peer_hello, hello) except -1:
        """Use the limits that the peer named in its HELLO."""
        cdef Lane lane
        self.encoder.set_limits(peer_hello.max_frame, peer_hello.endpoints)
        self.max_message = peer_hello.max_message
        self.own_max_message = hello.max_message
        self.window = peer_hello.window
        for lane in self.encoder.lanes:
            lane.credit = peer_hello.window
        self.encoder.bulk.credit = min(self.window, FIRST_BULK)
        self.encoder.bulk_replies.credit = self.encoder.bulk.credit
        return 0

    # --- queueing -------------------------------------------------------------

    cdef int send(self, str endpoint, object payload, int priority) except -1:
        cdef bytes data
        if PyBytes_CheckExact(payload):
            data = <bytes>payload
        else:
            data = as_bytes(payload)
        self.check(PyBytes_GET_SIZE(data))
        if not self.scheduled:
            self.schedule()
        self.encoder.message(endpoint, data, priority)
        self.messages += 1
        return self.queued()

    cdef int call(
        self,
        uint8_t kind,
        str endpoint,
        uint32_t number,
        object payload,
        int priority,
        bint nested,
        bytes block,
        double deadline,
    ) except -1:
        """Queue a CALL or CONFIRM.

        The caller has to send it: by `schedule` before and `queued` after this method,
        or by `flush`.

        Args:
            block: the extension block, or None.
            deadline: the loop time at which the caller gives up; 0 for none. With a
                deadline, the block has room for the time that is left.
        """
        cdef bytes data
        if PyBytes_CheckExact(payload):
            data = <bytes>payload
        else:
            data = as_bytes(payload)
        self.check(PyBytes_GET_SIZE(data))
        self.encoder.call(
            kind, endpoint, number, data, priority, nested, block, deadline
        )
        if kind == CALL:
            self.calls += 1
        else:
            self.messages += 1
        return 0

    cdef int send_with(
        self, str endpoint, object payload, int priority, bytes block
    ) except -1:
        """Queue a one-way message with an extension block."""
        cdef bytes data = (
            <bytes>payload if PyBytes_CheckExact(payload) else as_bytes(payload)
        )
        self.check(PyBytes_GET_SIZE(data))
        self.schedule()
        self.encoder.call(MESSAGE, endpoint, 0, data, priority, False, block, 0)
        self.messages += 1
        return self.queued()

    cdef int reply(self, uint32_t number, bytes payload) except -1:
        """Queue a reply. If it is too large for the peer, queue an error instead."""
        return self.reply_with(number, payload, None)

    cdef int reply_with(self, uint32_t number, bytes payload, bytes block) except -1:
        """The same with an extension block, if that is not None."""
        if self.ended:
            return 0
        if <uint64_t>PyBytes_GET_SIZE(payload) > self.max_message:
            return self.refuse(
                number,
                REPLY_TOO_LARGE,
                "MessageTooLarge",
                f"it has {len(payload)} bytes, the caller takes {self.max_message}",
            )
        if not self.scheduled:
            self.schedule()
        self.encoder.reply(number, payload, block)
        return self.queued()

    cdef int refuse(self, uint32_t number, int code, str name, str text) except -1:
        """Queue an error instead of a reply."""
        self.count_error(CODES[code])
        return self.refuse_with(number, code, name, text, None)

    cdef int count_error(self, str code) except -1:
        """Count an error that is sent instead of a reply."""
        if self.errors is not None and not self.ended:
            self.errors.add(code)
        return 0

    cdef int refuse_with(
        self, uint32_t number, int code, str name, str text, bytes block
    ) except -1:
        """The same with an extension block, if that is not None."""
        return self.flagged_frame(
            ERROR,
            0 if block is None else EXTENDED,
            0,
            encode_call_error(number, code, name, text, block),
        )

    cdef int frame(self, uint8_t kind, uint16_t number, bytes body) except -1:
        """Queue a frame without a user's payload."""
        return self.flagged_frame(kind, 0, number, body)

    cdef int flagged_frame(
        self, uint8_t kind, uint8_t flags, uint16_t number, bytes body
    ) except -1:
        """Queue a frame without a user's payload.

        After our GOODBYE only kinds leave that help the peer to send its own, see
        `after_goodbye` in `fastnode.wire.kinds`. After both GOODBYEs nothing leaves.
        """
        if self.ended or self.finished:
            return 0
        if self.goodbye_said and not AFTER_GOODBYE >> kind & 1:
            return 0
        if not self.scheduled:
            self.schedule()
        self.encoder.small_frame(kind, flags, number, body)
        self.goodbye_said = kind == GOODBYE or self.goodbye_said
        return self.queued()

    cdef int check(self, size_t size) except -1:
        """Raise unless a payload of `size` bytes may be queued now."""
        cdef size_t queued = self.counted - self.encoder.answers()
        if self.closed is not None:
            raise renewed(self.closed, begun="no")
        if PyThread_get_thread_ident() != self.thread:
            raise elsewhere("thread")
        if size > self.max_message or size > self.own_max_message:
            raise too_large(
                size, self.max_message, self.own_max_message, self.peer
            )
        # An empty queue takes any message of a legal size.
        if queued and queued + size > self.most:
            raise SendQueueFull(
                f"{queued} bytes are queued on this link and at most {self.most} "
                f"may be; nothing was queued",
                peer=self.peer,
                side=Side.LOCAL,
                hint="await link.drain(), or raise max_queued",
            )
        if self.budget.used + size > self.budget.most and self.budget.used:
            raise SendQueueFull(
                f"{self.budget.used} bytes are queued on all links of this node and "
                f"at most {self.budget.most} may be; nothing was queued",
                peer=self.peer,
                side=Side.LOCAL,
                hint="await link.drain(), or raise max_node_queued",
            )
        return 0

    cdef int count(self) except -1:
        """Update the budget of the node with the bytes that users have queued.

        Replies do not count. A peer may leave them unread, and they must not take room
        from other links.
        """
        cdef size_t size = self.encoder.waiting()
        cdef size_t charged = self.charged
        self.charged = size
        self.counted = size + self.encoder.answers()
        if size > charged:
            self.budget.used += size - charged
        elif size < charged:
            self.budget.shrink(charged - size)
        return 0

    cdef int schedule(self) except -1:
        """Schedule a flush, unless one is scheduled.

        Call this before a frame is queued, because it may fail, and queued frames have
        to leave.
        """
        if not self.scheduled:
            if not self.in_read:
                self.loop.call_soon(self._flush)
            self.scheduled = True
        return 0

    cdef int queued(self) except -1:
        """Flush at once if many bytes are queued. A flush is scheduled already."""
        self.count()
        if self.counted >= FLUSH_AT and self.writable and (
            ripe(self.encoder.data)
            or ripe(self.encoder.bulk)
            or ripe(self.encoder.high)
            or ripe(self.encoder.inner)
            or ripe(self.encoder.bulk_replies)
            or self.encoder.replies.size >= FLUSH_AT
            or self.encoder.control.size >= FLUSH_AT
        ):
            self.flush()
        return 0

    # --- sending --------------------------------------------------------------

    def _flush(self):
        self.scheduled = False
        self.flush()

    cdef int flush(self) except -1:
        """Send everything that may be sent now.

        A failure ends the link and is not raised, because the sender is not at fault,
        and its message may have left.
        """
        try:
            while self.writable and self.write is not None:
                if self.torn and not self.ended:
                    raise MemoryError("the link could not be ended before")
                if self.encoder.parks:
                    self.parking.tend()
                if self.pump(FLUSH_AT) == 0:
                    break
                self.push_output()
                if self.moving and self.encoder.waiting() == 0:
                    self.say_moved()
            self.count()
            if self.on_empty is not None and self.size() == 0:
                self.on_empty()
            if (
                self.drainers
                and self.encoder.waiting() <= self.low_water
                and self.budget.used <= self.budget.high
            ):
                wake_all(self.drainers)
            if self.on_room is not None and not self.crowded():
                self.on_room()
        except Exception as error:
            if self.on_error is None:
                raise
            self.on_error(error)
        return 0

    cdef int push_output(self) except -1:
        """Hand the engine's output to the transport."""
        cdef bytes output
        cdef bint torn = self.torn
        # This replaces a `try`, which costs more than the rest of this method.
        self.torn = True
        output = self.engine.output()
        if output is not None and self.write is not None:
            self.bytes_written += <size_t>PyBytes_GET_SIZE(output)
            self.write(output)
        self.torn = torn
        return 0

    cdef size_t pump(self, size_t budget) except? 0:
        """Move about `budget` bytes of complete frames from the lanes into the engine.

        The encoder chooses the next lane. Bytes that do not fill a TLS record are
        gathered in a slab with the bytes that follow.
        """
        cdef Lane lane = self.encoder.next_lane()
        cdef Slab stage = None
        cdef size_t moved
        cdef bint torn = self.torn
        if lane is None:
            return 0
        # If the front segment is all that is queued, `pack` has nothing to gather.
        if lane.front().size != self.encoder.size():
            stage = self.pool.get(RECORD_BYTES)
        # This replaces a `try`, as in `push_output`.
        self.torn = True
        if stage is None:
            moved = self.pack(lane, NULL, budget)
        else:
            try:
                moved = self.pack(lane, stage.data, budget)
            finally:
                self.pool.put(stage)
        self.torn = torn
        return moved

    cdef size_t pack(
        self, Lane lane, unsigned char *stage, size_t budget
    ) except? 0:
        cdef Segment *segment
        cdef const unsigned char *at
        cdef size_t left, part, staged = 0, moved = 0
        cdef bint ends
        while True:
            segment = lane.front()
            if lane.stamp_count:
                lane.stamp(segment.size, self.loop.time())
            at = segment.data
            left = segment.size
            moved += left
            lane.credit -= <int64_t>left
            if staged:
                part = min(left, RECORD_BYTES - staged)
                memcpy(stage + staged, at, part)
                staged += part
                at += part
                left -= part
                if staged == RECORD_BYTES:
                    self.engine.write(stage, staged)
                    staged = 0
            if left >= RECORD_BYTES:
                part = left - left % RECORD_BYTES
                self.engine.write(at, part)
                at += part
                left -= part
            if left:
                if staged == 0 and self.encoder.size() == segment.size:
                    self.engine.write(at, left)
                else:
                    memcpy(stage + staged, at, left)
                    staged += left
            ends = segment.ends
            lane.pop()
            if ends:
                lane = self.encoder.next_lane() if moved < budget else None
                if lane is None:
                    break
        if staged:
            self.engine.write(stage, staged)
        return moved

    cdef int add_credit(self, uint16_t number, uint32_t credit) except -1:
        """Add credit: the peer takes so many more bytes in a lane."""
        cdef Lane lane
        if number >= LANES or not has_credit(number):
            raise ProtocolError(
                f"the peer granted credit for lane {number}", side=Side.REMOTE
            )
        lane = self.encoder.lanes[number]
        if <int64_t>credit > max(self.window, CREDIT_LIMIT) - lane.credit:
            raise ProtocolError(
                f"the peer granted {credit} bytes to {lane.credit}: no window is so "
                f"large",
                side=Side.REMOTE,
            )
        lane.credit += credit
        if not self.scheduled and lane.count:
            self.schedule()
            self.queued()
        return 0

    # --- endpoints that the peer has paused ---------------------------------------

    cdef int pause(self, str name) except -1:
        """Hold back messages to this endpoint. They still count as queued."""
        if self.ended:
            return 0
        return self.parking.pause(name)

    cdef int resume(self, str name) except -1:
        """Send the messages that were held back for this endpoint of the peer."""
        if self.ended:
            return 0
        self.schedule()
        self.parking.resume(name)
        return self.queued()

    cdef bint drop_parked(self, uint32_t number) except? True:
        """Drop a call that is held back, because its caller gave up.

        Returns:
            False if the peer may have the call, or if no call has this number.
        """
        if not self.encoder.parks or not self.parking.drop(number):
            return False
        self.schedule()
        self.queued()
        return True

    # --- waiting and ending ---------------------------------------------------

    async def drain(self):
        """Wait while more than the high-water mark is queued, here or on the node."""
        while True:
            if self.closed is not None and (
                # An orderly end has begun, and everything has left already.
                self.ended or not (self.moved or self.encoder.waiting() == 0)
            ):
                raise renewed(self.closed)
            if (
                self.encoder.waiting() <= self.high_water
                and self.budget.used <= self.budget.high
            ):
                return
            await self.less()

    async def less(self):
        """Wait until fewer bytes are queued, here or on the node.

        It returns at the low-water mark, and below the mark after each decrease. The
        caller has to check again whether there is enough room.
        """
        self.check_loop()
        waiter = self.loop.create_future()
        try:
            self.drainers.append(waiter)
            self.budget.enter(waiter)
            await waiter
        finally:
            self.budget.leave(waiter)
            if waiter in self.drainers:
                self.drainers.remove(waiter)

    cdef int check_loop(self) except -1:
        """Raise `ConfigError` unless the running loop is the loop of the link."""
        if get_running_loop() is not self.loop:
            raise elsewhere("loop")
        return 0

    def refuse_new(self, error):
        """Take nothing more from users. Queued frames still leave."""
        if not self.moved:
            self.closed = error

    cdef int move(self, error) except -1:
        """Take nothing more from users, and send MOVED to the peer."""
        self.closed = error
        self.moved = True
        self.moving = True
        try:
            self.schedule()
            if self.encoder.waiting() == 0:
                self.say_moved()
        except MemoryError as wrong:
            # The peer would wait for MOVED, so the link has to end.
            self.on_error(wrong)
        return self.queued()

    cdef int say_moved(self) except -1:
        """Send MOVED after the last message of all lanes."""
        self.encoder.frame(self.encoder.data, MOVED, 0, 0, NULL, 0)
        self.moving = False
        return 0

    cdef int last_goodbye(self, bytes body) except -1:
        """Drop everything that is queued, and send a last GOODBYE.

        Nothing is sent in a torn stream, because the peer would take GOODBYE for a part
        of a message.
        """
        if self.goodbye_said or self.torn:
            return 0
        try:
            self.encoder.clear()
            self.encoder.add_frame(GOODBYE, 0, body)
            self.pump(FLUSH_AT)
        except TLS_ERRORS:
            # TLS cannot send anything any more, so the peer only sees the FIN.
            log.debug(
                "no goodbye", exc_info=True, extra=fields("goodbye_not_sent")
            )
        except MemoryError:
            # The link ends without GOODBYE.
            pass
        return 0

    cdef int close(self, error) except -1:
        """Drop everything that is queued. Users get `error` from now on."""
        self.closed = error
        self.ended = True
        self.on_empty = None
        self.on_room = None
        self.encoder.clear()
        for waiter in self.drainers:
            fail(waiter, error)
        self.drainers.clear()
        return self.count()

    cdef bint crowded(self) except? True:
        """Return whether the peer asks for replies faster than it reads them."""
        return self.encoder.unread() > CROWDED_AT

    cdef size_t size(self) noexcept:
        return self.encoder.size()


cdef int wake_all(list waiters) except -1:
    """Set the result of all futures of a list, and empty the list.

    If memory runs out, the remaining futures stay in the list.
    """
    waiters.reverse()
    while waiters:
        waiter = waiters.pop()
        if not waiter.done():
            waiter.set_result(None)
    return 0


cdef int fail(object waiter, object error) except -1:
    """Let a future raise a copy of `error`, or `MemoryError` if memory has run out.

    This function itself does not raise `MemoryError`, so that the other futures get
    their errors too.
    """
    try:
        if not waiter.done():
            waiter.set_exception(renewed(error))
    except MemoryError as instead:
        try:
            if not waiter.done():
                waiter.set_exception(instead)
        except MemoryError:
            pass
    return 0


cdef bint ripe(Lane lane) noexcept:
    """Return whether a lane has enough bytes to flush before the end of the turn."""
    return lane.size >= FLUSH_AT and lane.credit > 0


cdef object too_large(size_t size, size_t theirs, size_t ours, object peer):
    cdef str where = "both nodes"
    if size <= ours:
        where = "the peer's node"
    elif size <= theirs:
        where = "this node"
    return MessageTooLarge(
        f"a payload of {size} bytes: the peer takes {theirs}, this node {ours}",
        peer=peer,
        side=Side.LOCAL,
        hint=f"raise max_message_size on {where}, or send it in parts",
    )


cdef object elsewhere(str what):
    return ConfigError(
        f"a link was used from a {what} that is not its own",
        hint="from a thread: asyncio.run_coroutine_threadsafe(node.call(...), "
        "loop).result(), where loop is the one that made the node",
    )


cdef bytes as_bytes(object payload):
    """Return a copy of a buffer, because its owner may change it while it is queued."""
    if isinstance(payload, bytes):
        return bytes(payload)
    if isinstance(payload, (bytearray, memoryview)):
        return bytes(payload)
    encode = ": encode it: .encode()" if isinstance(payload, str) else ""
    raise TypeError(
        "a payload is bytes, bytearray or memoryview, not "
        f"{type(payload).__name__}{encode}"
    )
