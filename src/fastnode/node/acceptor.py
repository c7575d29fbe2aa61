"""An acceptor: a listening address, and the links that come in through it."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import math
import resource
import socket
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fastnode.certs.context import ALPN_PROTOCOL
from fastnode.dispatch.user_code import HookFailed
from fastnode.errors import (
    ConfigError,
    DialedItself,
    DuplicateLink,
    FastnodeError,
    Side,
    TooManyConnections,
)
from fastnode.limits import (
    LISTEN_BACKLOG,
    PEER_SHARE_OF_LINKS,
    WAITING_SHARE_OF_DESCRIPTORS,
)
from fastnode.link import endings
from fastnode.link.instances import is_additional
from fastnode.link.machine import State
from fastnode.link.protocol import LinkProtocol
from fastnode.link.transport_protocol import TransportProtocol
from fastnode.log_limit import LogLimit
from fastnode.loggers import fields
from fastnode.node.limiter import HandshakeLimiter
from fastnode.node.pending import PendingConnection, PendingConnections, text_of
from fastnode.node.port import open_port
from fastnode.node.quota import Full, LinkQuota
from fastnode.node.refusal import Refusal
from fastnode.tls.choice import make_engine
from fastnode.tls.evidence import Evidence
from fastnode.tls.identity import identity_of
from fastnode.tls.plaintext import PlaintextEngine
from fastnode.tls.refusal import local_refusal

if TYPE_CHECKING:
    import ssl

    from fastnode.certs.manager import CertManager
    from fastnode.node.context import NodeContext
    from fastnode.options import AcceptorOptions, Listener
    from fastnode.peer import Address, Peer
    from fastnode.tls.engine import TlsEngine

__all__ = ["Acceptor", "AcceptorStats"]

log = logging.getLogger("fastnode.acceptor")

#: Connections taken per readiness event: the loop has other work too.
ACCEPTS_PER_TURN = 64
#: How long accepting pauses when the process is out of file descriptors.
PAUSE_SECONDS = 1.0


@dataclass(slots=True)
class AcceptorStats:
    """What an acceptor has seen.

    Attributes:
        connections: TCP connections accepted.
        links: links that came up.
        refused: connections that this side refused, by the name of the error.
        failed: connections that the peer refused or broke off, likewise.
    """

    connections: int = 0
    links: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)


class Acceptor:
    """Makes inbound links. Is the `LinkOwner` of all of them."""

    def __init__(
        self,
        context: NodeContext,
        options: AcceptorOptions,
        *,
        insecure_skip_verify: bool,
    ) -> None:
        self._context = context
        self._options = options
        self._insecure = insecure_skip_verify
        self._manager = options.cert_manager or context.cert_manager
        self._on_refused = options.on_refused or context.on_refused
        self._sockets: list[Listener] = []
        self._address: Address | None = None
        self._limit = LogLimit(log, node=str(context.name))
        self._limiter = HandshakeLimiter(
            options.max_handshakes, options.max_handshakes_per_address, self._serve
        )
        self._pending = PendingConnections(
            most_pending(options.max_pending),
            context.settings.handshake_timeout,
            plaintext=context.plaintext,
            on_ready=self._limiter.add,
            on_dropped=self._dropped,
        )
        context.links.pending.append(self._pending)
        self._quota = LinkQuota(
            options.max_links,
            options.max_links_per_peer
            or math.ceil(options.max_links * PEER_SHARE_OF_LINKS),
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self._accepting = False
        self._retry: asyncio.TimerHandle | None = None
        self.stats = AcceptorStats()

    @property
    def address(self) -> Address:
        """Host and port that it listens on."""
        if self._address is None:
            raise ConfigError("this acceptor does not listen")
        return self._address

    @property
    def advertised(self) -> Address:
        """Host and port where peers reach it, as a discovery announces them.

        They are ``AcceptorOptions.advertise``, with the port that it listens on in the
        place of 0. Without that option they are its address. A host that stands for all
        addresses, such as ``0.0.0.0``, is replaced by the host of the node name.

        Raises:
            ConfigError: that host stands for all addresses too.
        """
        host, port = self.address
        if self._options.advertise is not None:
            host, given = self._options.advertise
            return host, given or port
        if _is_wildcard(host):
            host = self._context.name.host
            if _is_wildcard(host):
                raise ConfigError(
                    f"nobody can connect with {host}, so {self._context.name} cannot "
                    "be announced",
                    hint="say where peers reach it: AcceptorOptions(advertise=(host, "
                    "port)), with port 0 for the port that it listens on",
                )
        return host, port

    @property
    def cert_manager(self) -> CertManager | None:
        """Where its certificate comes from; None in plaintext."""
        return self._manager

    @property
    def alpn(self) -> str | None:
        """See `LinkOwner`."""
        return None if self._context.plaintext else ALPN_PROTOCOL

    # --- listening -------------------------------------------------------------

    async def start(self) -> None:
        """Listen on the first free port of the range. Connections wait in the kernel's
        queue until `accept`.

        Raises:
            ConfigError: no port of the range is free, or the host is not ours.
        """
        self._engine()  # a manager that cannot serve says so now
        options = self._options
        if options.listener is not None:
            self._use(options.listener)
        else:
            host = options.host or self._context.name.host
            self._sockets = [*await open_port(host, options.port, options.port_range)]
            self._address = (host, self._sockets[0].getsockname()[1])
        log.info(
            "%s listens on %s:%d",
            self._context.name,
            *self.address,
            extra=fields("listening", node=self._context.name, address=self.address),
        )

    def accept(self) -> None:
        """Accept connections from now on."""
        self._resume()

    def _use(self, listener: Listener) -> None:
        hint = "give it a TCP socket that listens, to one acceptor only"
        try:
            listener.setblocking(False)
            host, port = listener.getsockname()[:2]
            listens = is_listening(listener)
        except (OSError, ValueError, IndexError, TypeError) as error:
            raise ConfigError(
                f"AcceptorOptions.listener cannot be used: {error}", hint=hint
            ) from error
        if not listens:
            raise ConfigError("AcceptorOptions.listener does not listen", hint=hint)
        self._sockets = [listener]
        self._address = (host, port)

    def _resume(self) -> None:
        self._retry = None
        if self._accepting or not self._sockets:
            return
        self._accepting = True
        loop = asyncio.get_running_loop()
        for sock in self._sockets:
            loop.add_reader(sock, self._readable, sock)

    def _pause(self) -> None:
        if self._accepting:
            self._accepting = False
            loop = asyncio.get_running_loop()
            for sock in self._sockets:
                loop.remove_reader(sock)

    def sockets(self) -> list[Listener]:
        """Return the sockets that it listens on, and those of pending connections."""
        return [*self._sockets, *self._pending.sockets()]

    @property
    def arriving(self) -> int:
        """Connections that may still become links."""
        return len(self._pending) + len(self._limiter)

    def arriving_since(self, time: float) -> bool:
        """Whether connections may still become links that came after a time of the
        loop's clock."""
        return self._pending.recent(time) or self._limiter.recent(time)

    def stop_listening(self) -> None:
        """Listen no more. Connections that were made before go on to become links."""
        if self._accepting and self._options.listener is None:
            # The kernel would reset those that it has accepted for this socket. The
            # queue of a listener of the user may belong to other processes too.
            for sock in self._sockets:
                for _ in range(LISTEN_BACKLOG):
                    if not self._accept(sock):
                        break
        self._pause()
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        for sock in self._sockets:
            sock.close()
        self._sockets = []

    def close(self) -> None:
        """Listen no more, and begin no more handshakes; links stay."""
        self.stop_listening()
        self._limiter.close()
        self._pending.close()

    # --- accepting -------------------------------------------------------------

    def _readable(self, sock: Listener) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            if not self._accepting or not self._accept(sock):
                return

    def _accept(self, sock: Listener) -> bool:
        """Take a connection; return whether there may be more."""
        try:
            connection, address = sock.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return False
        except EOFError:
            # No other listener is at its end before this one is.
            self._pause()
            return False
        except OSError as error:
            # EMFILE, ENFILE, ENOBUFS, ENOMEM.
            if not self._pending.drop_older_half():
                self._look_away(error)
                return False
            return True
        self.stats.connections += 1
        connection.setblocking(False)
        self._pending.add(connection, address)
        return True

    def _look_away(self, error: OSError) -> None:
        """Pause: the queue of connections stays readable."""
        self._limit.say(
            logging.ERROR,
            "pause",
            "%s: accepting pauses for %g s: %s; links go on",
            self._context.name,
            PAUSE_SECONDS,
            error,
            event="accepting_paused",
            address=self.address,
            error=error,
        )
        self._pause()
        self._retry = asyncio.get_running_loop().call_later(PAUSE_SECONDS, self._resume)

    def _serve(self, pending: PendingConnection) -> LinkProtocol | None:
        """Begin a handshake."""
        self._pending.take(pending)
        connection = pending.sock
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # If asyncio fails to set it once more, it keeps a transport, and no other
            # connection can use the descriptor. It does not try where proto is 0.
            untyped = socket.socket(
                connection.family, connection.type, 0, fileno=connection.fileno()
            )
        except OSError as error:
            # macOS and BSD refuse options of a socket whose peer has reset it.
            connection.close()
            cut = endings.cut_short(text_of(pending), error)
            self._refused(Refusal(cut, pending.address, None, None))
            return None
        connection.detach()
        connection = untyped
        manager = self._manager
        shown = None if manager is None else manager.certificate
        try:
            protocol = self._context.protocol(self._engine(), self, dialer=False)
        except (FastnodeError, OSError) as error:
            connection.close()
            self._limit.say(
                logging.ERROR,
                "dropped",
                "a connection from %s:%d was dropped: %s",
                *pending.address,
                error,
                event="connection_dropped",
                address=pending.address,
                error=error,
            )
            return None
        self._context.follow(protocol, manager, shown)
        protocol.began, protocol.address = pending.began, pending.address
        protocol.gone.add_done_callback(lambda _: self._limiter.release(protocol))
        task = asyncio.get_running_loop().create_task(self._open(connection, protocol))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return protocol

    async def _open(self, connection: socket.socket, protocol: LinkProtocol) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: TransportProtocol(protocol.connection), connection
            )
        except OSError as error:
            protocol.connection_lost(error)
            connection.close()

    def _engine(self) -> TlsEngine:
        """A fresh engine under the certificate and trust of this moment."""
        if self._context.plaintext:
            return PlaintextEngine()
        assert self._manager is not None
        context = self._manager.server_context(
            insecure_skip_verify=self._insecure, **self._context.wanted()
        )
        return make_engine(context, server_side=True)

    # --- LinkOwner -------------------------------------------------------------

    def may_introduce(self, protocol: LinkProtocol) -> bool:
        """See `LinkOwner`."""
        del protocol
        return True

    async def admit(self, protocol: LinkProtocol) -> Peer:
        """See `LinkOwner`."""
        verified = (
            not self._context.plaintext
            and not self._insecure
            and self._manager is not None
            and self._manager.verifies_clients
        )
        peer = await self._context.admission.judge(
            protocol, verified=verified, expected=None
        )
        if protocol.state is not State.DECIDING:
            return peer  # it ended, and a hook did not care that it was cancelled
        if self._context.recheck is not None and self._manager is not None:
            self._context.recheck.remember(protocol, peer, self._manager)
        links = self._context.links
        succeeds = await links.admit_successor(protocol, peer)
        predecessor = protocol.succession.predecessor
        old = [predecessor] if predecessor is not None else links.displaced(peer)
        identity = identity_of(protocol.presented.certificate, verified=peer.verified)
        full = self._quota.acquire(protocol, old, identity)
        if full is not None:
            links.check_others(peer)
            raise no_room(full, peer)
        if not succeeds:
            await links.admit_inbound(protocol, peer)
        return peer

    def explain(self, protocol: LinkProtocol, error: ssl.SSLError) -> FastnodeError:
        """See `LinkOwner`."""
        assert self._manager is not None
        return local_refusal(
            error,
            Evidence(
                dialer=False,
                peer=protocol.peer_text(),
                shown=self._manager.certificate,
                pool=self._manager.client_cas,
                verdict=protocol.presented.verdict,
            ),
        )

    def link_up(self, protocol: LinkProtocol) -> None:
        """See `LinkOwner`."""
        self._limiter.came_up(protocol)
        self.stats.links += 1
        self._context.links.came_up(protocol)

    def link_closing(self, protocol: LinkProtocol) -> None:
        """See `LinkOwner`."""
        self._context.links.closing(protocol)

    def link_ended(
        self, protocol: LinkProtocol, was: State, error: FastnodeError
    ) -> None:
        """See `LinkOwner`."""
        self._quota.release(protocol)
        self._context.links.ended(protocol)
        try:
            if was < State.UP:
                self._handshake_failed(protocol, error)
        except Exception as raised:
            # An error in the report about a stranger must not stop the acceptor.
            reason, text = type(error).__name__, "a refusal was not told of: %s"
            self._limit.say(
                logging.ERROR,
                "untold of",
                text,
                reason,
                event="internal_error",
                link=protocol.number,
                traceback=raised,
            )
        finally:
            self._limiter.wake()

    def _dropped(self, pending: PendingConnection, error: FastnodeError) -> None:
        """A pending connection was dropped."""
        self._limiter.discard(pending)
        self._refused(Refusal(error, pending.address, None, None))

    def _handshake_failed(self, protocol: LinkProtocol, error: FastnodeError) -> None:
        host, port = protocol.address
        if isinstance(error, (DuplicateLink, DialedItself)):
            # A dial of an address cannot know who answers there. The dialer is told.
            if log.isEnabledFor(logging.DEBUG):
                log.debug(
                    "%s:%d: %s",
                    host,
                    port,
                    error,
                    extra=fields(
                        "link_duplicate",
                        node=self._context.name,
                        peer=protocol.peer,
                        link=protocol.number,
                        address=protocol.address,
                        error=error,
                    ),
                )
            on_duplicate = self._context.links.on_duplicate
            if on_duplicate is not None and is_additional(protocol.peer_hello):
                on_duplicate(protocol.address)
            return
        self._refused(Refusal.of(protocol, error))

    def _refused(self, refusal: Refusal) -> None:
        error = refusal.error
        ours = refusal.side is Side.LOCAL
        (self.stats.refused if ours else self.stats.failed)[refusal.reason] += 1
        # A connection that just ends is nobody's refusal: a port scan, a health
        # check, one of two nodes that dial each other at once.
        told = getattr(error, "told", True)
        self._limit.say(
            logging.WARNING if told else logging.INFO,
            refusal.reason if told else "untold",
            "%s %s %s",
            self._context.name,
            "refused" if ours else "has no link with",
            refusal,
            event="connection_refused" if told else "connection_ended",
            peer=refusal.name,
            address=refusal.address,
            certificate=refusal.certificate,
            error=error,
        )
        if told and self._on_refused is not None:
            try:
                self._context.slow.call("on_refused", self._on_refused, refusal)
            except HookFailed as failed:
                text = "on_refused raised on %s"
                self._limit.say(
                    logging.ERROR,
                    "on_refused",
                    text,
                    refusal,
                    event="hook_failed",
                    hook="on_refused",
                    address=refusal.address,
                    traceback=failed.error,
                )


def is_listening(listener: Listener) -> bool:
    """Whether a socket listens for connections; True for what is no socket."""
    option = getattr(socket, "SO_ACCEPTCONN", None)
    if not isinstance(listener, socket.socket) or option is None:
        return True
    if listener.type != socket.SOCK_STREAM:
        return False
    try:
        return bool(listener.getsockopt(socket.SOL_SOCKET, option))
    except OSError:
        # Some systems know the name only.
        return True


def _is_wildcard(host: str) -> bool:
    """Whether a host stands for all addresses of this machine."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def most_pending(most: int) -> int:
    """Return how many connections may be pending: most descriptors are for links."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return most
    return max(1, min(most, int(soft * WAITING_SHARE_OF_DESCRIPTORS)))


def no_room(full: Full, peer: Peer) -> TooManyConnections:
    """Return the error for a peer that the quota has no room for."""
    whose = f" {full.whose}" if full.whose else ""
    return TooManyConnections(
        f"this acceptor has {full.links} links{whose}, its maximum; those "
        f"that are about to come up count",
        peer=peer,
        side=Side.LOCAL,
        hint=f"try again in {TooManyConnections.retry_after:g} s, or raise "
        f"{full.option} of the acceptor",
    )
