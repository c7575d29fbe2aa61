"""Where TLS records end in the bytes that a stranger sends.

OpenSSL takes 17 KiB for a record that has not come in whole. Until the handshake is
complete it is given whole records only. Little is read at once, and of a large record
nothing more until the rest is there (`SO_RCVLOWAT`), so that the kernel keeps it.
"""

from libc.stdint cimport uint8_t

cdef enum:
    HEAD_BYTES = 5
    # Types of records (RFC 8446, 5.1), and the most that one holds.
    FIRST_TYPE = 20
    LAST_TYPE = 23
    MOST_BYTES = (16 << 10) + 256


cdef size_t whole_records(
    const uint8_t *data, size_t size, size_t *missing
) noexcept nogil:
    """The bytes of the whole records at the front; all, where TLS will refuse them.

    Args:
        data: begins with a record.
        missing: how much the record behind them lacks, as far as is known.
    """
    cdef size_t at = 0
    cdef size_t length
    missing[0] = 0
    while size - at >= HEAD_BYTES:
        length = <size_t>data[at + 3] << 8 | data[at + 4]
        if (
            not FIRST_TYPE <= data[at] <= LAST_TYPE
            or data[at + 1] != 3
            or length > MOST_BYTES
        ):
            return size
        if length > size - at - HEAD_BYTES:
            missing[0] = length - (size - at - HEAD_BYTES)
            break
        at += HEAD_BYTES + length
    return at
