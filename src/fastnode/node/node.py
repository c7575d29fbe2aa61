"""Node: names, acceptors, routes, endpoints and links in one place."""

from __future__ import annotations

import asyncio
import logging
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from fastnode import limits
from fastnode.buffers.pool import BufferPool
from fastnode.dispatch.current import handler_peer
from fastnode.dispatch.lag import LoopLag
from fastnode.errors import (
    ConfigError,
    HandshakeError,
    NoRoute,
    OutOfResources,
    Side,
)
from fastnode.link.link import Link
from fastnode.link.settings import LinkSettings
from fastnode.log_limit import LogLimit
from fastnode.loggers import fields
from fastnode.names import NodeName, check_timeout
from fastnode.node.acceptor import Acceptor
from fastnode.node.admission import Admission
from fastnode.node.announcer import Announcer
from fastnode.node.calling import Calling
from fastnode.node.condition import Condition
from fastnode.node.context import DialStats, NodeContext, groups_of, wanted_of
from fastnode.node.deadline import (
    wait_cancelled,
)
from fastnode.node.departure import Departure
from fastnode.node.dial import Dialer
from fastnode.node.endpoints import Endpoints, elsewhere
from fastnode.node.fork import ForkGuard
from fastnode.node.instances import Instances
from fastnode.node.keeper import Keeper
from fastnode.node.link_events import LinkEvents
from fastnode.node.links import LinkRegistry
from fastnode.node.maintenance import Maintenance
from fastnode.node.recheck import Recheck
from fastnode.node.renewal import Renewal, RenewalStats
from fastnode.node.sending import CLOSED_TRIES
from fastnode.node.services import Services
from fastnode.node.slow import SlowCallbacks
from fastnode.node.snapshot import Snapshot
from fastnode.node.startup_warnings import warn_at_start
from fastnode.node.succession import Successions
from fastnode.node.targets import Targets
from fastnode.options import NodeOptions
from fastnode.routing import Route, RouteTable
from fastnode.wire.hello import new_instance

if TYPE_CHECKING:
    from fastnode.certs.manager import CertManager
    from fastnode.discovery.protocol import Discovery
    from fastnode.link.protocol import LinkProtocol
    from fastnode.link.stats import Undelivered
    from fastnode.node.stats import NodeStats
    from fastnode.options import OnLinkDown, OnLinkUp
    from fastnode.service.retry import Retry
    from fastnode.service.service import Service
    from fastnode.service.status import Policy

__all__ = ["Node", "start_node"]

UpCallback = TypeVar("UpCallback", bound="OnLinkUp")
DownCallback = TypeVar("DownCallback", bound="OnLinkDown")
Result = TypeVar("Result")

log = logging.getLogger("fastnode.node")


