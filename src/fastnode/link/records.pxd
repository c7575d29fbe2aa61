from libc.stdint cimport uint8_t


# The state of the ClientHellos of a dialer, after all complete records so far.
cdef struct Hellos:
    # The head of a handshake message, and how many bytes of it have come.
    uint8_t[4] head
    size_t have
    # The missing bytes of the ClientHello that has begun.
    size_t left
    # Whether no further ClientHello can follow.
    bint over
    # Whether the record with the refused ClientHello is too large for TLS, too.
    bint overflow


cdef size_t whole_records(
    const uint8_t *data, size_t size, size_t *missing
) noexcept nogil

cdef bint hellos_fit(
    Hellos *hellos, const uint8_t *data, size_t size, size_t most
) noexcept nogil
