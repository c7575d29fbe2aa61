from fastnode.link.connection cimport Connection
from fastnode.link.records cimport Hellos


cdef class Handshake:
    # The `LinkProtocol`, until its connection is gone.
    cdef object protocol
    cdef Connection connection
    cdef object owner
    cdef object settings
    cdef bint dialer

    # The HELLOs of both sides, and the judgement of the peer's, a task.
    cdef readonly object hello
    cdef readonly object peer_hello
    cdef object decision
    # When we sent ours, and how long the peer took to answer it, seconds.
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
    # How much is read at once; the beginning of a record that is not whole.
    cdef size_t readable
    cdef bytes held
    # What is known of the dialer's ClientHello, and whether it may be so large.
    cdef Hellos hellos
    cdef bint fits
    # What the kernel was told to wait for, bytes; 0: nothing.
    cdef size_t lowest
    # The kernel cannot be told.
    cdef bint deaf
    # Whether only whole records are given to the engine: of a dialer, until TLS is up.
    cdef bint whole
    # How many bytes the peer may send after its TLS handshake until it is admitted.
    cdef size_t introduction

    cdef size_t hold_record(self, size_t size) except? 0
    cdef int read_on(self, size_t size) except -1
    cdef int refuse_hello(self) except -1
    cdef int take_rest(self) except -1
