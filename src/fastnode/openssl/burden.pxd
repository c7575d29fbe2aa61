from libc.stdint cimport uint8_t


# What makes a handshake message too costly; 0: nothing does. Python knows these
# numbers as codes of a `Verdict`: OpenSSL's own codes are below them.
cdef enum:
    UNREADABLE = 1001
    TOO_MANY_CERTIFICATES = 1002
    EXPLICIT_CURVE = 1003
    RSA_MODULUS = 1004
    RSA_EXPONENT = 1005
    TOO_MANY_NAMES = 1006
    TOO_MANY_COMPARISONS = 1007


# For `allow_messages`.
cdef enum:
    ANY_NUMBER = -1
    TOO_MANY = -2


cdef struct Burden:
    # One of the numbers above, or 0.
    int kind
    # Which certificate it is about: 0 is the peer's own.
    int depth
    # What was found: a number of certificates, bits, names, or comparisons.
    size_t amount


cdef Burden burden_of(const uint8_t *message, size_t size, int version) noexcept nogil

cdef Burden judged() noexcept nogil

cdef int forget() noexcept nogil

cdef int allow_messages(int count) noexcept nogil

cdef void inspect(
    int writing,
    int version,
    int kind,
    const void *data,
    size_t size,
    void *connection,
    void *arg,
) noexcept nogil
