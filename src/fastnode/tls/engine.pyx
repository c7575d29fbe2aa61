"""TlsEngine: TLS without I/O. It decrypts and encrypts bytes in memory.

This is the interface that a link uses. `fastnode.tls.direct`, `fastnode.tls.memory_bio`
and `fastnode.tls.plaintext` implement it. An engine knows no socket, loop or clock.

A method that an engine does not implement does nothing. So an engine without any method
never completes its handshake, and its link never comes up.
"""

from cpython.bytearray cimport PyByteArray_GET_SIZE

import ssl

cdef extern from "Python.h":
    Py_ssize_t PY_SSIZE_T_MAX

#: The exceptions of an engine when TLS fails. `fastnode.tls.refusal` translates them.
TLS_ERRORS = (ssl.SSLError,)


cdef class TlsEngine:
    """One side of one connection.

    `feed` takes ciphertext from the network. `handshake` and `read` process it. `write`
    takes plaintext. `output` returns the ciphertext to send. Call it after each of the
    others, even after an error, because a refused handshake leaves an alert there.
    """

    cdef int feed(self, const unsigned char *data, size_t size) except -1:
        """Take ciphertext. The memory is borrowed until `keep`."""
        return 0

    cdef int keep(self) except -1:
        """Copy ciphertext that was not read yet, because its memory will be reused."""
        return 0

    cdef int feed_eof(self) except -1:
        """Take note that no more ciphertext will come."""
        return 0

    cdef int handshake(self) except -1:
        """Return 1 when the handshake is complete, 0 when it needs more ciphertext.

        Raises:
            ssl.SSLError: one of the two sides refused the handshake.
        """
        return 0

    cdef int settle(self) except -1:
        """Free the data that only the check of the peer needed."""
        return 0

    cdef int keep_buffers(self, bint held) except -1:
        """Choose whether the buffers of records are kept between records.

        Busy connections keep them. At first, and on idle connections, they are freed
        after each record.
        """
        self.holding = held
        return 0

    cdef Py_ssize_t read(self, unsigned char *into, size_t size) except -1:
        """Decrypt into borrowed memory. Return the number of bytes, WANT_MORE or ENDED.

        ENDED means an orderly end (close_notify).

        Raises:
            ssl.SSLError: an alert, a broken record, a truncated stream.
        """
        return WANT_MORE

    cdef int write(self, const unsigned char *data, size_t size) except -1:
        """Encrypt all of `data`. All records are full if it is a multiple of 16 KiB."""
        return 0

    cdef bytes output(self):
        """Remove and return the ciphertext to send, or None."""
        return None

    cdef int close(self) except -1:
        """Send close_notify, and free the memory of TLS.

        `output` still returns the last ciphertext, and the properties keep their
        values. Nothing more can be read or written.
        """
        return 0

    # --- the view from Python: tests ------------------------------------------

    def receive(
        self,
        const unsigned char[::1] data not None,
        *,
        bint eof=False,
        Py_ssize_t most=PY_SSIZE_T_MAX,
    ):
        """What a connection does with ciphertext, and then with the end of it.

        Args:
            most: no more is read once there are so many bytes of plaintext.

        Returns:
            Whether the handshake is complete, the plaintext, and whether the peer said
            that there will be no more.

        Raises:
            ssl.SSLError: as `handshake` and `read`; the plaintext before it is lost.
        """
        cdef bytearray plaintext = bytearray()
        cdef unsigned char[1 << 14] room
        cdef Py_ssize_t got = WANT_MORE
        cdef bint complete
        try:
            if data.shape[0]:
                self.feed(&data[0], <size_t>data.shape[0])
            if eof:
                self.feed_eof()
            complete = self.handshake()
            while complete and PyByteArray_GET_SIZE(plaintext) < most:
                got = self.read(room, sizeof(room))
                if got <= 0:
                    break
                plaintext += (<const char *>room)[:got]
        finally:
            self.keep()
        return complete, bytes(plaintext), got == ENDED

    def send(self, const unsigned char[::1] data not None):
        """Encrypt."""
        if data.shape[0]:
            self.write(&data[0], <size_t>data.shape[0])

    def sent(self):
        """The ciphertext that is to be sent; taken out."""
        return self.output() or b""

    def judged(self):
        """The peer was judged, see `settle`."""
        self.settle()

    def busy(self, bint busy):
        """See `keep_buffers`."""
        self.keep_buffers(busy)

    def end(self):
        """See `close`."""
        self.close()

    # --- who the peer is ------------------------------------------------------

    @property
    def certificate(self):
        """The peer's certificate as it was presented, DER; None if none was, before
        the handshake is complete, and after TLS has failed."""
        return None

    @property
    def version(self):
        """The protocol's version, for example ``TLSv1.3``; None in plaintext."""
        return None

    @property
    def cipher(self):
        """The cipher suite's name; None in plaintext."""
        return None

    @property
    def group(self):
        """The name of the key-exchange group, for example ``X25519``.

        None in plaintext, before the handshake is complete, and where the TLS library
        does not say it.
        """
        return None

    @property
    def alpn(self):
        """The application protocol that was agreed on; None if none was."""
        return None

    @property
    def verdict(self):
        """The `Verdict` on the peer's certificate; None where none was given."""
        return None

    @property
    def constrained_by(self):
        """The certificates whose name constraints bind the peer's certificate, DER;
        None where they cannot be known. Until `settle`."""
        return ()

    @property
    def server_name(self):
        """The name that TLS verified in the server's certificate; None if this side is
        the server, or TLS verified no name."""
        return None
