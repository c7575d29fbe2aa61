from fastnode.link.connection cimport Connection
from fastnode.link.records cimport Hellos


cdef class Handshake:
    # The `LinkProtocol`, until its connection is gone.
    cdef object protocol
    cdef Connection connection
    cdef object owner
    cdef object settings
    cdef bint dialer

    # The HELLOs of both sides, and the task that checks the peer.
    cdef readonly object hello
    cdef readonly object peer_hello
    cdef object decision
    # When we sent our HELLO, and the seconds until the peer answered.
    cdef double spoke_at
    cdef double round_trip

    cdef int begin(self) except -1
    cdef int secure(self) except -1
    cdef int say_hello(self) except -1
    cdef int on_hello(self, bytes body) except -1
    cdef int on_accept(self) except -1
    cdef int close(self) except -1


cdef class StrangerReader:
    cdef Connection connection
    # The bytes that are read at once; the beginning of an incomplete record.
    cdef size_t readable
    cdef bytes held
    # The state of the dialer's ClientHello, and whether its size is allowed.
    cdef Hellos hellos
    cdef bint fits
    # The bytes that the kernel was told to wait for; 0 for none.
    cdef size_t lowest
    # Whether the kernel does not support this.
    cdef bint deaf
    # Whether the engine gets complete records only. True for a dialer until TLS is up.
    cdef bint whole
    # The bytes that the peer may send between its TLS handshake and its admission.
    cdef size_t introduction

    cdef size_t hold_record(self, size_t size) except? 0
    cdef int read_on(self, size_t size) except -1
    cdef int refuse_hello(self) except -1
    cdef int take_rest(self) except -1
