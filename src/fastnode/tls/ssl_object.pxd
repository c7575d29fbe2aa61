from fastnode.openssl.handle cimport Handle
from fastnode.tls.engine cimport TlsEngine


cdef class SslObjectEngine(TlsEngine):
    # The SSLObject; None once the engine is closed.
    cdef object ssl
    # Owns `ssl` and its SSL; None where that SSL cannot be reached, and once the engine
    # is closed.
    cdef Handle handle
    # What the properties return after that: certificate, version, cipher, group, ALPN.
    cdef tuple remembered
    # Bytes that may still come until the handshake is complete.
    cdef size_t room
    cdef bint complete
    # KeyUpdates and session tickets that may still come until the peer is judged.
    cdef int messages
    # The verdict on the peer's certificate.
    cdef object found
    # Bound methods, looked up once.
    cdef object ssl_read
    cdef object ssl_write

    cdef int begin(self, ssl_object, bint server_side) except -1
    cdef int send_alert(self) except -1
    cdef int put(self, const unsigned char *data, size_t size) except -1
    cdef Py_ssize_t read_counted(
        self, unsigned char *into, size_t size
    ) except -1
    cdef int lend(self, const unsigned char *data, size_t size) except -1
