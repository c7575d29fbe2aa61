from libc.stdint cimport uint8_t


# What is known of the ClientHellos of a dialer, after the whole records so far.
cdef struct Hellos:
    # The head of a handshake message, and how much of it has come.
    uint8_t[4] head
    size_t have
    # What the ClientHello that has begun lacks.
    size_t left
    # No ClientHello can follow any more.
    bint over
    # The record that holds the ClientHello that does not fit is too large for TLS.
    bint overflow


cdef size_t whole_records(
    const uint8_t *data, size_t size, size_t *missing
) noexcept nogil

cdef bint hellos_fit(
    Hellos *hellos, const uint8_t *data, size_t size, size_t most
) noexcept nogil
