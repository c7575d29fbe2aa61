from libc.stdint cimport UINT64_MAX, uint64_t

cdef enum:
    # Where in a block the time that is left stands, if the block has a deadline: the
    # field is the first one. And how many bytes it has.
    TIME_LEFT_AT = 3
    TIME_LEFT_BYTES = 8


cdef class Extension:
    # Seconds that were left when the frame was sent; below 0: no deadline.
    cdef readonly double time_left
    # The same in the time of the receiver's loop, once it has set this; 0: no deadline.
    cdef double deadline
    # The request's own number, 16 bytes, or None; which attempt at it this is.
    cdef bytes request_id
    cdef readonly int attempt
    # A read-only mapping, or None where the block has no metadata.
    cdef readonly object metadata
    # Of an error: its code and details, or None.
    cdef readonly str code
    cdef readonly bytes details


cdef bytes make_block(
    bint deadline, bytes request_id, int attempt, object metadata
)
cdef bytes status_block(str code, bytes details)
cdef Extension decode_block(bytes block)
cdef object NO_METADATA


cdef inline uint64_t microseconds(double seconds) noexcept:
    """Return seconds as the wire has them.

    A time that is over is 0. A time that is too long for the field, or infinite, is the
    largest number of the field. C does not define the conversion of a double from 2**64
    upward.
    """
    cdef double found = seconds * 1e6
    if not found > 0:
        return 0
    return <uint64_t>found if found < 18446744073709551616.0 else UINT64_MAX
