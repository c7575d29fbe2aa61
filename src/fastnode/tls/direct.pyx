"""TlsEngine that calls the libssl under Python's `ssl.SSLObject` itself.

Theory of operation. The object uses a BIO of ours for both directions. Until the peer
was checked, Python does all the work. So Python reports every fault of a handshake, in
the words that `fastnode.tls.refusal` knows. From `settle` on, `SSL_read_ex` and
`SSL_write_ex` read and write the records. They read directly from the receive buffer,
and decrypt directly into the memory of the frames. The only Python object that is made
is the ciphertext to send.

The object still owns the `SSL`, and has the certificate, version and cipher.
`close` frees both: from then on `pointer` is NULL and `direct` is false.
"""

cimport cython
from libc.stdint cimport UINT64_MAX, uint64_t

from fastnode.openssl.bio cimport Bio
from fastnode.openssl.handle cimport Handle
from fastnode.openssl.library cimport lib
from fastnode.tls.engine cimport ENDED, WANT_MORE
from fastnode.tls.ssl_object cimport SslObjectEngine

import ssl

from fastnode.limits import RECORDS_OF_KEY

cdef enum:
    # openssl/ssl.h
    ERROR_SSL = 1
    ERROR_SYSCALL = 5
    ERROR_WANT_READ = 2
    ERROR_ZERO_RETURN = 6
    CTRL_MODE = 33
    CTRL_CLEAR_MODE = 78
    RELEASE_BUFFERS = 0x10
    KEY_UPDATE_NOT_REQUESTED = 0
    # openssl/prov_ssl.h
    TLS1_3 = 0x0304
    CTRL_GET_PEER_TMP_KEY = 109
    CTRL_GET_TMP_KEY = 133
    # openssl/evp.h: a kind of key that every OpenSSL knows.
    PKEY_RSA = 6
    # OpenSSL writes at most one record at a time.
    RECORD_BYTES = 16 << 10

cdef object SSLError = ssl.SSLError


