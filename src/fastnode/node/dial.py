"""One dial: from a node name to a link, by whatever address answers."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from inspect import isawaitable
from typing import TYPE_CHECKING

from fastnode.certs.context import ALPN_PROTOCOL
from fastnode.errors import (
    ConfigError,
    DialGivenUp,
    DuplicateLink,
    FastnodeError,
    HandshakeError,
    HandshakeTimeout,
    NoRoute,
    PeerNameMismatch,
    ProtocolError,
    Side,
)
from fastnode.limits import DEFAULT_PORT
from fastnode.link.machine import State
from fastnode.link.transport_protocol import TransportProtocol
from fastnode.node.admission import ITSELF
from fastnode.options import check_port
from fastnode.tls.choice import make_engine
from fastnode.tls.evidence import Evidence
from fastnode.tls.plaintext import PlaintextEngine
from fastnode.tls.refusal import local_refusal

if TYPE_CHECKING:
    import ssl

    from fastnode.certs.manager import CertManager
    from fastnode.link.link import Link
    from fastnode.link.peer import Peer
    from fastnode.link.protocol import LinkProtocol
    from fastnode.names import NodeName
    from fastnode.node.foundation import Foundation
    from fastnode.options import Resolver
    from fastnode.routing import RouteTable
    from fastnode.tls.engine import TlsEngine

__all__ = ["Dial", "DialStats", "Target"]

log = logging.getLogger("fastnode.node")

#: How long the winner of two simultaneous dials may take to come up here: it has
#: been accepted there, so that is half a round trip.
WINNER_SECONDS = 1.0
#: How an address was found that nobody named.
NOTHING_MATCHED = "no route or resolver matched"
#: Pause before dialing again when the winner did not come up, times the attempt.
RETRY_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Target:
    """Where to connect, by which trust, and how that was found."""

    host: str
    port: int
    cert_manager: CertManager | None
    server_name: str
    insecure: bool
    found: str

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(slots=True)
class DialStats:
    """What a node has seen of its own dials.

    Attributes:
        links: links that came up.
        refused: connections that this side refused, by the name of the error.
        failed: connections that the peer refused or broke off, likewise.
    """

    links: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)


class Dial:
    """Connects to one node. Is the `LinkOwner` of the link that comes of it."""

    def __init__(
        self,
        foundation: Foundation,
        name: NodeName,
        *,
        routes: RouteTable,
        resolver: Resolver | None,
        insecure_skip_verify: bool,
    ) -> None:
        self._foundation = foundation
        self._name = name
        self._routes = routes
        self._resolver = resolver
        self._insecure = insecure_skip_verify
        self._target: Target | None = None
        self._protocol: LinkProtocol | None = None
        self._attempt: asyncio.Task[Link] | None = None
        self._superseded = False

    async def run(self) -> Link:
        """The link, whether we dialed it or the peer did meanwhile.

        Raises:
            HandshakeError: refused, by us or by the peer; the heaviest route's
                refusal, with those of the others as notes.
            NoRoute: no address is known, or none could be reached.
        """
        try:
            return await self._run()
        finally:
            # Its error has frames of this object in its traceback.
            self._attempt = None

    async def _run(self) -> Link:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._foundation.settings.handshake_timeout
        attempts = 0
        while True:
            attempts += 1
            self._superseded = False
            link = await self._welcomed()
            if link is not None:
                return link
            self._attempt = loop.create_task(self._try_targets())
            try:
                return await self._attempt
            except DuplicateLink as error:
                duplicate = error.with_traceback(None)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if not self._superseded or (task is not None and task.cancelling()):
                    self._attempt.cancel()
                    raise
                duplicate = DuplicateLink("superseded by an inbound link")
            link = await self._foundation.links.wait_for(
                str(self._name), WINNER_SECONDS
            )
            if link is not None:
                return link
            if loop.time() > deadline:
                raise HandshakeTimeout(
                    f"{self._name} keeps another link with us, which does not come up",
                    peer=str(self._name),
                    side=Side.REMOTE,
                    hint="it will give that link up when its keepalive fails",
                ) from duplicate
            # Jitter, so that two nodes do not stay in step.
            await asyncio.sleep(RETRY_SECONDS * attempts * (0.5 + random.random()))

    async def _welcomed(self) -> Link | None:
        """The inbound link of the peer, if it is about to come up."""
        name = str(self._name)
        if not self._foundation.links.welcomed(name):
            return None
        return await self._foundation.links.wait_for(name, WINNER_SECONDS)

    # --- simultaneous dials, see fastnode.node.links ----------------------------

    @property
    def hello_sent(self) -> bool:
        """Whether the peer may be judging this dial."""
        return self._protocol is not None and self._protocol.state > State.TLS

    @property
    def verifies(self) -> bool:
        """Whether the peer will be verified by the attempt at hand."""
        if self._foundation.plaintext:
            return False
        return self._target is None or not self._target.insecure

    def supersede(self) -> None:
        """Give this attempt up: an inbound link of the peer is taken instead."""
        if self._attempt is not None and not self._attempt.done():
            self._superseded = True
            self._attempt.cancel()

    async def attempt_over(self) -> None:
        """Wait until the attempt at hand has come up or failed."""
        if self._attempt is not None:
            await asyncio.wait([self._attempt])

    # --- targets ---------------------------------------------------------------

    async def targets(self) -> list[Target]:
        """What to try, in order: routes by weight, else the resolver, else the
        name's own host."""
        manager = self._foundation.cert_manager
        routes = self._routes.matching(str(self._name))
        if routes:
            return [
                self._make_target(
                    route.host,
                    route.port,
                    route.cert_manager or manager,
                    route.server_name,
                    route.insecure_skip_verify,
                    f"by the route {route.match!r}",
                )
                for route in routes
            ]
        addresses: Sequence[tuple[str, int]] = [(self._name.host, DEFAULT_PORT)]
        found = NOTHING_MATCHED
        if self._resolver is not None:
            addresses = await self._resolve(self._resolver)
            found = "by the resolver"
        return [
            self._make_target(host, port, manager, None, None, found)
            for host, port in addresses
        ]

    def _make_target(
        self,
        host: str,
        port: int,
        manager: CertManager | None,
        server_name: str | None,
        insecure: bool | None,
        found: str,
    ) -> Target:
        known = manager.server_name if manager is not None else None
        return Target(
            host=host,
            port=port,
            cert_manager=manager,
            server_name=server_name or known or host,
            insecure=self._insecure if insecure is None else insecure,
            found=found,
        )

    async def _resolve(self, resolver: Resolver) -> Sequence[tuple[str, int]]:
        seconds = self._foundation.settings.handshake_timeout
        scope = asyncio.timeout(seconds)
        try:
            found = self._foundation.slow.call("resolver", resolver, str(self._name))
            async with scope:
                addresses = await found if isawaitable(found) else found
            addresses = list(addresses or ())
            for host, port in addresses:
                check_port(port, f"the resolver's port for {host!r}")
        except FastnodeError:
            raise
        except Exception as error:
            if scope.expired():
                raise NoRoute(
                    f"the resolver did not say within {seconds:g} s where {self._name} "
                    f"is",
                    peer=str(self._name),
                    side=Side.LOCAL,
                    hint="see what the resolver waits for, or add a route",
                ) from error
            raise NoRoute(
                f"the resolver failed on {self._name}: {type(error).__name__}: {error}",
                peer=str(self._name),
                side=Side.LOCAL,
            ) from error
        if not addresses:
            raise NoRoute(
                f"the resolver knows no address of {self._name}",
                peer=str(self._name),
                side=Side.LOCAL,
                hint="add a route, or register the node with the resolver",
            )
        return addresses

    # --- trying ----------------------------------------------------------------

    async def _try_targets(self) -> Link:
        failures: list[tuple[Target, Exception]] = []
        for target in await self.targets():
            try:
                return await self._try(target)
            except DuplicateLink:
                raise
            except (OSError, HandshakeError, ProtocolError) as error:
                log.debug("%s through %s: %s", self._name, target, error)
                failures.append((target, error))
        try:
            raise self._verdict(failures)
        finally:
            # Their tracebacks have this frame.
            failures.clear()

    def _verdict(self, failures: list[tuple[Target, Exception]]) -> FastnodeError:
        refusals = [
            (target, error)
            for target, error in failures
            if isinstance(error, (HandshakeError, ProtocolError))
        ]
        if not refusals:
            reasons = "; ".join(f"{t}: {describe_os(e)}" for t, e in failures)
            verdict: FastnodeError = NoRoute(
                f"{self._name} could not be reached ({reasons})",
                peer=str(self._name),
                side=Side.LOCAL,
                hint="is it running, and is the route right?",
            )
            verdict.__cause__ = failures[0][1]
            return verdict
        verdict = refusals[0][1]
        for target, error in failures:
            if error is not verdict:
                verdict.add_note(f"also tried {target}: {error}")
        return verdict

    async def _try(self, target: Target) -> Link:
        loop = asyncio.get_running_loop()
        self._target = target
        self._protocol = None
        engine = self._engine(target)
        made: list[LinkProtocol] = []
        established: list[asyncio.Future[Link]] = []
        began = loop.time()

        def factory() -> TransportProtocol:
            made.append(self._make(engine))
            made[0].began = began
            established.append(made[0].established)
            return TransportProtocol(made[0])

        try:
            async with asyncio.timeout(self._foundation.settings.handshake_timeout):
                await loop.create_connection(factory, target.host, target.port)
        except BaseException as error:
            if made:
                # The loop closes what it opened; uvloop, which asks for the protocol
                # before it connects, never tells it so.
                self._give_up(made[0])
                made.pop().connection_lost(None)
            if isinstance(error, TimeoutError):
                raise TimeoutError(f"no TCP connection with {target} in time") from None
            raise
        self._protocol = protocol = made[0]
        try:
            return await established[0]
        except FastnodeError as error:
            if isinstance(error, PeerNameMismatch) and ITSELF in error.message:
                raise self._found_itself(target) from error
            if not error.peer or isinstance(error.peer, str):
                error.peer = str(self._name)
            self._protocol = None
            raise
        except asyncio.CancelledError:
            self._give_up(protocol)
            raise
        finally:
            # The error, if there is one, has this frame in its traceback.
            del protocol
            made.clear()
            established.clear()

    def _found_itself(self, target: Target) -> PeerNameMismatch:
        remedy = "add a Route"
        if target.found != NOTHING_MATCHED:
            remedy = f"correct {target.found.removeprefix('by ')}"
        return PeerNameMismatch(
            f"{self._name} was looked for at {target} ({target.found}), which is this "
            "node itself",
            peer=str(self._name),
            side=Side.LOCAL,
            hint=f"start {self._name} there, or {remedy}",
        )

    def _make(self, engine: TlsEngine) -> LinkProtocol:
        return self._foundation.protocol(engine, self, dialer=True)

    def _give_up(self, protocol: LinkProtocol) -> None:
        if protocol.state >= State.UP:
            return  # too late: others have been told of it by now
        protocol.end(
            DialGivenUp("the dial was given up", peer=str(self._name), side=Side.LOCAL)
        )

    def _engine(self, target: Target) -> TlsEngine:
        if self._foundation.plaintext:
            return PlaintextEngine()
        if target.cert_manager is None:
            raise ConfigError("there is no cert manager to dial with")
        context = target.cert_manager.client_context(
            insecure_skip_verify=target.insecure, **self._foundation.wanted()
        )
        return make_engine(context, server_side=False, server_name=target.server_name)

    # --- LinkOwner -------------------------------------------------------------

    @property
    def alpn(self) -> str | None:
        """See `LinkOwner`."""
        return None if self._foundation.plaintext else ALPN_PROTOCOL

    def explain(self, protocol: LinkProtocol, error: ssl.SSLError) -> FastnodeError:
        """See `LinkOwner`."""
        target = self._target
        assert target is not None
        assert target.cert_manager is not None
        return local_refusal(
            error,
            Evidence(
                dialer=True,
                peer=protocol.peer_text(),
                server_name=target.server_name,
                shown=target.cert_manager.certificate,
                pool=target.cert_manager.root_cas,
                verdict=protocol.presented.verdict,
            ),
        )

    async def admit(self, protocol: LinkProtocol) -> Peer:
        """See `LinkOwner`."""
        assert self._target is not None
        peer = await self._foundation.admission.judge(
            protocol,
            verified=not self._foundation.plaintext and not self._target.insecure,
            expected=self._name,
        )
        self._compare(protocol, peer)
        return peer

    def _compare(self, protocol: LinkProtocol, peer: Peer) -> None:
        """Whether this link or another one with the peer stays; see `node.handover`."""
        del protocol
        self._foundation.links.admit_outbound(peer)

    def link_up(self, protocol: LinkProtocol) -> None:
        """See `LinkOwner`."""
        self._foundation.dial_stats.links += 1
        self._foundation.links.came_up(protocol)

    def link_closing(self, protocol: LinkProtocol) -> None:
        """See `LinkOwner`."""
        self._foundation.links.closing(protocol)

    def link_ended(
        self, protocol: LinkProtocol, was: State, error: FastnodeError
    ) -> None:
        """See `LinkOwner`."""
        self._foundation.links.ended(protocol)
        if was >= State.UP or isinstance(error, (DuplicateLink, DialGivenUp)):
            return
        ours = error.side is Side.LOCAL
        stats = self._foundation.dial_stats
        reason = type(error).__name__
        (stats.refused if ours else stats.failed)[reason] += 1
        self._foundation.dial_limit.say(
            # What the peer refuses is raised from connect(); what we refuse is news.
            logging.WARNING if ours else logging.INFO,
            f"{reason} here" if ours else reason,
            "%s %s %s at %s: %s: %s",
            self._foundation.name,
            "refused" if ours else "was not linked with",
            self._name,
            self._target,
            reason,
            error,
        )


def describe_os(error: Exception) -> str:
    """The reason of an `OSError` without its number."""
    if isinstance(error, ExceptionGroup):
        return "; ".join(describe_os(each) for each in error.exceptions)
    if isinstance(error, socket.gaierror):
        return error.strerror or str(error)
    if isinstance(error, OSError) and error.errno is not None:
        # Not the text at hand: stock asyncio puts one of its own there.
        return os.strerror(error.errno)
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
