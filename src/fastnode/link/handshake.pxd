from fastnode.link.connection cimport Connection
from fastnode.link.succession cimport Succession


cdef class Handshake(Connection):
    cdef readonly object owner
    cdef readonly object settings
    cdef readonly bint dialer
    cdef readonly Succession succession

    # Where the link stands (machine.State) and which kinds may come (a bit mask).
    cdef object state_
    cdef unsigned int allowed

    # Our HELLO, the peer's, and the judgement of it.
    cdef readonly object hello
    cdef readonly object peer_hello
    cdef object decision
    # When we sent ours, and how long the peer took to answer it, seconds.
    cdef double spoke_at
    cdef double round_trip
    cdef readonly object established
    cdef readonly object peer

    # Until a dialer's handshake is complete: how much is read at once, 0 afterwards;
    # the beginning of a record that is not whole.
    cdef size_t readable
    cdef bytes held
    # What the kernel was told to wait for, bytes; 0: nothing.
    cdef size_t lowest
    # Whether the owner has admitted the peer. Before, and after the TLS handshake, it
    # may send so many bytes more.
    cdef bint admitted
    cdef size_t introduction

    cdef size_t hold(self, size_t size) except? 0
    cdef int read_on(self, size_t size) except -1
    cdef int enter(self, event) except -1
    cdef int peer_moved(self) except -1
    cdef int say_hello(self) except -1
    cdef int on_hello(self, bytes body) except -1
    cdef int come_up(self) except -1
