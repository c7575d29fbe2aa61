"""TlsEngine over `ssl.SSLObject` and two `ssl.MemoryBIO`s: works everywhere."""

cimport cython
from cpython.buffer cimport PyBUF_READ
from cpython.memoryview cimport PyMemoryView_FromMemory

from fastnode.tls.ssl_object cimport SslObjectEngine

import ssl

from fastnode.openssl.handle import wrap


@cython.final
cdef class MemoryBioEngine(SslObjectEngine):
    """TLS by Python's own `ssl` module alone.

    Args:
        context: an `ssl.SSLContext` that is not changed any more.
        server_side: whether we are the server.
        server_name: sent as SNI and verified, as the context says; clients only.
    """

    def __init__(self, context, *, bint server_side, server_name=None):
        cdef object outgoing = ssl.MemoryBIO()
        self.incoming = ssl.MemoryBIO()
        self.feed_bytes = self.incoming.write
        self.take = outgoing.read
        # The handle only says which group was negotiated.
        self.handle = wrap(
            context,
            server_side=server_side,
            server_name=server_name,
            incoming=self.incoming,
            outgoing=outgoing,
        )
        self.begin(
            self.handle.ssl
            if self.handle is not None
            else context.wrap_bio(
                self.incoming,
                outgoing,
                server_side=server_side,
                server_hostname=server_name,
            ),
            server_side,
        )

    cdef int lend(self, const unsigned char *data, size_t size) except -1:
        # It is copied.
        self.feed_bytes(PyMemoryView_FromMemory(<char *>data, size, PyBUF_READ))
        return 0

    cdef int feed_eof(self) except -1:
        self.incoming.write_eof()
        return 0

    cdef bytes output(self):
        cdef bytes data = self.take()
        return data if data else None

    cdef int close(self) except -1:
        SslObjectEngine.close(self)
        # Nothing of it is read any more, and nothing more is to come.
        self.incoming = ssl.MemoryBIO()
        self.feed_bytes = self.incoming.write
        return 0
