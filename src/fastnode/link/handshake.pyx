"""Handshake: a connection until both sides have accepted each other.

TLS, then a HELLO in each direction and the dialer's ACCEPT; the owner, an acceptor or a
dialer, judges the peer. What comes after it is for the subclass, `LinkProtocol`.
"""

from libc.string cimport memcpy

from fastnode.buffers.pool cimport BufferPool
from fastnode.link.connection cimport Connection
from fastnode.link.records cimport whole_records
from fastnode.wire.frame cimport (
    ACCEPT,
    CALL,
    CONFIRM,
    ENDPOINT,
    HELLO,
    MESSAGE,
    MOVED,
)

import logging
import socket
from time import perf_counter

from fastnode.errors import CloseReason, FastnodeError
from fastnode.limits import HANDSHAKE_PART_BYTES, MAX_INTRODUCTION_BYTES
from fastnode.link import endings
from fastnode.link.machine import Event, State, frame_mask, next_state
from fastnode.wire.hello import Hello

log = logging.getLogger("fastnode.link")

cdef size_t PART = HANDSHAKE_PART_BYTES

# What a peer sends no more after its MOVED.
cdef unsigned int UNTIL_MOVED = (
    1 << ENDPOINT | 1 << MESSAGE | 1 << CALL | 1 << CONFIRM | 1 << MOVED
)


