from libc.stdint cimport uint8_t

cdef size_t whole_records(
    const uint8_t *data, size_t size, size_t *missing
) noexcept nogil
