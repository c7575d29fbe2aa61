"""The frame header, and the rules of the kinds that have no payload of a user.

    0       1       2       4               8
    | kind  | flags |  id   |    length     |  body ... (length bytes)

All numbers are unsigned and big-endian.
"""

from cpython.bytes cimport PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    HEADER_BYTES = 8
    # Before the payload of CALL, REPLY and ERROR: the number of the call.
    CALL_BYTES = 4
    # Before the first part of a message of several frames: its whole length.
    TOTAL_BYTES = 8
    # Before an extension block: its length.
    BLOCK_BYTES = 2
    PREFIX_MAX = HEADER_BYTES + CALL_BYTES + TOTAL_BYTES

# Kinds of frames: numbers alone. `fastnode.wire.kinds` has the rest; a test compares.
cdef enum:
    HELLO = 1
    ACCEPT = 2
    ENDPOINT = 3
    MESSAGE = 4
    CALL = 5
    REPLY = 6
    ERROR = 7
    CONTINUE = 8
    CREDIT = 9
    CANCEL = 10
    PING = 11
    PONG = 12
    GOODBYE = 13
    MOVED = 14
    RECONNECT = 15
    STAY = 16
    CONFIRM = 17
    PAUSE = 18
    RESUME = 19
    DROPPED = 20
    LEAVING = 21
    KIND_END = 22

# Flags.
cdef enum:
    # More frames of this message follow (in CONTINUE frames of the same lane).
    MORE = 1
    # Which lane a frame of an endpoint is in.
    LANE_SHIFT = 1
    LANE_BITS = 7 << 1
    # A handler waits for the answer.
    NESTED = 16
    # An extension block stands before the payload.
    EXTENDED = 32

# The lanes: frames of one lane stay in order. Up to inner, but for control, they are
# those of messages and calls.
cdef enum:
    DATA_LANE = 0
    CONTROL_LANE = 1
    HIGH_LANE = 2
    BULK_LANE = 3
    INNER_LANE = 4
    # Replies of one frame, and errors; replies of several.
    REPLY_LANE = 5
    BULK_REPLY_LANE = 6
    LANES = 7


cdef inline bint has_credit(int lane) noexcept nogil:
    """Whether a lane has a window, which the receiver grants anew."""
    return lane != CONTROL_LANE and lane != REPLY_LANE


cdef inline size_t prefix_size(uint8_t kind, bytes block) noexcept:
    """Bytes before the payload in a frame without MORE; `block` is the extension block,
    or None."""
    cdef size_t size = HEADER_BYTES
    if kind != MESSAGE:
        size += CALL_BYTES
    if block is not None:
        size += BLOCK_BYTES + <size_t>PyBytes_GET_SIZE(block)
    return size


cdef inline void put16(unsigned char *at, uint16_t value) noexcept nogil:
    at[0] = <unsigned char>(value >> 8)
    at[1] = <unsigned char>value


cdef inline void put32(unsigned char *at, uint32_t value) noexcept nogil:
    at[0] = <unsigned char>(value >> 24)
    at[1] = <unsigned char>(value >> 16)
    at[2] = <unsigned char>(value >> 8)
    at[3] = <unsigned char>value


cdef inline void put64(unsigned char *at, uint64_t value) noexcept nogil:
    put32(at, <uint32_t>(value >> 32))
    put32(at + 4, <uint32_t>value)


cdef inline uint16_t get16(const unsigned char *at) noexcept nogil:
    return <uint16_t>((<uint16_t>at[0] << 8) | at[1])


cdef inline uint32_t get32(const unsigned char *at) noexcept nogil:
    return (
        (<uint32_t>at[0] << 24)
        | (<uint32_t>at[1] << 16)
        | (<uint32_t>at[2] << 8)
        | <uint32_t>at[3]
    )


cdef inline uint64_t get64(const unsigned char *at) noexcept nogil:
    return (<uint64_t>get32(at) << 32) | get32(at + 4)


cdef inline void put_header(
    unsigned char *at, uint8_t kind, uint8_t flags, uint16_t number, uint32_t length
) noexcept nogil:
    at[0] = kind
    at[1] = flags
    put16(at + 2, number)
    put32(at + 4, length)