cdef class Handshake(Connection):
    """The states before a link is up.

    Args:
        engine: a fresh `TlsEngine`.
        owner: judges the peer and hears how the link fares; see `LinkOwner`.
        settings: limits and times.
        pool: slabs of the node.
        receive_buffer: a writable buffer, shared with other links of this loop.
        dialer: whether we made the connection.
    """

    def __init__(
        self,
        engine,
        owner,
        settings,
        BufferPool pool not None,
        receive_buffer,
        *,
        bint dialer,
    ):
        Connection.__init__(self, engine, pool, receive_buffer)
        self.owner = owner
        self.settings = settings
        self.dialer = dialer
        self.state_ = State.TLS
        self.introduction = MAX_INTRODUCTION_BYTES
        self.established = self.loop.create_future()

    @property
    def state(self):
        """Where the link stands."""
        return self.state_

    cdef int enter(self, event) except -1:
        self.state_ = next_state(self.state_, event)
        self.allowed = frame_mask(self.state_)
        if self.succession.moved:
            self.peer_moved()
        return 0

    cdef int peer_moved(self) except -1:
        """The peer begins no more messages and calls on this link."""
        self.allowed &= ~UNTIL_MOVED
        return 0

    cdef int on_made(self) except -1:
        self.timer = self.loop.call_at(
            self.began + self.settings.handshake_timeout, self.handshake_expired
        )
        if not self.dialer and self.owner.alpn is not None:
            self.held = b""
            self.readable = PART
        return 0

    # --- reading from a stranger ------------------------------------------------

    def get_buffer(self, sizehint):
        """Where the transport puts ciphertext."""
        cdef Py_ssize_t at
        if self.readable and not self.ended:
            at = len(self.held)
            return self.receive_view[at : at + <Py_ssize_t>self.readable]
        if not self.admitted:
            # What comes in one read is worked on in one go.
            return self.receive_view[: MAX_INTRODUCTION_BYTES]
        return self.receive_view

    def buffer_updated(self, Py_ssize_t nbytes):
        """Ciphertext has come."""
        cdef bint strange = self.readable > 0
        cdef bytes held
        if self.ended:
            return
        if self.secure and not self.admitted:
            if <size_t>nbytes > self.introduction:
                self.on_failure(endings.introduced_itself_too_long(self.peer_text()))
                return
            self.introduction -= <size_t>nbytes
        if strange:
            nbytes = self.hold(<size_t>nbytes)
        if nbytes:
            self.receive_guarded(nbytes, False)
        if strange and (self.ended or not self.readable):
            # Nothing waits for the rest of a record any more.
            held = self.held
            self.held = None
            self.read_on(0)
            if held and not self.ended:
                memcpy(<void *>&self.receive[0], <const char *>held, len(held))
                self.receive_guarded(len(held), False)

    cdef size_t hold(self, size_t size) except? 0:
        """Keep what is behind the last whole record; returns what is to be fed now."""
        cdef unsigned char *data = <unsigned char *>&self.receive[0]
        cdef size_t missing
        cdef size_t whole
        if self.held:
            memcpy(data, <const char *>self.held, len(self.held))
            size += <size_t>len(self.held)
        whole = whole_records(data, size, &missing)
        self.held = (<const char *>data)[whole:size]
        self.read_on(max(missing, PART))
        return whole

    cdef int read_on(self, size_t size) except -1:
        """Read up to `size` bytes next, 0: as usual. Where they are more than a part,
        all at once, if the kernel can be told to wait for them."""
        cdef bint waits = size > PART
        if not waits and self.lowest <= 1:
            return 0
        if size:
            self.readable = size
        self.lowest = size if waits else 1
        try:
            self.transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_RCVLOWAT, self.lowest
            )
            if waits:
                # What has come of it would be read before anybody asks the kernel.
                self.transport.pause_reading()
                self.loop.call_soon(self.resume)
        except (AttributeError, OSError, RuntimeError):
            log.debug("a large record is read as it comes", exc_info=True)
        return 0

    def resume(self):
        """Read again."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()

    # --- the handshake --------------------------------------------------------

    cdef int on_secure(self) except -1:
        """TLS is up: the dialer introduces itself."""
        self.readable = 0
        alpn = self.engine.alpn
        if alpn != self.owner.alpn:
            self.refuse(endings.no_alpn(self.peer_text(), self.owner.alpn, alpn))
            return 0
        self.enter(Event.TLS_DONE)
        if self.dialer:
            self.say_hello()
        return 0

    cdef int say_hello(self) except -1:
        self.spoke_at = perf_counter()
        self.hello = self.succession.introduce(self.settings.hello, self.dialer)
        return self.outbox.frame(HELLO, 0, self.hello.encode())

    cdef int on_hello(self, bytes body) except -1:
        self.peer_hello = Hello.decode(body)
        if self.dialer:
            self.round_trip = perf_counter() - self.spoke_at
        self.enter(Event.HELLO_RECEIVED)
        if self.settings.hello.version_with(self.peer_hello) is None:
            self.refuse(endings.no_version(self.settings.hello, self.peer_hello))
            return 0
        self.decision = self.loop.create_task(self.decide())
        return 0

    async def decide(self):
        """Let the owner judge the peer; then accept or refuse it."""
        try:
            try:
                peer = await self.owner.admit(self)
            finally:
                self.decision = None
        except FastnodeError as error:
            # Who judged has this link in the frames of the traceback.
            self.refuse(error.with_traceback(None))
            return
        except Exception as error:
            log.exception("judging %s failed", self.peer_text())
            self.refuse(endings.no_verdict(self.peer_text(), error))
            return
        if self.state_ is not State.DECIDING:
            return
        self.peer = peer
        self.admitted = True
        self.outbox.begin(self.peer_hello, self.settings.hello)
        if self.dialer:
            self.outbox.frame(ACCEPT, 0, b"")
            self.enter(Event.ACCEPT_SENT)
            self.come_up()
        else:
            self.say_hello()
            self.enter(Event.WELCOMED)

    def refuse(self, error):
        """Refuse the peer, and tell it why."""
        self.end(
            error,
            getattr(error, "close_reason", CloseReason.REFUSED),
            error.message,
            error.hint,
        )

    def handshake_expired(self):
        """TLS and HELLO took too long."""
        ended = (
            endings.judged_too_slowly
            if self.state_ is State.DECIDING
            else endings.too_slow
        )
        self.refuse(ended(self.peer_text(), self.settings.handshake_timeout))

    # --- who ------------------------------------------------------------------

    def peer_text(self):
        """The best name for the peer that is known by now."""
        if self.peer is not None:
            return self.peer.name
        if self.peer_hello is not None:
            return str(self.peer_hello.name)
        if self.address:
            return f"{self.address[0]}:{self.address[1]}"
        return "the peer"

    # --- what a subclass does with it -----------------------------------------

    cdef int come_up(self) except -1:
        """Both sides have accepted each other."""
        raise NotImplementedError

    def end(self, error, reason=None, text="", hint=None):
        """The end of the link, see `LinkProtocol.end`."""
        raise NotImplementedError
