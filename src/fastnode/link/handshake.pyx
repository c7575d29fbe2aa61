"""Handshake: the life of a connection until both sides have accepted each other.

The TLS handshake comes first. Then each side sends HELLO, and the dialer sends ACCEPT.
The owner, an acceptor or a dialer, checks the peer. `LinkProtocol` changes the states,
and handles everything after the handshake.
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
    """Runs a connection until its link is up.

    Args:
        protocol: the `LinkProtocol` of the connection.
        connection: the connection.
        owner: checks the peer; see `LinkOwner`.
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
        """Begin the TLS handshake on the new TCP connection."""
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
        """Continue after the TLS handshake.

        A dialer sends HELLO, unless it has done so on another connection of the same
        dial.
        """
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
        """Handle the peer's HELLO."""
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
        """Handle the ACCEPT of a dialer that we have accepted."""
        self.round_trip = perf_counter() - self.spoke_at
        self.protocol.enter(Event.ACCEPT_RECEIVED)
        self.protocol.come_up()
        return 0

    async def decide(self):
        """Let the owner check the peer, and accept or refuse it."""
        protocol = self.protocol
        peer = None
        try:
            try:
                peer = await self.owner.admit(protocol)
            finally:
                self.decision = None
        except FastnodeError as error:
            # The frames of the traceback would keep this link alive.
            protocol.refuse(error.with_traceback(None))
        except BaseException as error:
            # A cancellation comes from `close`. After any other exception the peer
            # needs an answer, and the slot of the handshake has to become free.
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
        """End the connection, because TLS and HELLO took too long."""
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
        """Cancel the check of the peer, because the link has ended."""
        if self.decision is not None:
            self.decision.cancel()
        return 0


# --- reading from a stranger --------------------------------------------------------


@cython.final
cdef class StrangerReader:
    """The transport callbacks of a connection until the peer is admitted.

    On an accepted connection the reader reads few bytes at once before TLS is up. It
    gives the engine complete records only, so that OpenSSL keeps no buffer for a
    stranger; see `fastnode.link.records`. It refuses a ClientHello that announces more
    than MAX_CLIENT_HELLO_BYTES before the engine gets it. Between the TLS handshake and
    the admission, a peer may send only as many bytes as a HELLO needs, because each
    record and each KeyUpdate costs time. After that, the callbacks of the connection
    itself are used.

    Args:
        connection: the connection that gets complete records.
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
        # All other callbacks are those of the connection.
        return getattr(self.connection, name)

    def get_buffer(self, sizehint):
        """Where the transport puts ciphertext."""
        cdef Py_ssize_t at
        if self.connection.ended:
            return self.connection.receive_view
        if not self.whole:
            # All bytes of one read are handled at once, so this bounds their number.
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
        """Refuse a ClientHello that is too large: tell the dialer, and end.

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
        """Give the engine the rest, because TLS is up or has failed."""
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
        """Keep the bytes after the last complete record.

        Returns:
            The number of bytes that the engine gets now.
        """
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
            # The incomplete record is checked again when it is complete.
            known = self.hellos
            self.fits = hellos_fit(&known, data + whole, size - whole, MOST_HELLO)
            self.hellos.overflow = known.overflow
        self.held = (<const char *>data)[whole:size]
        self.read_on(max(missing, PART))
        return whole

    cdef int read_on(self, size_t size) except -1:
        """Read up to `size` bytes next; 0 reads as usual.

        Many bytes are read all at once, if the kernel can wait for them.
        """
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
                # Otherwise the loop would read the first part before the kernel waits.
                transport.pause_reading()
                self.connection.loop.call_soon(self.resume)
        except (AttributeError, OSError, RuntimeError):
            # Do not try again: on macOS and BSD it always fails after a reset.
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
