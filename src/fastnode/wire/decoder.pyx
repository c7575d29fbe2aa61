"""Decoder: it reads frames from bytes, sans-IO.

Theory of operation. The caller asks `reserve` where to write received bytes, writes at
most so many bytes there, and reports their number with `commit`. Then it calls `next`
until that returns 0. Mostly `reserve` offers the free end of a slab, and frames are
copied out of it. An incomplete frame of at least DIRECT_BYTES gets its final `bytes`
object at once. The bytes that have arrived are copied into the object, and `reserve`
offers the rest of it, so TLS decrypts the remainder in place. While a message of
several frames is incomplete, `reserve` offers only the room of one header, so that no
byte of the next part gets into the slab.

Rules for editors of this file. A length from the wire is unsigned, and is compared with
its limit before it is narrowed, added to or allocated. The object of an incomplete
message has the announced size. But untouched memory costs nothing, so the memory that a
peer can use grows only with the bytes that it sends. A spare that is used as this
object was filled by peers before.
"""

cimport cython
from cpython.bytes cimport (
    PyBytes_AS_STRING,
    PyBytes_FromStringAndSize,
)
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memmove

from fastnode.buffers.pool cimport BufferPool
from fastnode.wire.frame cimport (
    BLOCK_BYTES,
    BULK_REPLY_LANE,
    CALL_BYTES,
    CANCEL,
    CONTINUE,
    CONTROL_LANE,
    DATA_LANE,
    ENDPOINT,
    ERROR,
    EXTENDED,
    HEADER_BYTES,
    INNER_LANE,
    KIND_END,
    LANE_BITS,
    LANE_SHIFT,
    LANES,
    MESSAGE,
    MORE,
    MOVED,
    NESTED,
    REPLY,
    REPLY_LANE,
    TOTAL_BYTES,
    get16,
    get32,
    get64,
)

from fastnode.errors import ProtocolError, Side
from fastnode.limits import (
    DEFAULT_MAX_MESSAGE_BYTES,
    MAX_EXTENSION_BYTES,
    MAX_FRAME_BYTES,
)
from fastnode.wire.kinds import KINDS

#: kind, number, call, payload
Frame = tuple[int, int, int, bytes | None]

cdef enum:
    RECEIVE_SLAB_BYTES = 64 << 10
    # Below a record's worth of free room the slab is compacted.
    LEAST_ROOM = 16 << 10
    # A frame this large is received in place if it is not complete yet.
    DIRECT_BYTES = 4 << 10

cdef size_t MOST_BLOCK = MAX_EXTENSION_BYTES

# The rules of each kind (`fastnode.wire.kinds`). A kind with a payload of a user has
# LEAST bytes before it. `max_frame` and `max_message` bound their size, not MOST.
cdef uint32_t[KIND_END] LEAST
cdef uint32_t[KIND_END] MOST
cdef uint8_t[KIND_END] FLAGS
cdef bint[KIND_END] HAS_PAYLOAD


cdef int take_rules() except -1:
    """Copy the rules from the table into arrays that the decoder reads."""
    cdef int number
    for kind in KINDS:
        number = kind.number
        if not 0 < number < KIND_END:
            raise SystemError(f"frame.pxd does not know kind {number}")
        LEAST[number] = kind.least
        MOST[number] = kind.most or 0
        FLAGS[number] = kind.flags
        HAS_PAYLOAD[number] = kind.most is None
    return 0


take_rules()


cdef object malformed(str what):
    return ProtocolError(
        f"the peer sent a malformed frame: {what}",
        side=Side.REMOTE,
        hint="it runs an incompatible version, or is not a fastnode peer",
    )


