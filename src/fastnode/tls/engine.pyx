"""TlsEngine: TLS without I/O. Ciphertext in, plaintext out, and back.

The interface that a link drives; `fastnode.tls.direct`, `fastnode.tls.memory_bio` and
`fastnode.tls.plaintext` fill it. An engine knows no socket, loop or clock.

What an engine does not fill does nothing. So an engine that fills nothing never
completes its handshake, and its link never comes up.
"""

from cpython.bytearray cimport PyByteArray_GET_SIZE

import ssl

cdef extern from "Python.h":
    Py_ssize_t PY_SSIZE_T_MAX

#: What an engine raises when TLS fails; translated once, by `fastnode.tls.refusal`.
TLS_ERRORS = (ssl.SSLError,)


cdef class TlsEngine:
    """One side of one connection.

    `feed` takes ciphertext from the network; `handshake` and `read` work on it;
    `write` takes plaintext; `output` is the ciphertext to send, due after any of
    the others, errors included: a refused handshake leaves its alert there.
    """

    cdef int feed(self, const unsigned char *data, size_t size) except -1:
        """Take in ciphertext; it is borrowed until `keep`."""
        return 0

    cdef int keep(self) except -1:
        """What was fed goes back to its owner: copy what was not read."""
        return 0

    cdef int feed_eof(self) except -1:
        """The network will bring no more."""
        return 0

    cdef int handshake(self) except -1:
        """1 when the handshake is complete, 0 when it needs more.

        Raises:
            ssl.SSLError: refused, by either side.
        """
        return 0

    cdef int settle(self) except -1:
        """The peer was judged: forget what only that was for."""
        return 0

    cdef int keep_buffers(self, bint held) except -1:
        """Keep the memory that records are read and written in, from one to the next:
        for connections that are busy. Else, and at first, it is freed with each."""
        self.holding = held
        return 0

    cdef Py_ssize_t read(self, unsigned char *into, size_t size) except -1:
        """Decrypt into borrowed memory: the number of bytes, WANT_MORE or ENDED.

        ENDED means an orderly end (close_notify).

        Raises:
            ssl.SSLError: an alert, a broken record, a truncated stream.
        """
        return WANT_MORE

    cdef int write(self, const unsigned char *data, size_t size) except -1:
        """Encrypt all of `data`; full records if it is a multiple of 16 KiB."""
        return 0

    cdef bytes output(self):
        """Ciphertext to send, or None; taken out of the engine."""
        return None

    cdef int close(self) except -1:
        """Say that we will send no more (close_notify), and free what TLS holds.

        `output` still returns what TLS had to say, the properties keep their values,
        and nothing more is read or written.
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
