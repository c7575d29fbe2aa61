"""Judging peers again, by the rules of today, without a handshake.

OpenSSL verifies the chain of a peer in the middle of a handshake: it makes an
`X509_STORE_CTX` out of the settings of the `SSL` and of its `SSL_CTX`, and calls the
callback of `fastnode.openssl.verification`. `judge_again` makes the same out of a fresh
`SSL`, and decides by the same function. So the rules are those of the next handshake:
trust, revocation lists, dates, purpose, strictness, security level and server name.

Most of the time goes into signatures. So `judge_again` takes several chains, and lets
go of the GIL once for all of them: called in a thread, it does not hold up the loop.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING
from cpython.mem cimport PyMem_Calloc, PyMem_Free

from fastnode.openssl.handle cimport Handle
from fastnode.openssl.library cimport STACK, X509, X509_STORE_CTX, lib
from fastnode.openssl.verification cimport (
    ALLOW_MISSING_CRLS,
    KEEP_CHAINS,
    decide,
    describe,
    verdict_of,
)


cdef struct Trial:
    void *ssl
    STACK *shown
    X509_STORE_CTX *store
    # Of X509_V_ERR_*; -1: OpenSSL has no memory.
    int code


@cython.final
cdef class Trials:
    """Verifications that are done together; frees what they hold."""

    cdef Trial *trials
    cdef size_t size

    def __cinit__(self, size_t size):
        self.trials = <Trial *>PyMem_Calloc(size, sizeof(Trial))
        if self.trials == NULL:
            raise MemoryError()
        self.size = size

    def __dealloc__(self):
        cdef size_t at
        if self.trials == NULL:
            return
        for at in range(self.size):
            if self.trials[at].store != NULL:
                lib.store_ctx_free(self.trials[at].store)
            if self.trials[at].shown != NULL:
                lib.sk_pop_free(
                    self.trials[at].shown,
                    <void (*)(void *) noexcept nogil>lib.x509_free,
                )
        PyMem_Free(self.trials)


def judge_again(list pairs not None):
    """Verify chains as the handshakes of connections would. May run in any thread.

    Args:
        pairs: of a `Handle` and a chain. The handle is of a connection that has not
            begun: its context, side and server name say by which rules. It is not
            changed, and can be used again. The chain is what the peer presented, its
            own certificate first, DER.

    Returns:
        A `Verdict` for each, in this order.

    Raises:
        ValueError: a certificate cannot be read, or a chain is empty.
        MemoryError: OpenSSL has no memory.
    """
    cdef Trials trials = Trials(max(len(pairs), 1))
    cdef size_t at
    cdef size_t count = <size_t>len(pairs)
    cdef Handle handle
    cdef tuple chain
    for at in range(count):
        handle, chain = pairs[at]
        trials.trials[at].ssl = handle.pointer
        trials.trials[at].shown = stack_of(chain)
    with nogil:
        for at in range(count):
            trials.trials[at].code = judge_one(&trials.trials[at])
        lib.clear_errors()
    verdicts = []
    for at in range(count):
        if trials.trials[at].code < 0:
            raise MemoryError()
        verdicts.append(
            verdict_of(
                describe(trials.trials[at].store, trials.trials[at].code, KEEP_CHAINS)
            )
        )
    return verdicts


cdef STACK *stack_of(tuple chain) except NULL:
    """The certificates of a chain, as OpenSSL has them. The caller owns them."""
    cdef STACK *shown = lib.sk_new_null()
    cdef X509 *certificate
    cdef const unsigned char *at
    cdef bytes der
    cdef bint unread = not chain
    if shown == NULL:
        raise MemoryError()
    for der in chain:
        at = <const unsigned char *>PyBytes_AS_STRING(der)
        certificate = lib.d2i_x509(NULL, &at, len(der))
        if certificate == NULL or lib.sk_push(shown, certificate) <= 0:
            lib.x509_free(certificate)
            lib.clear_errors()
            unread = True
            break
    if unread:
        lib.sk_pop_free(shown, <void (*)(void *) noexcept nogil>lib.x509_free)
        raise ValueError("OpenSSL cannot read a certificate")
    return shown


cdef int judge_one(Trial *trial) noexcept nogil:
    """Verify as ssl_verify_cert_chain() of OpenSSL does; returns the code."""
    cdef void *ssl = trial.ssl
    cdef X509 *leaf = <X509 *>lib.sk_value(trial.shown, 0)
    cdef X509_STORE_CTX *store = lib.store_ctx_new()
    cdef void *param
    trial.store = store
    if store == NULL or not lib.store_ctx_init(
        store, lib.get_cert_store(lib.get_ssl_ctx(ssl)), leaf, trial.shown
    ):
        return -1
    param = lib.get_param(store)
    lib.set_auth_level(param, lib.get_security_level(ssl))
    if not lib.set_ex_data(store, lib.ex_data_index(), ssl):
        return -1
    # What a server verifies is the certificate of a client, and the other way round.
    lib.store_ctx_set_default(
        store, b"ssl_client" if lib.is_server(ssl) else b"ssl_server"
    )
    if not lib.param_set1(param, lib.get_ssl_param(ssl)):
        return -1
    return 0 if decide(store, ALLOW_MISSING_CRLS) else lib.get_error(store)
