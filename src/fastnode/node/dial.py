"""Dialing: from a node name to a link.

A `Dial` tries the addresses of one node until one of them gives a link. The `Dialer` of
a node has one `Dial` for a peer at a time, and callers that want the same peer share
it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastnode.certs.context import ALPN_PROTOCOL
from fastnode.dispatch.user_code import is_cancelled
from fastnode.errors import (
    ConfigError,
    DialGivenUp,
    DuplicateLink,
    FastnodeError,
    HandshakeError,
    HandshakeTimeout,
    LinkClosed,
    NoRoute,
    PeerNameMismatch,
    ProtocolError,
    Side,
)
from fastnode.link.machine import State
from fastnode.link.transport_protocol import TransportProtocol
from fastnode.names import NodeName
from fastnode.node.admission import ITSELF
from fastnode.node.deadline import wait_cancelled
from fastnode.node.targets import NOTHING_MATCHED
from fastnode.tls.choice import make_engine
from fastnode.tls.evidence import Evidence
from fastnode.tls.plaintext import PlaintextEngine
from fastnode.tls.refusal import local_refusal

if TYPE_CHECKING:
    import ssl

    from fastnode.link.link import Link
    from fastnode.link.protocol import LinkProtocol
    from fastnode.node.context import NodeContext
    from fastnode.node.targets import Target
    from fastnode.peer import Peer
    from fastnode.tls.engine import TlsEngine

__all__ = ["Dial", "Dialer"]

log = logging.getLogger("fastnode.node")

#: How long the winner of two simultaneous dials may take to come up on this side. The
#: peer has accepted it, so this is half a round trip.
WINNER_SECONDS = 1.0
#: Seconds to wait before the next attempt when the winner did not come up; multiplied
#: by the number of the attempt.
RETRY_SECONDS = 0.05


class Dial:
    """Connects to one node. It is the `LinkOwner` of the resulting link."""

    def __init__(self, context: NodeContext, name: NodeName) -> None:
        self._context = context
        self._name = name
        self._target: Target | None = None
        self._protocol: LinkProtocol | None = None
        self._attempt: asyncio.Task[Link] | None = None
        self._superseded = False

    async def run(self) -> Link:
        """Return the link, whether this node dialed it or the peer did meanwhile.

        Raises:
            HandshakeError: this node or the peer refused. It is the refusal by the
                heaviest route, with the other ones as notes.
            NoRoute: no address is known, or no address could be reached.
        """
        try:
            return await self._run()
        finally:
            # The traceback of its error refers to this object.
            self._attempt = None

    async def _run(self) -> Link:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._context.settings.handshake_timeout
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
            link = await self._context.links.wait_for(str(self._name), WINNER_SECONDS)
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
        """Return the inbound link of the peer, if it comes up soon."""
        name = str(self._name)
        if not self._context.links.welcomed(name):
            return None
        return await self._context.links.wait_for(name, WINNER_SECONDS)

    # --- simultaneous dials, see fastnode.node.links ----------------------------

    @property
    def hello_sent(self) -> bool:
        """Whether the peer may be judging this dial."""
        return self._protocol is not None and self._protocol.state > State.TLS

    @property
    def verifies(self) -> bool:
        """Whether the current attempt will verify the peer."""
        if self._context.plaintext:
            return False
        return self._target is None or not self._target.insecure

    def supersede(self) -> None:
        """Cancel this attempt. An inbound link of the peer is taken instead."""
        if self._attempt is not None and not self._attempt.done():
            self._superseded = True
            self._attempt.cancel()

    async def attempt_over(self) -> None:
        """Wait until the current attempt has come up or failed."""
        if self._attempt is not None:
            await asyncio.wait([self._attempt])

    # --- trying ----------------------------------------------------------------

    async def _try_targets(self) -> Link:
        failures: list[tuple[Target, Exception]] = []
        for target in await self._context.targets.find(self._name):
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
        # Nothing is sent before the link is up, whatever the peer did wrong.
        verdict.begun = "no"
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
            return TransportProtocol(made[0].connection)

        try:
            async with asyncio.timeout(self._context.settings.handshake_timeout):
                await loop.create_connection(factory, target.host, target.port)
        except BaseException as error:
            if made:
                # The loop closes its transport. uvloop asks for the protocol before it
                # connects, and never calls its connection_lost.
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
            # The traceback of an error refers to this frame.
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
        return self._context.protocol(engine, self, dialer=True)

    def _give_up(self, protocol: LinkProtocol) -> None:
        if protocol.state >= State.UP:
            return  # too late: callbacks have been told of the link
        protocol.end(
            DialGivenUp("the dial was given up", peer=str(self._name), side=Side.LOCAL)
        )

    def _engine(self, target: Target) -> TlsEngine:
        if self._context.plaintext:
            return PlaintextEngine()
        if target.cert_manager is None:
            raise ConfigError("there is no cert manager to dial with")
        if not (
            target.insecure
            or target.cert_manager.verifies_server_name
            or self._context.admission.verify_peer_name
            or self._context.admission.authorize is not None
        ):
            raise ConfigError(
                f"{self._name} would be taken for verified though no name is: the "
                "cert manager has verify_server_name=False, the node "
                "verify_peer_name=False and no authorize hook",
                side=Side.LOCAL,
                hint="leave one of the two at True, pass authorize (a SpiffeRule, for "
                "example), or say insecure_skip_verify=True",
            )
        context = target.cert_manager.client_context(
            insecure_skip_verify=target.insecure, **self._context.wanted()
        )
        return make_engine(context, server_side=False, server_name=target.server_name)

    # --- LinkOwner -------------------------------------------------------------

    @property
    def alpn(self) -> str | None:
        """See `LinkOwner`."""
        return None if self._context.plaintext else ALPN_PROTOCOL

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
        target, recheck = self._target, self._context.recheck
        assert target is not None
        peer = await self._context.admission.judge(
            protocol,
            verified=not self._context.plaintext and not target.insecure,
            expected=self._name,
        )
        if recheck is not None and target.cert_manager is not None:
            recheck.remember(protocol, peer, target.cert_manager, target.server_name)
        self._compare(protocol, peer)
        return peer

    def _compare(self, protocol: LinkProtocol, peer: Peer) -> None:
        """Raise if another link with the peer stays; successors have other rules."""
        del protocol
        self._context.links.admit_outbound(peer)

    def link_up(self, protocol: LinkProtocol) -> None:
        """See `LinkOwner`."""
        self._context.dial_stats.links += 1
        self._context.links.came_up(protocol)

    def link_closing(self, protocol: LinkProtocol) -> None:
        """See `LinkOwner`."""
        self._context.links.closing(protocol)

    def link_ended(
        self, protocol: LinkProtocol, was: State, error: FastnodeError
    ) -> None:
        """See `LinkOwner`."""
        self._context.links.ended(protocol)
        if was >= State.UP or isinstance(error, (DuplicateLink, DialGivenUp)):
            return
        ours = error.side is Side.LOCAL
        stats = self._context.dial_stats
        reason = type(error).__name__
        (stats.refused if ours else stats.failed)[reason] += 1
        self._context.dial_limit.say(
            # A refusal by the peer is raised from connect(). A refusal by this node is
            # also worth a warning.
            logging.WARNING if ours else logging.INFO,
            f"{reason} here" if ours else reason,
            "%s %s %s at %s: %s: %s",
            self._context.name,
            "refused" if ours else "was not linked with",
            self._name,
            self._target,
            reason,
            error,
        )


def cancelled(name: str) -> HandshakeError:
    """What callers are told whose dial was cancelled, though nobody cancelled them."""
    return HandshakeError(
        f"the dial of {name} was cancelled before it was complete",
        peer=name,
        side=Side.LOCAL,
        hint="connect again",
    )


@dataclass(slots=True)
class SharedDial:
    """A dial that is under way, and how many callers wait for its link.

    Attributes:
        task: runs the dial, and returns the link.
        waiters: how many callers wait. When the last one stops, the dial is cancelled.
    """

    task: asyncio.Task[Link]
    waiters: int = 0


class Dialer:
    """Connects one node with others: one dial for a peer, however many callers want
    it."""

    def __init__(self, context: NodeContext) -> None:
        self._context = context
        self._links = context.links
        self._shared: dict[str, SharedDial] = {}
        # Tasks of dials that have not ended yet, including cancelled ones.
        self._tasks: set[asyncio.Task[Link]] = set()
        self._closed = False

    def check(self, name: str) -> NodeName:
        """Parse the name of a node that is going to be dialed.

        Raises:
            ConfigError: `name` is no node name, or it is the name of this node.
            LinkClosed: this node stops.
        """
        parsed = NodeName.parse(name)
        if parsed == self._context.name:
            raise ConfigError(
                f"{name} is this node itself",
                side=Side.LOCAL,
                hint="call the handler directly",
            )
        if self._closed:
            raise self.stopped()
        return parsed

    def stopped(self) -> LinkClosed:
        """Return the error for a node that was stopped."""
        return LinkClosed(
            f"node {self._context.name} was stopped",
            side=Side.LOCAL,
            hint="start a new node",
            begun="no",
        )

    async def connect(self, name: str) -> Link:
        """See `Node.connect`."""
        parsed = self.check(name)
        shared = self._shared.get(name) or self._start(name, parsed)
        shared.waiters += 1
        try:
            link = await asyncio.shield(shared.task)
            # The link may have been replaced before this task continued.
            return self._links.find(name) or link
        except asyncio.CancelledError as error:
            if not shared.task.cancelled() or is_cancelled(error):
                raise
            # Nobody cancelled the caller, so the caller gets an error.
            if self._closed:
                raise self.stopped() from None
            raise cancelled(name) from None
        finally:
            shared.waiters -= 1
            if not shared.waiters and not shared.task.done():
                self._forget(name, shared)
                shared.task.cancel()
            # The traceback of its error refers to this frame.
            del shared

    def _start(self, name: str, parsed: NodeName) -> SharedDial:
        dial = Dial(self._context, parsed)
        # In the node's context, because the dial is not only for this caller.
        loop, context = asyncio.get_running_loop(), self._context.registry.context
        task = context.run(loop.create_task, dial.run())
        shared = SharedDial(task)
        self._tasks.add(task)
        self._shared[name] = shared
        self._links.dials[name] = dial

        def over(task: asyncio.Task[Link]) -> None:
            self._tasks.discard(task)
            self._forget(name, shared)
            if not task.cancelled():
                task.exception()  # so that asyncio does not log it if no caller is left

        task.add_done_callback(over)
        return shared

    def _forget(self, name: str, shared: SharedDial) -> None:
        """Let the next caller begin a new dial."""
        if self._shared.get(name) is shared:
            del self._shared[name]
            del self._links.dials[name]

    async def close(self) -> None:
        """Cancel all dials, and begin no more."""
        self._closed = True
        self.cancel()
        await wait_cancelled(str(self._context.name), tuple(self._tasks))

    def cancel(self) -> None:
        """Cancel the dials that are under way."""
        for task in self._tasks:
            task.cancel()


def describe_os(error: Exception) -> str:
    """Return the reason of an `OSError` without its number."""
    if isinstance(error, ExceptionGroup):
        return "; ".join(describe_os(each) for each in error.exceptions)
    if isinstance(error, socket.gaierror):
        return error.strerror or str(error)
    if isinstance(error, OSError) and error.errno is not None:
        # Not `error.strerror`: asyncio replaces it with a text of its own.
        return os.strerror(error.errno)
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