class Node(Endpoints, Condition, Calling):
    """One running node. Made by `start_node`; belongs to the loop it was started on.

    Args:
        name: ``name@host``.
        options: see `NodeOptions`.

    Raises:
        ConfigError: the name or the options cannot work; above all: there is no
            cert manager and ``plaintext=True`` was not given.
    """

    def __init__(self, name: str, options: NodeOptions | None = None) -> None:
        if options is not None and not isinstance(options, NodeOptions):
            raise ConfigError(
                f"the options of node {name} are a {type(options).__name__}",
                side=Side.LOCAL,
                hint="pass NodeOptions(cert_manager=..., network=...)",
            )
        self._options = options if options is not None else NodeOptions()
        self._name = NodeName.parse(name)
        network = self._options.network
        manager = self._options.cert_manager
        if manager is None and not network.plaintext:
            raise ConfigError(
                f"node {name} has no cert manager",
                side=Side.LOCAL,
                hint="pass NodeOptions(cert_manager=...); NetworkOptions("
                "plaintext=True) does without TLS, and without any protection",
            )
        self._routes = RouteTable(network.routes)
        Endpoints.__init__(self, str(self._name))
        shed_above = self._options.shed_above
        self._lag = LoopLag(shed_above)
        self._endpoints.limit(
            self._options.max_waiting, None if shed_above is None else self._lag
        )
        self._instance = new_instance(self._options.group)
        verifies = not network.plaintext and not network.insecure_skip_verify
        slow = SlowCallbacks(
            network.slow_callback_seconds, self._endpoints.context, str(self._name)
        )
        events = LinkEvents(slow, network.on_link_up, network.on_link_down)
        self._links = LinkRegistry(
            str(self._name), self._instance.hex(), events, verifies=verifies
        )
        groups = groups_of(network)
        admission = Admission(
            own=self._name,
            verify_peer_name=network.verify_peer_name,
            authorize=network.authorize,
            slow=slow,
        )
        self._recheck: Recheck | None = None
        if network.recheck == "close" and not network.plaintext:
            self._recheck = Recheck(
                str(self._name),
                admission,
                wanted_of(groups),
                2 * network.handshake_timeout,
            )
        self._renewal = Renewal.of(str(self._name), self._options, self._renew)
        self._context = NodeContext(
            name=self._name,
            plaintext=network.plaintext,
            cert_manager=manager,
            groups=groups,
            settings=LinkSettings.of(
                network, self._name, self._instance, self._options.group_size or 1
            ),
            registry=self._endpoints,
            admission=admission,
            targets=Targets(
                routes=self._routes,
                resolver=network.resolver,
                resolve_seconds=network.handshake_timeout,
                cert_manager=manager,
                insecure_skip_verify=network.insecure_skip_verify,
                slow=slow,
            ),
            links=self._links,
            pool=BufferPool(),
            receive_buffer=bytearray(limits.RECEIVE_BUFFER_BYTES),
            dial_stats=DialStats(),
            dial_limit=LogLimit(log, node=str(self._name)),
            on_refused=network.on_refused,
            slow=slow,
            recheck=self._recheck,
            renewal=self._renewal,
        )
        self._budget = self._context.settings.budget
        Calling.__init__(self, self._links, self._budget, self.connect)
        self._successions = Successions(self._context)
        self._acceptors: tuple[Acceptor, ...] = ()
        self._dialer = Dialer(self._context)
        # For services: links with single instances, by address.
        self._instances = Instances(self._context)
        self._services = Services(self._context, self._instances, network.discovery)
        self._keepers: set[Keeper] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._departure: Departure | None = None
        self._stopping: asyncio.Task[tuple[Undelivered, ...]] | None = None
        self._maintenance = Maintenance(
            self.name, self._options, self._context.pool, self._routes
        )
        self._snapshot = Snapshot(
            self._context,
            self._endpoints,
            self._lag,
            self._maintenance.cert_managers,
        )
        self._fork = ForkGuard(str(self._name), self._links, self._dialer)
        Condition.__init__(
            self,
            self.name,
            self.instance,
            self._endpoints,
            slow,
            self._check_here,
            ready=self._options.ready,
        )
        self._announcer: Announcer | None = None
        announce = getattr(network.discovery, "announce", None)
        if callable(announce) and network.acceptors:
            self._announcer = Announcer(
                self, [self._name.name], announce, self._endpoints.context
            )
            self.on_ready_change(self._announcer.ready_changed)

    # --- what it is ------------------------------------------------------------

    @property
    def name(self) -> str:
        """``name@host``."""
        return str(self._name)

    @property
    def instance(self) -> str:
        """Identifies this run of the node; 32 hexadecimal digits."""
        return self._instance.hex()

    @property
    def acceptors(self) -> tuple[Acceptor, ...]:
        """The acceptors, in the order of the options."""
        return self._acceptors

    @property
    def links(self) -> tuple[Link, ...]:
        """The links that are up."""
        return self._links.up()

    @property
    def queued_bytes(self) -> int:
        """Bytes that wait to be sent, on all links together."""
        return self._budget.used

    @property
    def dial_stats(self) -> DialStats:
        """Counts of the links that this node dialed, and why others came to nothing."""
        return self._context.dial_stats

    @property
    def stats(self) -> NodeStats:
        """What this node did since it was made, over all links that it ever had, and
        how things are now. Each access takes a new snapshot.

        Use it in the thread of the node's loop. docs/stats.md has all fields.
        """
        return self._snapshot.take(self._acceptors)

    @property
    def renewal_stats(self) -> RenewalStats:
        """Counts of the links that this node renewed by itself, and of attempts that
        failed."""
        return RenewalStats() if self._renewal is None else self._renewal.stats

    def __repr__(self) -> str:
        return f"<Node {self.name}, {len(self.links)} links>"

    # --- starting and stopping ---------------------------------------------------

    async def start(self, *, accept: bool = True) -> Self:
        """Open the acceptors; usually called by `start_node`.

        Args:
            accept: False: listen, but take no connection before `accept` is called.
                Connections wait meanwhile, for example until all handlers are
                registered, and the node is not ready. It may dial.

        Raises:
            ConfigError: an acceptor cannot listen or has no certificate, or the
                node was started before.
            CertificateError: the certificate of the node, of an acceptor or of a
                route has expired.
        """
        if self._loop is not None:
            raise ConfigError(
                f"node {self.name} was started before",
                side=Side.LOCAL,
                hint="a node runs once: start a new Node",
            )
        network = self._options.network
        self._maintenance.refuse_expired()
        self._loop = asyncio.get_running_loop()
        self._endpoints.context.renew()
        self._belong_here()
        acceptors: list[Acceptor] = []
        try:
            for options in network.acceptors:
                insecure = options.insecure_skip_verify
                acceptor = Acceptor(
                    self._context,
                    options,
                    insecure_skip_verify=(
                        network.insecure_skip_verify if insecure is None else insecure
                    ),
                )
                acceptors.append(acceptor)
                self._freeze(acceptor.cert_manager)
                await acceptor.start()
                if self._announcer is not None:
                    _ = acceptor.advertised  # raises now where nobody could connect
        except BaseException:
            # The node can be started again, when what was wrong has been put right.
            for acceptor in acceptors:
                acceptor.close()
            self._links.pending.clear()
            self._loop = None
            raise
        self._acceptors = tuple(acceptors)
        self._lag.start(self._loop)
        self._fork.watch(self._loop, self._acceptors)
        self._freeze(self._options.cert_manager)
        for route in network.routes:
            self._freeze(route.cert_manager)
        self._maintenance.start(self._loop, self._acceptors)
        warn_at_start(self._name, self._options, self._acceptors)
        self._checks.start()
        if accept:
            self.accept()
        return self

    def accept(self) -> None:
        """Take connections from now on, after ``start(accept=False)``. The node is up,
        and ready unless the program has said something else.

        Raises:
            ConfigError: the node was not started, or belongs to another loop.
        """
        self._check_loop()
        if self._stopping is None:
            for acceptor in self._acceptors:
                acceptor.accept()
            self._enter("up")

    def _freeze(self, manager: CertManager | None) -> None:
        if manager is not None:
            manager.freeze()
            self._snapshot.rotations.add(manager)
            if self._recheck is not None:
                manager.keep_chains()

    async def stop(self, timeout: float | None = None) -> tuple[Undelivered, ...]:
        """Stop the node in order.

        Acceptors listen no more, and peers are told that this node stops. It goes on
        serving until they have turned away, or until ``NodeOptions.leave_grace`` is
        over. Then links are closed: what is queued leaves in both directions, handlers
        finish, goodbyes are said. Calling it again waits for the same end.

        The end waits for handlers, so in a handler of this node this begins the end and
        returns at once. The reply of the handler leaves before the end.

        Args:
            timeout: seconds for all of it; None: ``NodeOptions.shutdown_timeout``. What
                is not done then is cut off. A second call with less time shortens the
                first.

        Returns:
            What was not done, of each link where something was left; it is logged too.
            In a handler nothing: that is not known yet.

        Raises:
            ConfigError: `timeout` is no number of seconds, or below 0. Nothing has been
                stopped.
        """
        if timeout is not None:
            timeout = check_timeout(timeout)
        if self._loop is None:
            return ()
        self._check_loop()
        if self._departure is None or self._stopping is None:
            # First of all, because others may look for another instance now.
            self._enter("leaving")
            self._departure = Departure(
                self.name,
                self._links,
                self._acceptors,
                grace=self._options.leave_grace,
                timeout=self._options.shutdown_timeout if timeout is None else timeout,
            )
            # This must not run in the caller's context, which may be a handler's.
            begin = self._context.registry.context.run
            stopping = self._stop(self._departure)
            self._stopping = begin(self._loop.create_task, stopping)
        elif timeout is not None:
            self._departure.shorten(timeout)
        if handler_peer(self._context.registry) is not None:
            return ()
        return await asyncio.shield(self._stopping)

    async def _stop(self, departure: Departure) -> tuple[Undelivered, ...]:
        self._maintenance.stop()
        checks = self._checks.stop()
        if self._recheck is not None:
            self._recheck.stop()
        if self._renewal is not None:
            self._renewal.stop()
        # All of them at once: a task that ignores its cancellation holds up no other.
        keepers = [keeper.close() for keeper in self._keepers]
        successions = asyncio.ensure_future(self._successions.close())
        withdrawn = None
        if self._announcer is not None:
            withdrawn = asyncio.ensure_future(self._announcer.close(departure.left))
        await departure.leave(self._stop_dialing)
        for acceptor in self._acceptors:
            acceptor.close()
        for keeper in keepers:
            await keeper
        await self._stop_dialing()
        await successions
        await self._services.close()
        left = await departure.close()
        if withdrawn is not None:
            await withdrawn
        await wait_cancelled(self.name, checks)
        for each in left:
            log.warning(
                "%s stopped before all was done with %s",
                self.name,
                each,
                extra=fields("undelivered", node=self.name, peer=each.peer),
            )
        self._maintenance.free_memory()
        self._lag.stop()
        self._enter("stopped")
        return left

    async def _stop_dialing(self) -> None:
        """Cancel all dials, and begin no more."""
        await asyncio.gather(self._dialer.close(), self._instances.close())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._fork.error is None:
            await self.stop()

    # --- routes ------------------------------------------------------------------

    def add_route(self, route: Route) -> None:
        """Add a route.

        Raises:
            ConfigError: there is one with the same `match`, or it is no `Route`.
            CertificateError: the certificate of its manager has expired.
        """
        if not isinstance(route, Route):
            raise ConfigError(
                f"{route!r} is no Route",
                side=Side.LOCAL,
                hint="write node.add_route(Route(match, host, port))",
            )
        self._maintenance.refuse_route(route)
        self._routes.add(route)
        self._freeze(route.cert_manager)

    def remove_route(self, match: str) -> None:
        """Remove a route; ConfigError if there is none. Links stay."""
        self._routes.remove(match)

    def routes(self, name: str) -> tuple[Route, ...]:
        """The routes that match a node name, heaviest first.

        Raises:
            ConfigError: `name` is no str.
        """
        if not isinstance(name, str):
            raise ConfigError(f"a node name is a str, not {type(name).__name__}")
        return self._routes.matching(name)

    # --- links -------------------------------------------------------------------

    async def connect(self, name: str) -> Link:
        """The link with a node: the one that is up, or a new one.

        All callers that want a link with the same node share one dial. It goes on when
        a caller is cancelled, or has waited for long enough: later callers find it
        further on. A resolver and each address that is tried may take
        ``handshake_timeout``, and all addresses together four times that.

        Raises:
            ConfigError: `name` is no node name.
            HandshakeError: refused, by either side; a subclass says why. It is a
                `PeerNameMismatch` if the address leads to this node itself.
            NoRoute: no address is known, or none could be reached.
            OutOfResources: this process has no descriptors or memory left.
            LinkClosed: this node stops.
        """
        self._check_loop()
        for _ in range(CLOSED_TRIES):
            link = self._links.find(name) or await self._connect(name)
            if not link.closed:
                break
        return link

    async def _connect(self, name: str) -> Link:
        """Make a link; take one whose peer stops only if there is no other."""
        if self._stopping is not None:
            # This node stops. The peer serves it as long as the link is up.
            link = self._links.leaving(name)
            if link is not None:
                return link
        try:
            return await self._dialer.connect(name)
        except (NoRoute, HandshakeError, OutOfResources):
            link = self._links.leaving(name)
            if link is None:
                raise
            return link

    async def _renew(self, old: LinkProtocol) -> LinkProtocol:
        """Replace a link that is due; see `Renewal`."""
        return await self._successions.renew(old)

    async def _keep(self, name: str) -> Link:
        """As `connect`, but a link whose peer stops does not count, and the dial ends
        with its keeper if nobody else waits."""
        self._check_loop()
        link = self._links.find(name)
        return link or await self._dialer.connect(name, lives_on=False)

    def keep_connected(self, name: str) -> Keeper:
        """Keep a link with a node, from now on: dial it, and dial it again whenever
        there is no link any more, whoever ended it, until the returned `Keeper` is
        closed or this node stops.

        Before each attempt is a pause, random from 0 to a ceiling that grows from 0.1
        to 30 s (see `fastnode.limits`), and starts over after a link that lasted 10 s.
        A refusal that comes back until somebody changes something, that is any
        `HandshakeError` but `HandshakeTimeout`, raises the ceiling to 30 s at once.
        Each attempt tries all routes, with the certificate that is current at that
        time. ::

            async with node.keep_connected("billing@10.0.0.7") as kept:
                link = await kept.connected()

        Raises:
            ConfigError: `name` is no node name.
            LinkClosed: this node stops.
        """
        self._check_loop()
        self._dialer.check(name)
        if self._stopping is not None:
            raise self._dialer.stopped()
        keeper = Keeper(name, self._links, self._keep, node=self.name)
        self._keepers.add(keeper)
        keeper.on_end(self._keepers.discard)
        return keeper

    def on_link_up(self, callback: UpCallback) -> UpCallback:
        """Decorator: the function is called with each `Link` that comes up, from either
        side. One that succeeds another (`reconnect`) counts as the same link.

        Callbacks are plain functions, called in the order of the events; what they
        raise is logged.
        """
        self._links.events.add_up(callback)
        return callback

    def on_link_down(self, callback: DownCallback) -> DownCallback:
        """Decorator: the function is called with each `Link` that was up and can take
        nothing any more, and with the reason: `LinkClosed`, `LinkLost` or
        `ProtocolError`."""
        self._links.events.add_down(callback)
        return callback

    async def reconnect(
        self, peer: str | None = None, *, timeout: float | None = None
    ) -> None:
        """Replace the link with a node, or all links, in order: after
        `CertManager.update` this is how links that are up get the new certificate.

        The new link comes up first. What is queued on the old one leaves first, order
        per endpoint is kept, calls under way are answered there; nothing is lost or
        doubled. `send` and `call` of this node take the new link at once; a `Link` that
        you hold raises `LinkClosed`: `connect` gives the new one. Where the peer dialed
        the old link it is asked to dial the new one. With a peer that has no link this
        is `connect`.

        Args:
            peer: a node name; None: all links, at once.
            timeout: seconds; default: ``NodeOptions.shutdown_timeout``. A replacement
                that is under way then goes on.

        Raises:
            HandshakeError, NoRoute: no new link; the old one stays in use.
            CallTimeout: no new link in time, or it is in use but the old one has not
                ended: the message says what is outstanding.
            LinkLost: the old or the new link was lost meanwhile.
            LinkClosed: the link was closed meanwhile, or this node stops.

            With several links, the first failure after all were tried; the others are
            its notes.
        """
        if timeout is not None:
            timeout = check_timeout(timeout)
        self._check_loop()
        if self._stopping is not None:
            raise self._dialer.stopped()
        limit = self._options.shutdown_timeout if timeout is None else timeout
        await self._successions.replace(peer, limit, self.connect)

    # --- services ----------------------------------------------------------------

    def service(
        self,
        name: str,
        *,
        server_name: str | None = None,
        policy: Policy = "least_outstanding",
        max_instances: int = limits.MAX_INSTANCES,
        retry: Retry | None = None,
        discovery: Discovery | None = None,
    ) -> Service:
        """Return all instances of a service as one thing to call.

        The service follows the discovery and dials the instances from now on, until it
        is closed or this node stops. The same arguments give the same `Service`. See
        docs/services.md. ::

            billing = node.service("billing")
            await billing.wait_ready(timeout=10)
            reply = await billing.call("invoice", b"order 7", timeout=2.0)

        Args:
            name: the part before the @ in the node names of all instances.
            server_name: a DNS name or IP address that the certificates of all instances
                cover. Without it, an instance belongs to the service only if its
                certificate has a URI SAN ``fastnode://name@host``. A discovery never
                says what to verify.
            policy: how an instance is chosen for a call without a key:
                "least_outstanding", "round_robin" or "weighted".
            max_instances: links with so many targets at most. If the discovery names
                more, this node takes a random part of them, which stays the same.
            retry: how calls are sent again; None: ``Retry()``.
            discovery: names the targets; None: ``NetworkOptions.discovery``.

        Raises:
            ConfigError: an argument cannot work, or there is no discovery.
            LinkClosed: this node stops.
        """
        self._check_loop()
        if self._stopping is not None:
            raise self._dialer.stopped()
        return self._services.get(
            name,
            server_name=server_name,
            policy=policy,
            max_instances=max_instances,
            retry=retry,
            discovery=discovery,
        )

    def _check_here(self) -> None:
        """Raise `ConfigError` in another process or thread than those of the node."""
        self._fork.check()
        self._check_thread()

    def _check_loop(self) -> None:
        self._fork.check()
        if self._loop is None:
            text = f"node {self.name} was not started"
            raise ConfigError(text, hint="use await start_node(...)")
        self._check_thread()
        if asyncio.get_running_loop() is not self._loop:
            raise elsewhere(self.name, "event loop")


async def start_node(name: str, options: NodeOptions | None = None) -> Node:
    """Start a node: its acceptors listen when this returns.

    Raises:
        ConfigError: see `Node`.
        CertificateError: a certificate that it would show has expired.
    """
    return await Node(name, options).start()
