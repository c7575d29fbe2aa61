from fastnode.openssl.library cimport X509_STORE_CTX


# What the callback is told, in place of a pointer.
cdef enum:
    ACCEPT_ANY = 1
    ALLOW_MISSING_CRLS = 2
    KEEP_CHAINS = 4


cdef int decide(X509_STORE_CTX *store, int flags) noexcept nogil

cdef tuple describe(X509_STORE_CTX *store, int code, int flags)

cdef object verdict_of(tuple described)