@cython.final
cdef class Decoder:
    """Decodes what one side of a link receives.

    Args:
        pool: where receive slabs come from.
        max_frame: largest frame taken, header included, bytes.
        max_message: largest payload taken, bytes; 0: no payloads at all.
    """

    def __init__(
        self,
        BufferPool pool not None,
        size_t max_frame=MAX_FRAME_BYTES,
        uint64_t max_message=DEFAULT_MAX_MESSAGE_BYTES,
    ):
        self.pool = pool
        self.max_frame = max_frame
        self.max_message = max_message
        self.parts = [None] * LANES
        self.blocks = [None] * LANES

    # --- the view from Python: tests, benchmarks ------------------------------

    def extend(self, bint extensions=True):
        """Accept frames with an extension block, because both sides have agreed."""
        self.extensions = extensions

    def feed(
        self,
        const unsigned char[::1] data not None,
        *,
        bint lanes=False,
        bint blocks=False,
    ):
        """Take in bytes and return the frames that are complete.

        Returns:
            A list of tuples (kind, number, call, payload); payload is a `bytes`
            object of its own, or None. With `lanes`, of pairs (lane, such a tuple).
            With `blocks`, of pairs (such a tuple, its extension block or None).

        Raises:
            ProtocolError: the bytes are not what the wire format allows. The
                decoder is of no use afterwards, except for `clear`.
        """
        cdef list frames = []
        cdef size_t left = data.shape[0]
        cdef size_t done = 0
        cdef size_t room
        cdef unsigned char *at
        cdef bint paired = lanes or blocks
        while left:
            room = min(self.reserve(&at), left)
            memcpy(at, &data[0] + done, room)
            done += room
            left -= room
            self.commit(room)
            while self.next():
                frame = (self.kind, self.number, self.call, self.payload)
                if paired:
                    frame = (self.lane, frame) if lanes else (frame, self.block)
                frames.append(frame)
                self.payload = None
                if self.block is not None:
                    self.block = None
        self.rest()
        return frames

    @property
    def unfinished(self):
        """True while a frame, or a message of several frames, is incomplete."""
        return bool(self.mid_frame())

    def close(self):
        """Give back all memory."""
        self.clear()

    # --- the view from Cython -------------------------------------------------

    cdef size_t reserve(self, unsigned char **at) except 0:
        """Return where the next bytes go, and how many. Borrowed until `commit`."""
        cdef size_t kept
        if self.direct_left:
            at[0] = self.direct_at
            return self.direct_left
        if self.slab is None:
            self.slab = self.pool.get(RECEIVE_SLAB_BYTES)
            self.start = self.end = 0
        kept = self.end - self.start
        if kept == 0:
            self.start = self.end = 0
        elif self.slab.capacity - self.end < LEAST_ROOM:
            memmove(self.slab.data, self.slab.data + self.start, kept)
            self.start = 0
            self.end = kept
        at[0] = self.slab.data + self.end
        if self.assembling and kept < HEADER_BYTES:
            return HEADER_BYTES - kept
        return self.slab.capacity - self.end

    cdef int commit(self, size_t size) except -1:
        if self.direct_left:
            assert size <= self.direct_left
            self.direct_at += size
            self.direct_left -= size
        else:
            assert self.slab is not None and size <= self.slab.capacity - self.end
            self.end += size
        return 0

    cdef int next(self) except -1:
        """Return 1 if there is a frame, else 0.

        The frame is in `kind`, `number`, `call`, `payload` and `block`. The caller that
        uses the frame sets `block` to None again.
        """
        cdef const unsigned char *at
        cdef size_t available
        cdef uint32_t length
        cdef int found
        cdef bytes message
        if self.direct is not None:
            if self.direct_left:
                return 0
            if self.complete():
                return 1
        message = self.next_message()
        if message is not None:
            self.payload = message
            return 1
        while True:
            available = self.end - self.start
            if available < HEADER_BYTES:
                return 0
            at = self.slab.data + self.start
            length = get32(at + 4)
            self.kind = at[0]
            self.number = get16(at + 2)
            if self.kind == 0 or self.kind >= KIND_END:
                raise malformed(f"unknown kind {self.kind}")
            if length > self.max_frame - HEADER_BYTES:
                raise self.too_long(length)
            if at[1] & ~FLAGS[self.kind]:
                raise malformed(f"flags {at[1]:#x} on kind {self.kind}")
            self.lane = (at[1] & LANE_BITS) >> LANE_SHIFT
            if self.lane > INNER_LANE or (self.lane == CONTROL_LANE and at[1]):
                raise malformed(f"lane {self.lane} in flags {at[1]:#x}")
            if self.kind == CONTINUE:
                found = self.open_part(at, available, at[1], length)
            elif HAS_PAYLOAD[self.kind]:
                found = self.open_payload(at, available, at[1], length)
            else:
                found = self.small_frame(at, available, at[1], length)
            # 1: a frame; 0: more bytes are needed; 2: consumed, look again
            if found != 2:
                return found

    cdef bytes next_message(self):
        """Return the payload of the next one-way message. This is the hot path.

        The message has to be complete, in the slab and without flags. Otherwise the
        result is None, and the caller has to call `next`.
        """
        cdef size_t available = self.end - self.start
        cdef const unsigned char *at
        cdef uint32_t length
        if available < HEADER_BYTES or self.direct is not None:
            return None
        at = self.slab.data + self.start
        if at[0] != MESSAGE or at[1] or self.assemblies[DATA_LANE].kind:
            return None
        length = get32(at + 4)
        if (
            length > available - HEADER_BYTES
            or length > self.max_frame - HEADER_BYTES
            or length > self.max_message
        ):
            return None
        self.kind = MESSAGE
        self.number = get16(at + 2)
        self.call = 0
        self.lane = DATA_LANE
        self.start += HEADER_BYTES + length
        self.received[DATA_LANE] += HEADER_BYTES + length
        # If memory runs out here, the frame is lost and the link ends.
        return PyBytes_FromStringAndSize(
            <const char *>at + HEADER_BYTES, <Py_ssize_t>length
        )

    cdef bint mid_frame(self) noexcept:
        return (
            self.direct is not None
            or self.end > self.start
            or self.assembling > 0
        )

    cdef int rest(self) except -1:
        """Give the slab back if it has no incomplete frame."""
        if self.slab is not None and self.start == self.end:
            self.pool.put(self.slab)
            self.slab = None
            self.start = self.end = 0
        return 0

    cdef int clear(self) except -1:
        cdef int lane
        self.start = self.end = 0
        self.direct = None
        self.direct_left = 0
        self.payload = None
        self.block = None
        for lane in range(LANES):
            self.assemblies[lane].kind = 0
            self.parts[lane] = None
            self.blocks[lane] = None
        self.assembling = 0
        return self.rest()

    # --- inside ---------------------------------------------------------------

    cdef int small_frame(
        self, const unsigned char *at, size_t available, uint8_t flags, uint32_t length
    ) except -1:
        """Read a frame without a user's payload. It is copied when it is complete."""
        cdef size_t offset = HEADER_BYTES
        cdef size_t prefix
        if length < LEAST[self.kind] or length > MOST[self.kind]:
            raise malformed(f"kind {self.kind} with {length} bytes")
        if available - HEADER_BYTES < length:
            return 0
        self.call = 0
        if self.kind == ERROR or self.kind == CANCEL:
            self.call = get32(at + HEADER_BYTES)
            offset += CALL_BYTES
            if flags & EXTENDED:
                prefix = self.take_block(at, available, length, CALL_BYTES)
                if prefix + LEAST[self.kind] - CALL_BYTES > length:
                    raise malformed(f"kind {self.kind} with {length} bytes")
                offset = HEADER_BYTES + prefix
        self.payload = PyBytes_FromStringAndSize(
            <const char *>at + offset, <Py_ssize_t>(HEADER_BYTES + length - offset)
        )
        if self.kind == MOVED and self.assembling > (
            1 if self.assemblies[BULK_REPLY_LANE].kind else 0
        ):
            raise malformed("MOVED inside a message of several frames")
        if self.kind == ENDPOINT or self.kind == MOVED:
            self.received[self.lane] += HEADER_BYTES + length
        self.start += HEADER_BYTES + length
        return 1

    cdef int open_payload(
        self, const unsigned char *at, size_t available, uint8_t flags, uint32_t length
    ) except -1:
        """Read the first or only frame of a message, call or reply."""
        cdef size_t prefix = LEAST[self.kind]
        cdef int lane
        cdef uint64_t total
        cdef size_t size
        cdef bytes into
        if self.kind == REPLY:
            self.lane = BULK_REPLY_LANE if flags & MORE else REPLY_LANE
        lane = self.lane
        if flags & MORE:
            prefix += TOTAL_BYTES
        if length < prefix:
            raise malformed(f"kind {self.kind} with {length} bytes")
        if self.assemblies[lane].kind:
            raise malformed(f"kind {self.kind} inside a message of several frames")
        if available < HEADER_BYTES + prefix:
            return 0
        if flags & EXTENDED:
            prefix = self.take_block(at, available, length, prefix)
            if prefix == 0:
                return 0
        size = length - prefix
        self.nested = bool(flags & NESTED)
        if self.kind != MESSAGE:
            self.call = get32(at + HEADER_BYTES)
        else:
            self.call = 0
        if flags & MORE:
            total = get64(
                at + HEADER_BYTES + <size_t>LEAST[self.kind]
            )
            if total > self.max_message:
                raise self.too_long(total)
            if size == 0 or total <= size:
                raise malformed(f"{size} bytes as the first part of {total}")
            into = self.pool.spares.get(total)
            self.assembling += 1
            self.assemblies[lane].kind = self.kind
            self.assemblies[lane].nested = self.nested
            self.assemblies[lane].number = self.number
            self.assemblies[lane].call = self.call
            self.assemblies[lane].total = total
            self.assemblies[lane].filled = 0
            self.parts[lane] = into
            self.blocks[lane] = self.block
            self.block = None
        else:
            if size > self.max_message:
                raise self.too_long(size)
            if size < DIRECT_BYTES and available - HEADER_BYTES < length:
                return 0
            into = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>size)
            lane = -1
        self.received[self.lane] += HEADER_BYTES + length
        self.start += HEADER_BYTES + prefix
        return self.fill(
            into,
            0,
            at + HEADER_BYTES + prefix,
            available - HEADER_BYTES - prefix,
            size,
            lane,
        )

    cdef size_t take_block(
        self, const unsigned char *at, size_t available, uint32_t length, size_t prefix
    ) except? 0:
        """Copy the extension block of a frame, which follows `prefix` bytes of its
        body, into `block`.

        Returns:
            Where in the body the rest begins; 0 if the block is not all there yet.
        """
        cdef size_t size
        if not self.extensions:
            raise malformed("an extension block, which was not agreed on")
        if length < prefix + BLOCK_BYTES:
            raise malformed(f"kind {self.kind} with {length} bytes")
        if available < HEADER_BYTES + prefix + BLOCK_BYTES:
            return 0
        size = get16(at + HEADER_BYTES + prefix)
        prefix += BLOCK_BYTES
        if size > MOST_BLOCK or size > length - prefix:
            raise malformed(f"an extension block of {size} bytes")
        if available < HEADER_BYTES + prefix + size:
            return 0
        self.block = PyBytes_FromStringAndSize(
            <const char *>at + HEADER_BYTES + prefix, <Py_ssize_t>size
        )
        return prefix + size

    cdef int open_part(
        self, const unsigned char *at, size_t available, uint8_t flags, uint32_t length
    ) except -1:
        """Read a further frame of a message of several frames."""
        cdef Assembly *assembly
        if self.number >= LANES or not self.assemblies[self.number].kind:
            raise malformed("a continuation of nothing")
        assembly = &self.assemblies[self.number]
        if length == 0 or length > assembly.total - assembly.filled:
            raise malformed(
                f"a part of {length} bytes where {assembly.total - assembly.filled} "
                f"of {assembly.total} are missing"
            )
        if bool(flags & MORE) != (length < assembly.total - assembly.filled):
            raise malformed("the last part is not where the length says")
        self.received[self.number] += HEADER_BYTES + length
        self.start += HEADER_BYTES
        return self.fill(
            <bytes>self.parts[self.number],
            assembly.filled,
            at + HEADER_BYTES,
            available - HEADER_BYTES,
            length,
            self.number,
        )

    cdef int fill(
        self,
        bytes into,
        uint64_t offset,
        const unsigned char *data,
        size_t available,
        size_t size,
        int lane,
    ) except -1:
        """Copy the first part of a payload. The rest is received in place."""
        cdef unsigned char *target = <unsigned char *>PyBytes_AS_STRING(into) + offset
        cdef size_t here = min(available, size)
        if here:
            memcpy(target, data, here)
            self.start += here
        self.direct = into
        self.direct_at = target + here
        self.direct_left = size - here
        self.direct_lane = lane
        if lane >= 0:
            self.assemblies[lane].filled += size
        if self.direct_left:
            return 0
        return 1 if self.complete() else 2

    cdef int complete(self) except -1:
        """Finish a payload that is complete. Return 1 if this makes a frame, else 0."""
        cdef Assembly *assembly
        cdef int lane = self.direct_lane
        cdef bytes into = self.direct
        self.direct = None
        if lane >= 0:
            assembly = &self.assemblies[lane]
            if assembly.filled < assembly.total:
                return 0
            self.kind = assembly.kind
            self.number = assembly.number
            self.call = assembly.call
            self.nested = assembly.nested
            self.lane = lane
            assembly.kind = 0
            self.assembling -= 1
            self.parts[lane] = None
            if self.blocks[lane] is not None:
                self.block = self.blocks[lane]
                self.blocks[lane] = None
        self.payload = into
        return 1

    cdef object too_long(self, uint64_t size):
        if self.max_message == 0:
            return malformed(f"kind {self.kind} before the link is up")
        return malformed(
            f"{size} bytes, where a frame has at most {self.max_frame} "
            f"and a message {self.max_message}"
        )
