"""Handshake: a connection until both sides have accepted each other.

TLS, then a HELLO in each direction and the dialer's ACCEPT. The owner, an acceptor or a
dialer, judges the peer. `LinkProtocol` enters the states, and has what comes after.
"""

cimport cython
from libc.string cimport memcpy

from fastnode.link.connection cimport Connection
from fastnode.link.records cimport Hellos, hellos_fit, whole_records
from fastnode.wire.frame cimport ACCEPT, HELLO

import logging
import socket
from time import perf_counter

from fastnode.dispatch.user_code import end_program, is_cancelled
from fastnode.errors import FastnodeError
from fastnode.limits import (
    HANDSHAKE_PART_BYTES,
    MAX_CLIENT_HELLO_BYTES,
    MAX_INTRODUCTION_BYTES,
)
from fastnode.link import endings, instances
from fastnode.link.machine import Event, State
from fastnode.link.transport_protocol import TransportProtocol
from fastnode.loggers import fields
from fastnode.tls.alerts import ILLEGAL_PARAMETER, RECORD_OVERFLOW, alert
from fastnode.wire.hello import Hello

log = logging.getLogger("fastnode.link")

cdef size_t PART = HANDSHAKE_PART_BYTES
cdef size_t MOST_HELLO = MAX_CLIENT_HELLO_BYTES


@cython.final
cdef class Handshake:
    """What happens on a connection before its link is up.

    Args:
        protocol: the `LinkProtocol` that it belongs to.
        connection: its connection.
        owner: judges the peer; see `LinkOwner`.
        settings: limits and times.
        dialer: whether we made the connection.
    """

    def __init__(
        self, protocol, Connection connection not None, owner, settings, bint dialer
    ):
        self.protocol = protocol
        self.connection = connection
        self.owner = owner
        self.settings = settings
        self.dialer = dialer

    cdef int begin(self) except -1:
        """The TCP connection is there."""
        connection = self.connection
        connection.timer = connection.loop.call_at(
            connection.began + self.settings.handshake_timeout, self.expired
        )
        strange = not self.dialer and self.owner.alpn is not None
        connection.transport.set_protocol(
            TransportProtocol(StrangerReader(connection, strange))
        )
        return 0

    cdef int secure(self) except -1:
        """TLS is up: the dialer introduces itself, unless another connection of the
        same dial did."""
        protocol = self.protocol
        alpn = self.connection.engine.alpn
        if alpn != self.owner.alpn:
            text = protocol.peer_text()
            protocol.refuse(endings.no_alpn(text, self.owner.alpn, alpn))
            return 0
        protocol.enter(Event.TLS_DONE)
        if self.dialer and self.owner.may_introduce(protocol):
            self.say_hello()
        return 0

    cdef int say_hello(self) except -1:
        self.spoke_at = perf_counter()
        self.hello = self.protocol.extensions.introduce(
            self.protocol.succession.introduce(
                instances.introduce(
                    self.settings.hello,
                    self.settings.workers,
                    additional=self.protocol.additional,
                ),
                self.dialer,
            )
        )
        return self.connection.outbox.frame(HELLO, 0, self.hello.encode())

    cdef int on_hello(self, bytes body) except -1:
        """The peer introduces itself."""
        self.peer_hello = Hello.decode(body)
        if self.dialer:
            self.round_trip = perf_counter() - self.spoke_at
        self.protocol.enter(Event.HELLO_RECEIVED)
        if self.settings.hello.version_with(self.peer_hello) is None:
            error = endings.no_version(self.settings.hello, self.peer_hello)
            self.protocol.refuse(error)
            return 0
        self.decision = self.connection.loop.create_task(self.decide())
        return 0

    cdef int on_accept(self) except -1:
        """The dialer, whom we welcomed, has accepted us."""
        self.round_trip = perf_counter() - self.spoke_at
        self.protocol.enter(Event.ACCEPT_RECEIVED)
        self.protocol.come_up()
        return 0

    async def decide(self):
        """Let the owner judge the peer; then accept or refuse it."""
        protocol = self.protocol
        peer = None
        try:
            try:
                peer = await self.owner.admit(protocol)
            finally:
                self.decision = None
        except FastnodeError as error:
            # Who judged has this link in the frames of the traceback.
            protocol.refuse(error.with_traceback(None))
        except BaseException as error:
            # A cancellation comes from `close`. Everything else would leave the peer
            # without an answer, and the handshake with its slot.
            if is_cancelled(error) or isinstance(error, GeneratorExit):
                raise
            log.exception(
                "judging %s failed",
                protocol.peer_text(),
                extra=fields(
                    "internal_error",
                    node=self.settings.hello.name,
                    peer=protocol.peer_text(),
                    link=protocol.number,
                    address=protocol.address,
                    error=error,
                ),
            )
            protocol.refuse(endings.no_verdict(protocol.peer_text(), error))
            end_program(error)
        if protocol.state is not State.DECIDING:
            return
        protocol.peer = peer
        self.connection.transport.set_protocol(TransportProtocol(self.connection))
        self.connection.outbox.begin(self.peer_hello, self.settings.hello)
        if self.dialer:
            self.connection.outbox.frame(ACCEPT, 0, b"")
            protocol.enter(Event.ACCEPT_SENT)
            protocol.come_up()
        else:
            self.say_hello()
            protocol.enter(Event.WELCOMED)

    def expired(self):
        """TLS and HELLO took too long."""
        protocol = self.protocol
        ended = (
            endings.judged_too_slowly
            if protocol.state is State.DECIDING
            else endings.too_slow
        )
        protocol.refuse(
            ended(protocol.peer_text(), self.settings.handshake_timeout)
        )

    cdef int close(self) except -1:
        """The link has ended: nobody is judged any more."""
        if self.decision is not None:
            self.decision.cancel()
        return 0


