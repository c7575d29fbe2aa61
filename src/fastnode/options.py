"""Options: frozen, checked when made."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from inspect import getattr_static, iscoroutinefunction
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from fastnode import limits
from fastnode.errors import ConfigError, FastnodeError
from fastnode.groups import check_groups
from fastnode.names import check_flag, check_host, check_port

if TYPE_CHECKING:
    import socket

    from fastnode.certs.manager import CertManager
    from fastnode.discovery.protocol import Discovery
    from fastnode.link.link import Link
    from fastnode.node.refusal import Refusal
    from fastnode.peer import Address, Peer
    from fastnode.routing import Route

__all__ = [
    "AcceptorOptions",
    "Authorize",
    "Listener",
    "NetworkOptions",
    "NodeOptions",
    "OnLinkDown",
    "OnLinkUp",
    "OnRefused",
    "Priority",
    "Recheck",
    "Resolver",
    "check_plain",
]

#: Says whether a peer whose certificate and name are in order may have a link.
Authorize: TypeAlias = "Callable[[Peer], bool | Awaitable[bool]]"
#: Hears of connections to an acceptor that did not become links.
OnRefused: TypeAlias = "Callable[[Refusal], object]"
#: Hears of links that come up, and of those that go down with the reason.
OnLinkUp: TypeAlias = "Callable[[Link], object]"
OnLinkDown: TypeAlias = "Callable[[Link, FastnodeError], object]"


#: What is sent with "high" overtakes what is queued with "normal".
Priority: TypeAlias = Literal["normal", "high"]
#: What becomes of links whose peer would be refused today.
Recheck: TypeAlias = Literal["keep", "close"]


class Listener(Protocol):
    """Where an acceptor has its connections from: a listening `socket.socket`, or what
    behaves like one. The acceptor makes it non-blocking, and closes it."""

    def setblocking(self, flag: bool, /) -> None:
        """As a socket's; always called with False."""

    def getsockname(self) -> Any:
        """Host and port, which are the acceptor's address."""

    def fileno(self) -> int:
        """Becomes readable when there is a connection to accept."""

    def accept(self) -> tuple[socket.socket, Any]:
        """A connection, and the address of its peer.

        Raises:
            BlockingIOError: there is none now.
            EOFError: there will be none any more.
            OSError: as of a socket.
        """

    def close(self) -> None:
        """No connection is accepted any more."""


class Resolver(Protocol):
    """Finds addresses for a node name when no route matches."""

    def __call__(
        self, name: str, /
    ) -> Sequence[Address] | Awaitable[Sequence[Address]]:
        """Return the addresses to try, in order; empty where the name is unknown."""


