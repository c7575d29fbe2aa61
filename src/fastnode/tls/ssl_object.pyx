"""SslObjectEngine: what engines around an `ssl.SSLObject` have in common.

They differ in what is under the object: where its ciphertext comes from and goes.
"""

from cpython.buffer cimport PyBUF_READ, PyBUF_WRITE
from cpython.memoryview cimport PyMemoryView_FromMemory

from fastnode.openssl.burden cimport ANY_NUMBER, TOO_MANY, allow_messages
from fastnode.tls.engine cimport ENDED, WANT_MORE, TlsEngine

import ssl

from fastnode.errors import ProtocolError, Side
from fastnode.limits import (
    MAX_CLIENT_HANDSHAKE_BYTES,
    MAX_POST_HANDSHAKE_MESSAGES,
    MAX_SERVER_HANDSHAKE_BYTES,
)
from fastnode.openssl.constrained import constrained_by
from fastnode.openssl.verification import expect_verdict, take_verdict

cdef enum:
    # OpenSSL reads and writes at most one record at a time.
    RECORD_BYTES = 16 << 10
    # What is fed at once during a handshake.
    PART_BYTES = 2 << 10

# A record whose length is not allowed. The zeros complete the record that OpenSSL has
# begun to read, if there is one: then that record is broken.
cdef bytes BROKEN = b"\x17\x03\x03\xff\xff" + bytes(17 << 10)

cdef object WantRead = ssl.SSLWantReadError
cdef object ZeroReturn = ssl.SSLZeroReturnError
cdef object SSLError = ssl.SSLError


cdef class SslObjectEngine(TlsEngine):
    """TLS by Python's own `ssl` module.

    A subclass calls `begin`, and fills `lend`, `feed_eof` and `output`.
    """

    cdef int begin(self, ssl_object, bint server_side) except -1:
        """Take a fresh `SSLObject`."""
        self.ssl = ssl_object
        self.room = (
            MAX_CLIENT_HANDSHAKE_BYTES if server_side else MAX_SERVER_HANDSHAKE_BYTES
        )
        self.messages = MAX_POST_HANDSHAKE_MESSAGES
        self.ssl_read = self.ssl.read
        self.ssl_write = self.ssl.write
        return 0

    cdef int lend(self, const unsigned char *data, size_t size) except -1:
        """Ciphertext, borrowed until `keep`."""
        return 0

    cdef int feed(self, const unsigned char *data, size_t size) except -1:
        # In parts: what a peer sends behind its last handshake message is judged after
        # that, and a BIO may keep the size that it once had.
        while not self.complete and size > PART_BYTES:
            self.put(data, PART_BYTES)
            data += PART_BYTES
            size -= PART_BYTES
            self.handshake()
        return self.put(data, size)

    cdef int put(self, const unsigned char *data, size_t size) except -1:
        if not self.complete:
            if size > self.room:
                self.send_alert()
                raise ProtocolError(
                    "the peer sent too much before its TLS handshake was complete",
                    side=Side.REMOTE,
                    hint="it is no fastnode peer, or shows far too many certificates",
                )
            self.room -= size
        return self.lend(data, size)

    cdef int send_alert(self) except -1:
        """Make OpenSSL end the handshake with an alert.

        OpenSSL has no function for that. It sends an alert for a record that is broken.
        """
        self.lend(BROKEN, len(BROKEN))
        try:
            self.ssl.do_handshake()
        except SSLError:
            pass
        return 0

    cdef int handshake(self) except -1:
        if self.ssl is None:
            raise closed()
        cdef bint complete = True
        expect_verdict()
        try:
            self.ssl.do_handshake()
        except WantRead:
            complete = False
        finally:
            found = take_verdict()
            if found is not None:
                self.found = found
        if complete:
            self.complete = True
        return complete

    cdef int settle(self) except -1:
        self.found = None
        self.messages = ANY_NUMBER
        return 0

    cdef Py_ssize_t read(self, unsigned char *into, size_t size) except -1:
        try:
            return self.read_counted(into, size)
        except SSLError:
            if self.messages != TOO_MANY:
                raise
        raise ProtocolError(
            f"the peer sent more than {MAX_POST_HANDSHAKE_MESSAGES} TLS messages "
            "(KeyUpdate, NewSessionTicket) between the end of its TLS handshake "
            "and its admission",
            side=Side.REMOTE,
            hint="it is no fastnode peer, or hostile: see who it is",
        )

    cdef Py_ssize_t read_counted(
        self, unsigned char *into, size_t size
    ) except -1:
        """`read`, with the messages counted that make OpenSSL derive keys."""
        cdef Py_ssize_t got
        if self.ssl is None:
            return ENDED
        allow_messages(self.messages)
        try:
            got = self.ssl_read(
                size, PyMemoryView_FromMemory(<char *>into, size, PyBUF_WRITE)
            )
            if got <= 0:
                got = ENDED
        except WantRead:
            got = WANT_MORE
        except ZeroReturn:
            got = ENDED
        finally:
            self.messages = allow_messages(ANY_NUMBER)
        return got

    cdef int write(self, const unsigned char *data, size_t size) except -1:
        cdef size_t part
        if self.ssl is None:
            raise closed()
        while size:
            part = min(size, <size_t>RECORD_BYTES)
            part = self.ssl_write(
                PyMemoryView_FromMemory(<char *>data, part, PyBUF_READ)
            )
            data += part
            size -= part
        return 0

    cdef int close(self) except -1:
        if self.ssl is None:
            return 0
        # OpenSSL reads what has come, and looks for the peer's close_notify.
        allow_messages(self.messages)
        try:
            self.ssl.unwrap()
        except SSLError:
            # It wants the peer's close_notify, which we do not wait for here, or
            # the connection has failed already; ours is in the output if it can be.
            pass
        finally:
            allow_messages(ANY_NUMBER)
        self.remembered = (
            self.certificate, self.version, self.cipher, self.group, self.alpn
        )
        # OpenSSL holds 60 to 80 KiB for a connection whose handshake was refused, and
        # the socket of such a connection is open for LINGER_SECONDS.
        self.ssl = self.ssl_read = self.ssl_write = self.handle = None
        return 0

    @property
    def certificate(self):
        if self.ssl is None:
            return self.remembered[0]
        found = None
        try:
            found = self.ssl.getpeercert(True) or None
        except ValueError:
            # The handshake is not complete, or TLS has failed.
            pass
        return found

    @property
    def verdict(self):
        return self.found

    @property
    def constrained_by(self):
        return () if self.ssl is None else constrained_by(self.ssl, self.found)

    @property
    def server_name(self):
        if self.ssl is None or self.ssl.server_side:
            return None
        if not self.ssl.context.check_hostname:
            return None
        return self.ssl.server_hostname

    @property
    def version(self):
        return self.remembered[1] if self.ssl is None else self.ssl.version()

    @property
    def cipher(self):
        cdef object cipher
        if self.ssl is None:
            return self.remembered[2]
        cipher = self.ssl.cipher()
        return cipher[0] if cipher else None

    @property
    def group(self):
        if self.ssl is None:
            return self.remembered[3]
        return None if self.handle is None else self.handle.group

    @property
    def alpn(self):
        if self.ssl is None:
            return self.remembered[4]
        return self.ssl.selected_alpn_protocol()


cdef object closed():
    """The error for work that is asked of an engine after `close`."""
    error = SSLError(ssl.SSL_ERROR_SSL, "this side has closed TLS")
    error.library = error.reason = None
    return error
