"""The options of nodes, networks and acceptors.

They are frozen dataclasses, and they are checked when they are made.
"""

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

#: Decides whether a peer may have a link. Its certificate and name are valid already.
Authorize: TypeAlias = "Callable[[Peer], bool | Awaitable[bool]]"
#: Is called for each connection to an acceptor that did not become a link.
OnRefused: TypeAlias = "Callable[[Refusal], object]"
#: Are called for each link that comes up, and for each link that goes down.
OnLinkUp: TypeAlias = "Callable[[Link], object]"
OnLinkDown: TypeAlias = "Callable[[Link, FastnodeError], object]"


#: A message with "high" overtakes queued messages with "normal".
Priority: TypeAlias = Literal["normal", "high"]
#: What happens to a link whose peer would be refused today.
Recheck: TypeAlias = Literal["keep", "close"]


class Listener(Protocol):
    """The source of an acceptor's connections.

    A listening `socket.socket`, or an object with the same methods. The acceptor makes
    it non-blocking, and closes it.
    """

    def setblocking(self, flag: bool, /) -> None:
        """Make the listener non-blocking. It is always called with False."""

    def getsockname(self) -> Any:
        """Return the host and port, which become the acceptor's address."""

    def fileno(self) -> int:
        """Return a descriptor that is readable when a connection can be accepted."""

    def accept(self) -> tuple[socket.socket, Any]:
        """Return a connection and the address of its peer.

        Raises:
            BlockingIOError: no connection waits now.
            EOFError: no further connection will come.
            OSError: for the same reasons as `socket.socket.accept`.
        """

    def close(self) -> None:
        """Stop accepting connections."""


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
    # `isinstance` would have to load the class, and cryptography with it.
    if value is not None and not hasattr(value, "server_context"):
        raise ConfigError(
            f"{what} is a CertManager or CertAuthManager, not {type(value).__name__}",
            hint="CertAuthManager(certificate, client_cas=..., client_auth=..., "
            "root_cas=...) makes one of a Certificate",
        )


def _sequence(what: str, given: object, of: str) -> tuple[Any, ...]:
    # The name of the class is compared, because Route has a higher rank than this file.
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
    """Raise `ConfigError` unless `value` is None or a plain function.

    The caller of `value` does not await the result, so an ``async def`` function would
    not run.
    """
    _check_callable(what, value)
    call = getattr_static(type(value), "__call__", None)
    if iscoroutinefunction(value) or iscoroutinefunction(call):
        raise ConfigError(
            f"{what} is an async function, and must be a plain one",
            hint="start a task in it: asyncio.get_running_loop().create_task(...)",
        )