def _check_number(what: str, value: float, least: float, most: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(f"{what} is a number, not {value!r}")
    if math.isnan(value) or not least <= value <= most:
        raise ConfigError(f"{what} is {value!r}", hint=f"from {least} to {most}")


def _check_count(what: str, value: int, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"{what} is a whole number, not {value!r}")
    _check_number(what, value, least, most)


def _check_manager(what: str, value: object) -> None:
    # Not by its class, which would be loaded for it, with cryptography.
    if value is not None and not hasattr(value, "server_context"):
        raise ConfigError(
            f"{what} is a CertManager or CertAuthManager, not {type(value).__name__}",
            hint="CertAuthManager(certificate, client_cas=..., client_auth=..., "
            "root_cas=...) makes one of a Certificate",
        )


def _sequence(what: str, given: object, of: str) -> tuple[Any, ...]:
    # By the name of the class: Route is of a higher rank than this file.
    found = tuple(given) if isinstance(given, Iterable) else (None,)
    for each in found:
        if of not in (cls.__name__ for cls in type(each).__mro__):
            raise ConfigError(
                f"{what} is a sequence of {of}, not {given!r}",
                hint=f"write [{of}(...)]",
            )
    return found


def _check_callable(what: str, value: object) -> None:
    if value is not None and not callable(value):
        raise ConfigError(f"{what} is {value!r}, which cannot be called")


def check_plain(what: str, value: object) -> None:
    """Raise `ConfigError` unless `value` is None or a plain function. Nobody would wait
    for what an ``async def`` returns."""
    _check_callable(what, value)
    call = getattr_static(type(value), "__call__", None)
    if iscoroutinefunction(value) or iscoroutinefunction(call):
        raise ConfigError(
            f"{what} is an async function, and must be a plain one",
            hint="start a task in it: asyncio.get_running_loop().create_task(...)",
        )


def _advertised(what: str, address: object) -> tuple[str, int]:
    """Return a host and a port, checked; port 0 is one."""
    if not isinstance(address, (tuple, list)) or len(address) != 2:
        raise ConfigError(
            f"{what} is {address!r}", hint='write advertise=("203.0.113.7", 15000)'
        )
    host, port = check_host(address[0], f"the host of {what}"), address[1]
    check_port(port, f"the port of {what}")
    return host, port


def _check_discovery(discovery: object) -> None:
    if discovery is not None and not callable(getattr(discovery, "watch", None)):
        raise ConfigError(
            f"NetworkOptions.discovery is {discovery!r}, which has no watch()",
            hint="use StaticDiscovery, LocalDiscovery, DnsDiscovery or EtcdDiscovery "
            "of fastnode.discovery, or write your own",
        )


def _check_listener(listener: object) -> None:
    if listener is None:
        return
    for name in ("setblocking", "getsockname", "fileno", "accept", "close"):
        if not callable(getattr(listener, name, None)):
            raise ConfigError(
                f"AcceptorOptions.listener is {listener!r}, which has no {name}()",
                hint="give it a TCP socket that listens",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptorOptions:
    """One listening address of a node.

    Attributes:
        host: host or address to listen on; None means the node name's host.
        port: first port to try; 0 takes any free one.
        port_range: how many ports to try, upward from `port`.
        cert_manager: certificate and trust of this acceptor; None means the node's.
        insecure_skip_verify: ask dialers for no certificate, whatever the manager
            says. None means the node's value.
        max_links: links that this acceptor holds at once; those that were admitted and
            are about to come up count.
        max_links_per_peer: the same for peers with one certificate identity: the
            issuer, subject and SANs of a verified certificate, or one certificate
            that was not verified. None means a quarter of `max_links`.
        max_pending: connections that have not sent their first TLS record, or wait for
            their handshake. They take a quarter of the process's file descriptors at
            most. Beyond it the oldest connection of the address that has the most is
            told to try again later.
        max_handshakes: TLS handshakes under way at once. Beyond it connections wait,
            and handshakes that have stalled make room for them.
        max_handshakes_per_address: the same from one IPv4 address or IPv6 /64 network.
            An IPv4 address counts as such behind a dual-stack listener too.
        on_refused: called with a `Refusal` for each connection that did not become a
            link; None means the node's.
        listener: a listening socket to use, instead of one at `host` and `port`. It
            belongs to the acceptor from then on, which closes it.
        advertise: host and port that a discovery announces, where peers reach the
            acceptor at another address than its own: behind NAT, or in a container.
            Port 0 stands for the port that it listens on. None announces its own
            address; for a host such as ``0.0.0.0`` that is the host of the node name.
    """

    host: str | None = None
    port: int = limits.DEFAULT_PORT
    port_range: int = limits.DEFAULT_PORT_RANGE
    cert_manager: CertManager | None = None
    insecure_skip_verify: bool | None = None
    max_links: int = limits.MAX_LINKS
    max_links_per_peer: int | None = None
    max_pending: int = limits.MAX_PENDING
    max_handshakes: int = limits.MAX_HANDSHAKES
    max_handshakes_per_address: int = limits.MAX_HANDSHAKES_PER_ADDRESS
    on_refused: OnRefused | None = None
    listener: Listener | None = None
    advertise: tuple[str, int] | None = None

    def __post_init__(self) -> None:
        _check_manager("AcceptorOptions.cert_manager", self.cert_manager)
        if self.host is not None:
            host = check_host(self.host, "AcceptorOptions.host")
            object.__setattr__(self, "host", host)
        insecure = self.insecure_skip_verify
        check_flag("AcceptorOptions.insecure_skip_verify", insecure, or_none=True)
        check_port(self.port, "AcceptorOptions.port")
        _check_count("AcceptorOptions.port_range", self.port_range, 1, 65536)
        _check_count("AcceptorOptions.max_links", self.max_links, 1, 1 << 30)
        if self.max_links_per_peer is not None:
            most = self.max_links_per_peer
            _check_count("AcceptorOptions.max_links_per_peer", most, 1, 1 << 30)
        _check_count("AcceptorOptions.max_pending", self.max_pending, 1, 1 << 20)
        _check_count("AcceptorOptions.max_handshakes", self.max_handshakes, 1, 1 << 20)
        _check_count(
            "AcceptorOptions.max_handshakes_per_address",
            self.max_handshakes_per_address,
            1,
            1 << 20,
        )
        check_plain("AcceptorOptions.on_refused", self.on_refused)
        _check_listener(self.listener)
        if self.advertise is not None:
            advertise = _advertised("AcceptorOptions.advertise", self.advertise)
            object.__setattr__(self, "advertise", advertise)


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkOptions:
    """How a node listens, dials and judges its peers.

    Attributes:
        acceptors: what to listen on; empty for a node that only dials.
        routes: where peers are; see `Route`.
        resolver: asked for addresses where no route matches; has `handshake_timeout`.
        discovery: finds the instances of services. If it can announce, the node is
            announced while it is ready, as an instance of the service that its name
            says (the part before the @). See `fastnode.discovery`.
        insecure_skip_verify: do not verify the certificates of peers. Dangerous:
            anyone in between can read and change everything.
        plaintext: no TLS at all. Dangerous in the same way.
        verify_peer_name: a peer may only use a node name its certificate covers.
        groups: names of the key-exchange groups to offer and accept, best first: for
            example ``["X25519", "P-256"]``. None takes X25519MLKEM768 where the TLS
            library has it, X25519, P-256 and P-384. Finite-field groups are refused.
        recheck: what becomes of links that are up when trust or a revocation list of
            their cert manager changes, and when a certificate that their peer showed
            expires. ``"keep"``: they stay. ``"close"``: peers are verified again by the
            rules of that moment, and links whose peer would be refused are closed.
            `authorize` is not asked again.
        authorize: asked about each peer after its certificate and name were found in
            order; refuses by returning anything but True, or by raising.
        on_refused: called with a `Refusal` for each connection to an acceptor that did
            not become a link; a plain function, what it raises is logged.
        on_link_up: called with each `Link` that comes up; see `Node.on_link_up`.
        on_link_down: called with each `Link` that goes down and the reason.
        max_message_size: largest payload, bytes, in either direction.
        handshake_timeout: seconds for TLS and HELLO together; where several addresses
            are tried, for each of them.
        keepalive_interval: seconds of silence after which a link is probed; after
            three of them it is lost. A link has the smaller one of its two sides.
        slow_callback_seconds: a handler or hook that blocks the loop for so long is
            warned about, by name; None: none is.
        busy_poll: seconds that the loop does without sleep while the reply of a call is
            expected; 0: it sleeps at once. It rests where others want the processor,
            and for peers that take longer.
        window: bytes that a peer may have under way to this node on one link, in each
            lane. The lanes of large messages and of large replies begin with 512 KiB
            at most.
        max_window: bytes up to which windows grow where the round trip is long.
        high_water, low_water: `drain` waits while more than `high_water` bytes are
            queued on its link, and goes on when `low_water` or less are queued.
        max_queued: queued bytes of one link above which `send` raises.
        max_node_queued: queued bytes of all links above which `send` raises. While more
            than 3/4 of it are queued, `drain` waits.
    """

    acceptors: Sequence[AcceptorOptions] = field(
        default_factory=lambda: (AcceptorOptions(),)
    )
    routes: Sequence[Route] = ()
    resolver: Resolver | None = None
    discovery: Discovery | None = None
    insecure_skip_verify: bool = False
    plaintext: bool = False
    verify_peer_name: bool = True
    groups: Sequence[str] | None = None
    recheck: Recheck = "keep"
    authorize: Authorize | None = None
    on_refused: OnRefused | None = None
    on_link_up: OnLinkUp | None = None
    on_link_down: OnLinkDown | None = None
    max_message_size: int = limits.DEFAULT_MAX_MESSAGE_BYTES
    handshake_timeout: float = limits.HANDSHAKE_TIMEOUT_SECONDS
    keepalive_interval: float = limits.KEEPALIVE_INTERVAL_SECONDS
    slow_callback_seconds: float | None = limits.SLOW_CALLBACK_SECONDS
    busy_poll: float = limits.BUSY_POLL_SECONDS
    window: int = limits.WINDOW_BYTES
    max_window: int = limits.MAX_WINDOW_BYTES
    high_water: int = limits.HIGH_WATER_BYTES
    low_water: int = limits.LOW_WATER_BYTES
    max_queued: int = limits.SEND_QUEUE_BYTES
    max_node_queued: int = limits.NODE_QUEUE_BYTES

    def __post_init__(self) -> None:
        what = "NetworkOptions."
        for name, of in (("acceptors", "AcceptorOptions"), ("routes", "Route")):
            given = _sequence(what + name, getattr(self, name), of)
            object.__setattr__(self, name, given)
        for name in ("insecure_skip_verify", "plaintext", "verify_peer_name"):
            check_flag(what + name, getattr(self, name))
        groups = check_groups(what + "groups", self.groups)
        object.__setattr__(self, "groups", groups)
        if self.recheck not in ("keep", "close"):
            raise ConfigError(
                f"{what}recheck is {self.recheck!r}", hint='it is "keep" or "close"'
            )
        _check_callable(what + "resolver", self.resolver)
        _check_discovery(self.discovery)
        _check_callable(what + "authorize", self.authorize)
        check_plain(what + "on_refused", self.on_refused)
        check_plain(what + "on_link_up", self.on_link_up)
        check_plain(what + "on_link_down", self.on_link_down)
        _check_count(what + "max_message_size", self.max_message_size, 1, (1 << 40))
        _check_number(what + "handshake_timeout", self.handshake_timeout, 0.001, 3600)
        _check_number(what + "keepalive_interval", self.keepalive_interval, 0.01, 86400)
        if self.slow_callback_seconds is not None:
            seconds = self.slow_callback_seconds
            _check_number(what + "slow_callback_seconds", seconds, 0.001, 3600)
        most = limits.BUSY_POLL_LIMIT_SECONDS
        _check_number(what + "busy_poll", self.busy_poll, 0, most)
        least = 2 * limits.MAX_FRAME_BYTES
        most = limits.WINDOW_LIMIT_BYTES
        _check_count(what + "window", self.window, least, most)
        _check_count(what + "max_window", self.max_window, least, most)
        _check_count(what + "high_water", self.high_water, 1, 1 << 40)
        _check_count(what + "low_water", self.low_water, 0, self.high_water)
        _check_count(what + "max_queued", self.max_queued, self.high_water, 1 << 40)
        least = self.high_water
        _check_count(what + "max_node_queued", self.max_node_queued, least, 1 << 44)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeOptions:
    """What a node is made of.

    Attributes:
        cert_manager: the node's certificate and trust. Without one, a node starts
            only with ``NetworkOptions(plaintext=True)``.
        network: how it listens, dials and judges.
        shutdown_timeout: seconds that `Node.stop` gives links to end in order. What is
            not done by then is cut off, which takes a few seconds at most.
        leave_grace: seconds that `Node.stop` goes on serving after it has told its
            peers that it stops. It ends earlier when all peers have turned away. It is
            a part of `shutdown_timeout`, and takes at most half of it. 0: peers are not
            told, and links are closed at once.
        max_waiting: while so many messages and calls wait at endpoints that have a
            `concurrency`, all endpoints of the node together, a further call that would
            have to wait is refused with `Busy`. None: no bound.
        shed_above: seconds. While the event loop is later than that, every call is
            refused with `Busy`, before its handler begins. None: no call is. Neither
            bound refuses calls of peers' handlers, or messages without confirmation.
        renew_links: what becomes of links that are up when the certificate of their
            cert manager is replaced (`CertManager.update`, `CertManager.watch`).
            "keep": they keep the old certificate. "reconnect": this node replaces them
            by links with the new certificate, one by one, at random times of up to a
            minute, as `Node.reconnect` does.
        max_link_age: seconds. A link that is nearly as old is replaced in the same way,
            so that both sides verify each other again. None: links last. A link that
            cannot be replaced stays up, and a later attempt follows.
        ready: whether the node is ready as soon as it is up. False: it is not ready
            before `Node.set_ready` says so.
        group: 8 random bytes that the nodes of a group share. These nodes run under one
            name at the same time, and `WorkerGroup` sets it for its workers. When a
            peer has a link with one node of the group and another one connects, the
            peer knows that this is no restart, and does not probe the first link.
            None: this node is in no group. It may share its name nevertheless.
        group_size: how many nodes the group has behind one address. A service of a peer
            keeps a link with each of them. `WorkerGroup` sets it for its workers. None:
            peers are not told.
    """

    cert_manager: CertManager | None = None
    network: NetworkOptions = field(default_factory=NetworkOptions)
    shutdown_timeout: float = limits.SHUTDOWN_TIMEOUT_SECONDS
    leave_grace: float = limits.LEAVE_GRACE_SECONDS
    max_waiting: int | None = None
    shed_above: float | None = None
    ready: bool = True
    renew_links: Literal["keep", "reconnect"] = "keep"
    max_link_age: float | None = None
    group: bytes | None = None
    group_size: int | None = None

    def __post_init__(self) -> None:
        _check_manager("NodeOptions.cert_manager", self.cert_manager)
        if not isinstance(self.network, NetworkOptions):
            raise ConfigError(
                f"NodeOptions.network is a NetworkOptions, not {self.network!r}",
                hint="write NodeOptions(network=NetworkOptions(...))",
            )
        if self.group is not None and (
            not isinstance(self.group, bytes) or len(self.group) != limits.GROUP_BYTES
        ):
            raise ConfigError(
                f"NodeOptions.group is not {limits.GROUP_BYTES} bytes",
                hint=f"make it once for all nodes of the group: "
                f"os.urandom({limits.GROUP_BYTES})",
            )
        check_flag("NodeOptions.ready", self.ready)
        if self.group_size is not None:
            most = limits.MAX_WORKERS
            _check_count("NodeOptions.group_size", self.group_size, 1, most)
            if self.group is None:
                raise ConfigError(
                    f"NodeOptions.group_size is {self.group_size} without a group",
                    hint="give all nodes of the group the same 8 bytes as group",
                )
        _check_number("NodeOptions.shutdown_timeout", self.shutdown_timeout, 0, 86400)
        _check_number("NodeOptions.leave_grace", self.leave_grace, 0, 86400)
        if self.max_waiting is not None:
            most = limits.MAX_WAITING
            _check_count("NodeOptions.max_waiting", self.max_waiting, 0, most)
        if self.shed_above is not None:
            _check_number("NodeOptions.shed_above", self.shed_above, 0.001, 3600)
        if self.renew_links not in ("keep", "reconnect"):
            raise ConfigError(
                f"NodeOptions.renew_links is {self.renew_links!r}",
                hint='it is "keep" or "reconnect"',
            )
        if self.max_link_age is not None:
            _check_number(
                "NodeOptions.max_link_age",
                self.max_link_age,
                limits.LEAST_LINK_AGE_SECONDS,
                86400 * 365,
            )