@cython.final
cdef class DirectEngine(SslObjectEngine):
    """TLS by the libssl of Python's `ssl` module, mostly without that module.

    Args:
        handle: of `fastnode.openssl.handle.wrap`; fresh.
        server_side: whether we are the server.
        records_of_key: how many records are sent under one key of TLS 1.3; then it is
            renewed (RFC 8446, section 4.6.3).
    """

    def __init__(
        self,
        Handle handle not None,
        *,
        bint server_side,
        uint64_t records_of_key=RECORDS_OF_KEY,
    ):
        self.records_of_key = records_of_key
        self.server_side = server_side
        self.handle = handle
        self.pointer = handle.pointer
        self.bio = Bio()
        self.bio.put_under(self.pointer)
        self.begin(handle.ssl, server_side)

    cdef int lend(self, const unsigned char *data, size_t size) except -1:
        return self.bio.lend(data, size)

    cdef int keep(self) except -1:
        return self.bio.keep()

    cdef int feed_eof(self) except -1:
        self.bio.ends.ended = True
        return 0

    cdef int handshake(self) except -1:
        cdef int done = SslObjectEngine.handshake(self)
        # A client uses its key until it has read the ServerHello. A server that waits
        # for more has sent its own.
        if (done or self.server_side) and lib.get_version(self.pointer) == TLS1_3:
            self.forget_key(CTRL_GET_PEER_TMP_KEY)
            self.forget_key(CTRL_GET_TMP_KEY)
        return done

    cdef int forget_key(self, int which) except -1:
        """Free the contents of an ephemeral key that has served its purpose.

        OpenSSL would keep the key, 6 to 8 KiB of X25519MLKEM768, until the connection
        is freed, although it reads the key of a TLS 1.3 handshake only once.
        """
        cdef void *key = NULL
        if lib.ssl_ctrl(self.pointer, which, 0, &key) > 0 and key != NULL:
            # Setting a type frees what the key held before.
            lib.pkey_set_type(key, PKEY_RSA)
            lib.pkey_free(key)
        lib.clear_errors()
        return 0

    cdef int settle(self) except -1:
        if self.pointer == NULL:
            return 0
        self.direct = True
        # No certificates come any more.
        lib.ssl_set_msg_callback(self.pointer, NULL)
        if lib.get_version(self.pointer) != TLS1_3:
            # It has no KeyUpdate.
            self.records_of_key = UINT64_MAX
        return SslObjectEngine.settle(self)

    cdef int keep_buffers(self, bint held) except -1:
        if self.pointer == NULL:
            return 0
        if held:
            lib.ssl_ctrl(self.pointer, CTRL_CLEAR_MODE, RELEASE_BUFFERS, NULL)
        # From OpenSSL 3.2 on only this one tells those who read records.
        lib.ssl_ctrl(self.pointer, CTRL_MODE, 0 if held else RELEASE_BUFFERS, NULL)
        return SslObjectEngine.keep_buffers(self, held)

    cdef Py_ssize_t read(self, unsigned char *into, size_t size) except -1:
        cdef size_t got = 0
        cdef int outcome
        if not self.direct:
            return SslObjectEngine.read(self, into, size)
        if (
            self.bio.ends.left == 0
            and not self.bio.ends.ended
            and not lib.has_pending(self.pointer)
        ):
            # OpenSSL would come to the same result, but would allocate a buffer first.
            return WANT_MORE
        if lib.peek_error():
            # Old errors of other code in the queue would be taken for ours.
            lib.clear_errors()
        if lib.read(self.pointer, into, size, &got) > 0:
            return <Py_ssize_t>got
        outcome = lib.outcome(self.pointer, 0)
        if outcome == ERROR_WANT_READ:
            return WANT_MORE
        if outcome == ERROR_ZERO_RETURN:
            return ENDED
        return self.fail(outcome)

    cdef int write(self, const unsigned char *data, size_t size) except -1:
        cdef size_t taken = 0
        if not self.direct:
            return SslObjectEngine.write(self, data, size)
        while size:
            if lib.peek_error():
                lib.clear_errors()
            self.records += 1
            if self.records > self.records_of_key:
                self.records = 1
                # Goes out with what is written next.
                if not lib.key_update(self.pointer, KEY_UPDATE_NOT_REQUESTED):
                    return self.fail(ERROR_SSL)
            if lib.write(
                self.pointer, data, min(size, <size_t>RECORD_BYTES), &taken
            ) <= 0:
                return self.fail(lib.outcome(self.pointer, 0))
            data += taken
            size -= taken
        return 0

    cdef int fail(self, int outcome) except -1:
        """Raise for what `SSL_get_error` says; as Python would, where it can be had.

        OpenSSL does nothing any more on a connection that has failed: so a handshake
        finds the errors that are still queued, and Python tells the last of them.
        """
        cdef unsigned long code = lib.peek_last_error()
        cdef const char *words = lib.reason_string(code) if code else NULL
        cdef str reason = words.decode("ascii", "replace") if words != NULL else ""
        if not code and outcome == ERROR_ZERO_RETURN:
            raise bare(ssl.SSLZeroReturnError, outcome, "the peer has closed TLS")
        if not code and outcome == ERROR_SYSCALL:
            raise bare(ssl.SSLEOFError, ssl.SSL_ERROR_EOF, "the stream was cut")
        try:
            self.ssl.do_handshake()
        except SSLError as error:
            # For some Python has words of its own.
            name = reason.upper().replace(" ", "_")
            if reason and (reason in str(error) or error.reason == name):
                raise
        finally:
            lib.clear_errors()
        raise bare(SSLError, outcome, f"TLS failed: {reason or 'for no reason'}")

    cdef bytes output(self):
        return self.bio.take()

    cdef int close(self) except -1:
        SslObjectEngine.close(self)
        self.direct = False
        self.pointer = NULL
        self.handle = None
        # It is not read any more.
        return self.bio.drop()


cdef object bare(kind, int number, str text):
    """An error without what only Python has tables for."""
    error = kind(number, text)
    error.library = error.reason = None
    return error