def _advertised(what: str, address: object) -> tuple[str, int]:
    """Return the host and the port after checking them. Port 0 is allowed."""
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
        host: host or address to listen on. None means the host of the node name.
        port: first port to try. 0 takes any free port.
        port_range: number of ports to try, upward from `port`.
        cert_manager: certificate and trust of this acceptor. None means those of the
            node.
        insecure_skip_verify: whether dialers are asked for no certificate, even if the
            manager asks for one. None means the value of the node.
        max_links: largest number of links of this acceptor. Links that were admitted
            and are about to come up count too.
        max_links_per_peer: largest number of links of one certificate identity: the
            issuer, subject and SANs of a verified certificate, or one certificate
            that was not verified. None means a quarter of `max_links`.
        max_pending: largest number of connections that have not sent their first TLS
            record, or wait for their handshake. They use at most a quarter of the
            process's file descriptors. Above this number, the acceptor finds the
            address with the most connections, and tells the oldest of them to try
            again later.
        max_handshakes: largest number of TLS handshakes at the same time. Further
            connections wait, and stalled handshakes make room for them.
        max_handshakes_per_address: the same bound for one IPv4 address or one IPv6 /64
            network. With a dual-stack listener, an IPv4 peer counts by its IPv4
            address.
        on_refused: called with a `Refusal` for each connection that did not become a
            link. None means the function of the node.
        listener: a listening socket to use instead of one at `host` and `port`. The
            acceptor owns the socket from then on, and closes it.
        advertise: host and port that a discovery announces. Set it if peers reach the
            acceptor at another address than its own, for example behind NAT or in a
            container. Port 0 stands for the port that the acceptor listens on. None
            announces the acceptor's own address. For a host such as ``0.0.0.0`` the
            host of the node name takes its place.
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
        acceptors: the addresses to listen on. Empty for a node that only dials.
        routes: where peers are; see `Route`.
        resolver: finds addresses if no route matches. It has `handshake_timeout`
            seconds to do so.
        discovery: finds the instances of services. If it can announce, the node is
            announced while it is ready, as an instance of the service that its name
            says (the part before the @). See `fastnode.discovery`.
        insecure_skip_verify: whether the certificates of peers are not verified.
            Dangerous: anyone on the network path can read and change everything.
        plaintext: whether the node works without TLS. Dangerous in the same way.
        verify_peer_name: whether a peer may only use a node name that its certificate
            covers.
        groups: names of the key-exchange groups to offer and accept, best first: for
            example ``["X25519", "P-256"]``. None takes X25519MLKEM768 where the TLS
            library has it, X25519, P-256 and P-384. Finite-field groups are refused.
        recheck: what happens to links that are up when trust or a revocation list of
            their cert manager changes, and when a certificate of their peer expires.
            ``"keep"``: the links stay. ``"close"``: the node verifies the peers again,
            by the rules of that moment. It closes the links whose peer would be
            refused. `authorize` is not called again.
        authorize: called with each peer after its certificate and name were found
            valid. It refuses the peer if it raises or returns anything but True.
        on_refused: called with a `Refusal` for each connection to an acceptor that did
            not become a link. It must be a plain function. Its exceptions are logged.
        on_link_up: called with each `Link` that comes up; see `Node.on_link_up`.
        on_link_down: called with each `Link` that goes down, and with the reason.
        max_message_size: largest payload in either direction, in bytes.
        handshake_timeout: seconds for the TLS handshake and HELLO together. Each
            address that is tried has so many seconds.
        keepalive_interval: seconds of silence after which a link is probed; after
            three of them it is lost. A link uses the smaller value of its two sides.
        slow_callback_seconds: seconds that a handler or hook may block the loop. The
            node logs a warning with the name of a slower one. None disables the
            warning.
        busy_poll: seconds that the loop polls without sleep while it expects the reply
            of a call. 0: the loop sleeps at once. The loop does not poll while other
            programs need the processor, or if the peer usually takes longer.
        window: bytes that a peer may have in flight to this node on one link, in each
            lane. The lanes of large messages and of large replies begin with 512 KiB
            at most.
        max_window: bytes to which windows can grow when the round trip is long.
        high_water, low_water: `drain` waits while more than `high_water` bytes are
            queued on its link. It returns when `low_water` or fewer bytes are queued.
        max_queued: queued bytes of one link above which `send` raises.
        max_node_queued: queued bytes of all links above which `send` raises. `drain`
            waits while more than 3/4 of this number are queued.
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
    """The options of a node.

    Attributes:
        cert_manager: the node's certificate and trust. Without a cert manager, a node
            starts only with ``NetworkOptions(plaintext=True)``.
        network: how the node listens, dials and verifies its peers.
        shutdown_timeout: seconds that `Node.stop` gives links to end in order. Then the
            node cuts the remaining links, which takes at most a few seconds.
        leave_grace: seconds that `Node.stop` continues to serve after it has told its
            peers that it stops. The time ends earlier when no peer uses the node any
            more. It is a part of `shutdown_timeout`, and takes at most half of it. 0:
            peers are not told, and links are closed at once.
        max_waiting: number of messages and calls that may wait at all endpoints with a
            `concurrency` together. Above it, a call that would have to wait is refused
            with `Busy`. None: no bound.
        shed_above: seconds that the event loop may be late. While the loop is later,
            every call is refused with `Busy` before its handler begins. None: no bound.
            Neither this bound nor `max_waiting` refuses calls of peers' handlers, or
            messages without confirmation.
        renew_links: what happens to links that are up when the certificate of their
            cert manager is replaced (`CertManager.update`, `CertManager.watch`).
            "keep": the links keep the old certificate. "reconnect": this node replaces
            them one by one by links with the new certificate, as `Node.reconnect`
            does. It does so at random times within a minute.
        max_link_age: largest age of a link in seconds. A link is replaced in the same
            way shortly before this age, so that both sides verify each other again.
            None: no bound. A link that cannot be replaced stays up, and the node tries
            again later.
        ready: whether the node is ready as soon as it is up. False: the node becomes
            ready when `Node.set_ready` is called.
        group: 8 random bytes that the nodes of a group share. These nodes run under one
            name at the same time. `WorkerGroup` sets this option for its workers. If a
            peer has a link with one node of the group and another node connects, the
            peer knows that the first node did not restart. So it does not probe the
            first link. None: this node is in no group. Other nodes may still have the
            same name.
        group_size: number of nodes that the group has behind one address. A service of
            a peer keeps a link with each of them. `WorkerGroup` sets this option for
            its workers. None: peers are not told a number.
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