# --- reading from a stranger --------------------------------------------------------


@cython.final
cdef class StrangerReader:
    """The transport callbacks of a connection until the peer is admitted.

    Of what an accepted connection brings before TLS is up it reads little at once, and
    gives the engine whole records only, so that OpenSSL keeps no buffer for what a
    stranger sends; see `fastnode.link.records`. A ClientHello that announces more than
    MAX_CLIENT_HELLO_BYTES is refused before the engine is given it. Between the TLS
    handshake and the admission a peer may send no more than a HELLO needs, for each
    record and each KeyUpdate costs time. After that the callbacks are those of the
    connection itself.

    Args:
        connection: where whole records go.
        whole: whether the peer dialed.
    """

    def __init__(self, Connection connection not None, bint whole):
        self.connection = connection
        self.whole = whole
        self.held = b""
        self.hellos = Hellos((0, 0, 0, 0), 0, 0, False, False)
        self.readable = PART
        self.introduction = MAX_INTRODUCTION_BYTES

    def __getattr__(self, name):
        # The other callbacks are those of the connection.
        return getattr(self.connection, name)

    def get_buffer(self, sizehint):
        """Where the transport puts ciphertext."""
        cdef Py_ssize_t at
        if self.connection.ended:
            return self.connection.receive_view
        if not self.whole:
            # What comes in one read is worked on in one go.
            return self.connection.receive_view[: MAX_INTRODUCTION_BYTES]
        at = len(self.held)
        return self.connection.receive_view[at : at + <Py_ssize_t>self.readable]

    def buffer_updated(self, Py_ssize_t nbytes):
        """Ciphertext has come."""
        cdef Connection connection = self.connection
        if connection.ended:
            return
        if connection.secure:
            if <size_t>nbytes > self.introduction:
                connection.taker.introduced_too_long()
                return
            self.introduction -= <size_t>nbytes
        if self.whole:
            nbytes = self.hold_record(<size_t>nbytes)
            if not self.fits:
                self.refuse_hello()
                return
        if nbytes:
            connection.take_in(nbytes, False)
        if self.whole and (connection.ended or connection.secure):
            self.take_rest()

    cdef int refuse_hello(self) except -1:
        """The ClientHello is too large: tell the dialer, and end the connection.

        At this point nothing is encrypted yet. OpenSSL sends the same alert for a
        ClientHello above its own limit: it is well-formed, and its length is not
        acceptable (RFC 8446, section 6.2). If the record is too large as well, RFC 8446
        wants the alert that says so (section 5.1).
        """
        cdef Connection connection = self.connection
        self.held = b""
        connection.transport.write(
            alert(RECORD_OVERFLOW if self.hellos.overflow else ILLEGAL_PARAMETER)
        )
        return connection.taker.on_failure(endings.hello_too_large(MOST_HELLO))

    cdef int take_rest(self) except -1:
        """TLS is up, or has failed: nothing waits for the rest of a record any more."""
        cdef Connection connection = self.connection
        cdef bytes held = self.held
        self.whole = False
        self.held = b""
        self.read_on(0)
        if held and not connection.ended:
            memcpy(<void *>&connection.receive[0], <const char *>held, len(held))
            connection.take_in(len(held), False)
        return 0

    cdef size_t hold_record(self, size_t size) except? 0:
        """Keep what is behind the last whole record; returns what is to be fed now."""
        cdef unsigned char *data = <unsigned char *>&self.connection.receive[0]
        cdef size_t missing
        cdef size_t whole
        cdef Hellos known
        if self.held:
            memcpy(data, <const char *>self.held, len(self.held))
            size += <size_t>len(self.held)
        whole = whole_records(data, size, &missing)
        self.fits = hellos_fit(&self.hellos, data, whole, MOST_HELLO)
        if self.fits and whole < size:
            # The record behind them is looked at again when all of it is there.
            known = self.hellos
            self.fits = hellos_fit(&known, data + whole, size - whole, MOST_HELLO)
            self.hellos.overflow = known.overflow
        self.held = (<const char *>data)[whole:size]
        self.read_on(max(missing, PART))
        return whole

    cdef int read_on(self, size_t size) except -1:
        """Read up to `size` bytes next, 0: as usual. Where they are more than a part,
        all at once, if the kernel can be told to wait for them."""
        cdef bint waits = size > PART and not self.deaf
        cdef object transport = self.connection.transport
        if size:
            self.readable = size
        if transport is None or (not waits and self.lowest <= 1):
            return 0
        self.lowest = size if waits else 1
        try:
            transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_RCVLOWAT, self.lowest
            )
            if waits:
                # What has come of it would be read before anybody asks the kernel.
                transport.pause_reading()
                self.connection.loop.call_soon(self.resume)
        except (AttributeError, OSError, RuntimeError):
            # Not again: after a reset it fails each time on macOS and BSD.
            self.deaf = True
            log.debug(
                "a large record is read as it comes",
                exc_info=True,
                extra=fields("socket_option_refused", option="SO_RCVLOWAT"),
            )
        return 0

    def resume(self):
        """Read again."""
        if self.connection.may_read():
            self.connection.transport.resume_reading()
