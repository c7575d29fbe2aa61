"""Finds the ends of TLS records, and the size of a ClientHello, for unknown peers.

OpenSSL allocates 17 KiB for an incomplete record. So it gets complete records only
until the handshake is complete. Few bytes are read at once. After the first part of a
large record, nothing is read until the rest has come (`SO_RCVLOWAT`), so the kernel
keeps it.

OpenSSL allocates memory for a ClientHello when its length is announced, up to 128 KiB.
So the length is compared with its limit before OpenSSL gets the record.
"""

from libc.stdint cimport uint8_t
from libc.string cimport memcpy

cdef enum:
    HEAD_BYTES = 5
    # Types of records (RFC 8446, 5.1), and the most that one holds.
    FIRST_TYPE = 20
    LAST_TYPE = 23
    MOST_BYTES = (16 << 10) + 256
    # The same for a record in plaintext (RFC 8446, 5.1).
    MOST_PLAINTEXT = 16 << 10
    CHANGE_CIPHER_SPEC = 20
    ALERT = 21
    HANDSHAKE = 22
    # A handshake message begins with its type and length (RFC 8446, 4).
    MESSAGE_HEAD_BYTES = 4
    CLIENT_HELLO = 1


cdef size_t whole_records(
    const uint8_t *data, size_t size, size_t *missing
) noexcept nogil:
    """Return the length of the complete records at the front.

    If TLS will refuse the bytes, the length of all bytes is returned.

    Args:
        data: bytes that begin with a record.
        missing: is set to the number of bytes that the last record is known to lack.
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


cdef bint hellos_fit(
    Hellos *hellos, const uint8_t *data, size_t size, size_t most
) noexcept nogil:
    """Return whether all ClientHellos in these records announce an allowed size.

    A ClientHello may come in many records, and a second one may answer a
    HelloRetryRequest. Both are plaintext. Every other message of a dialer follows them.

    Args:
        hellos: the state so far. It begins with zeros, and is updated.
        data: bytes that begin with a record. The last record may be incomplete.
        most: the largest body of a ClientHello, in bytes.
    """
    cdef size_t at = 0
    cdef size_t length
    cdef bint overflow
    while not hellos.over and size - at >= HEAD_BYTES:
        length = <size_t>data[at + 3] << 8 | data[at + 4]
        overflow = length > MOST_PLAINTEXT
        length = min(length, size - at - HEAD_BYTES)
        if data[at] == HANDSHAKE:
            if not message_fits(hellos, data + at + HEAD_BYTES, length, most):
                hellos.overflow = overflow
                return False
        elif data[at] != ALERT and data[at] != CHANGE_CIPHER_SPEC:
            # The record is encrypted, or is no TLS, which OpenSSL refuses.
            hellos.over = True
        at += HEAD_BYTES + length
    return True


cdef bint message_fits(
    Hellos *hellos, const uint8_t *body, size_t size, size_t most
) noexcept nogil:
    """Do the same for the body of one handshake record."""
    cdef size_t part, announced
    while size and not hellos.over:
        if hellos.left:
            part = min(size, hellos.left)
            hellos.left -= part
        else:
            part = min(size, <size_t>MESSAGE_HEAD_BYTES - hellos.have)
            memcpy(&hellos.head[hellos.have], body, part)
            hellos.have += part
            if hellos.head[0] != CLIENT_HELLO:
                hellos.over = True
            elif hellos.have == MESSAGE_HEAD_BYTES:
                announced = (
                    <size_t>hellos.head[1] << 16
                    | <size_t>hellos.head[2] << 8
                    | hellos.head[3]
                )
                if announced > most:
                    return False
                hellos.have = 0
                hellos.left = announced
        body += part
        size -= part
    return True
