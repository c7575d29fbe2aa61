"""One attempt to connect with one address of a peer."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from typing import TYPE_CHECKING, Any, Protocol

from fastnode.certs.context import ALPN_PROTOCOL
from fastnode.dispatch.user_code import name_of, text_of
from fastnode.errors import (
    ConfigError,
    DialedItself,
    DialGivenUp,
    DuplicateLink,
    FastnodeError,
    HandshakeError,
    HandshakeTimeout,
    PeerNameMismatch,
    Side,
    is_exhaustion,
)
from fastnode.link.machine import State
from fastnode.link.transport_protocol import TransportProtocol
from fastnode.loggers import fields
from fastnode.node.admission import ITSELF
from fastnode.node.membership import Membership
from fastnode.node.targets import NOTHING_MATCHED
from fastnode.tls.choice import make_engine
from fastnode.tls.evidence import Evidence
from fastnode.tls.plaintext import PlaintextEngine
from fastnode.tls.refusal import local_refusal

if TYPE_CHECKING:
    import ssl

    from fastnode.link.link import Link
    from fastnode.link.protocol import LinkProtocol
    from fastnode.names import NodeName
    from fastnode.node.addresses import Candidate
    from fastnode.node.context import NodeContext
    from fastnode.node.targets import Target
    from fastnode.peer import Peer
    from fastnode.tls.engine import TlsEngine

__all__ = ["Attempt", "Rules", "describe_os"]

log = logging.getLogger("fastnode.node")


class Rules(Protocol):
    """What an attempt asks of the dial that it belongs to."""

    def introduce(self, attempt: Attempt) -> bool:
        """Return whether the attempt may send HELLO, because no other attempt has."""

    def compare(self, protocol: LinkProtocol, peer: Peer) -> None:
        """Raise if another link with the peer stays."""


class Attempt:
    """Connects with one address, and is the `LinkOwner` of the resulting link.

    Args:
        context: of the node.
        rules: of the dial.
        wanted: the node, or the service, that is dialed.
        candidate: where to connect.

    Attributes:
        candidate: where it connects.
        protocol: of its connection; None until there is one, and after a failure.
        link: the link, when it has come up.
        error: why it failed; None if it did not.
        heard: whether a byte of the peer came.
        began: when it began, in the time of the loop.
    """

    def __init__(
        self,
        context: NodeContext,
        rules: Rules,
        wanted: NodeName | Membership,
        candidate: Candidate,
    ) -> None:
        self._context = context
        self._rules = rules
        self._wanted = wanted
        self._target = candidate.target
        self.candidate = candidate
        self.protocol: LinkProtocol | None = None
        self.link: Link | None = None
        self.error: Exception | None = None
        self._heard = False
        self.began = asyncio.get_running_loop().time()

    @property
    def wanted(self) -> NodeName | Membership:
        """The node, or the service, that was dialed."""
        return self._wanted

    @property
    def target(self) -> Target:
        """Where it connects, and by which trust."""
        return self._target

    @property
    def heard(self) -> bool:
        """Whether a byte of the peer has come: a ServerHello, or a refusal."""
        return self._heard or (self.protocol is not None and self.protocol.heard)

    @property
    def verifies(self) -> bool:
        """Whether it verifies the peer."""
        return not self._context.plaintext and not self._target.insecure

    async def run(self) -> None:
        """Connect, until the link is up or `error` is set."""
        try:
            await self._connect()
        except Exception as error:
            # The frames of a traceback refer to the attempt, which refers to the error.
            self.error = self._documented(error).with_traceback(None)
            if self.protocol is not None:
                self._heard = self.protocol.heard
                self.protocol = None

    def take_error(self) -> Exception:
        """Return why it failed, and keep no reference: the traceback that the error
        gets when it is raised refers to the attempt."""
        error, self.error = self.error, None
        assert error is not None
        return error

    def _documented(self, error: Exception) -> Exception:
        if isinstance(error, PeerNameMismatch) and ITSELF in error.message:
            return self._found_itself(error)
        if isinstance(error, FastnodeError):
            if not error.peer or isinstance(error.peer, str):
                error.peer = str(self._wanted)
            return error
        if isinstance(error, OSError):
            return error
        log.error(
            "dialing %s at %s failed",
            self._wanted,
            self.candidate,
            exc_info=error,
            extra=fields(
                "internal_error",
                node=self._context.name,
                peer=str(self._wanted),
                address=self.candidate.address,
                error=error,
            ),
        )
        return HandshakeError(
            f"dialing {self._wanted} at {self.candidate} failed: {name_of(error)}: "
            f"{text_of(error)}",
            peer=str(self._wanted),
            side=Side.LOCAL,
            hint="see the traceback in the log",
        )

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        manager = self._target.cert_manager
        shown = None if manager is None else manager.certificate
        engine = self._engine(self._target)
        made: list[LinkProtocol] = []

        def factory() -> TransportProtocol:
            made.append(self._context.protocol(engine, self, dialer=True))
            made[0].began = self.began
            self._context.follow(made[0], manager, shown)
            return TransportProtocol(made[0].connection)

        try:
            async with asyncio.timeout(self._context.settings.handshake_timeout):
                await loop.create_connection(
                    factory,
                    *self.candidate.address,
                    family=self.candidate.family,
                    flags=socket.AI_NUMERICHOST,
                )
        except BaseException as error:
            if made:
                # The loop closes its transport. uvloop asks for the protocol before it
                # connects, and never calls its connection_lost.
                self._give_up(made[0])
                made.pop().connection_lost(None)
            if isinstance(error, Exception):
                self._context.unreached[name_of(error)] += 1
            if isinstance(error, TimeoutError):
                text = f"no TCP connection with {self.candidate} in time"
                raise TimeoutError(text) from None
            raise
        self.protocol = made.pop()
        try:
            self.link = await self.protocol.established
        except asyncio.CancelledError:
            self._give_up(self.protocol)
            raise

    def _give_up(self, protocol: LinkProtocol) -> None:
        if protocol.state >= State.UP:
            return  # too late: callbacks have been told of the link
        self._heard = protocol.heard
        protocol.terminate(
            DialGivenUp(
                "the dial was given up", peer=str(self._wanted), side=Side.LOCAL
            )
        )

    @property
    def unreached(self) -> bool:
        """Return whether the attempt failed because the address does not answer."""
        if self.error is None or self.heard:
            return False
        if isinstance(self.error, FastnodeError):
            return isinstance(self.error, HandshakeTimeout)
        return not is_exhaustion(self.error)

    def _found_itself(self, error: PeerNameMismatch) -> PeerNameMismatch:
        target = self._target
        remedy = "add a Route"
        if target.found != NOTHING_MATCHED:
            remedy = f"correct {target.found.removeprefix('by ')}"
        if self._wanted == self._context.name:
            hint = f"call the handler directly; for another instance, {remedy}"
        else:
            hint = f"start {self._wanted} there, or {remedy}"
        by_address = isinstance(self._wanted, Membership)
        found = (DialedItself if by_address else PeerNameMismatch)(
            f"{self._wanted} was looked for at {self.candidate} ({target.found}), "
            "which is this node itself",
            peer=str(self._wanted),
            side=Side.LOCAL,
            hint=hint,
        )
        found.__cause__ = error.with_traceback(None)
        return found

    def _engine(self, target: Target) -> TlsEngine:
        if self._context.plaintext:
            return PlaintextEngine()
        if target.cert_manager is None:
            raise ConfigError("there is no cert manager to dial with")
        wanted = self._wanted
        fixed = isinstance(wanted, Membership) and wanted.server_name is not None
        if not (
            target.insecure
            or (target.cert_manager.verifies_server_name and target.verifies_name)
            or fixed
            or self._context.admission.verify_peer_name
            or self._context.admission.authorize is not None
        ):
            raise ConfigError(
                f"{self._wanted} would be taken for verified though no name is: the "
                "cert manager has verify_server_name=False, the node "
                "verify_peer_name=False and no authorize hook",
                side=Side.LOCAL,
                hint="leave one of the two at True, pass authorize (a SpiffeRule, for "
                "example), or say insecure_skip_verify=True",
            )
        options: dict[str, Any] = dict(self._context.wanted())
        if not target.verifies_name:
            options["verify_server_name"] = False
        context = target.cert_manager.client_context(
            insecure_skip_verify=target.insecure, **options
        )
        return make_engine(context, server_side=False, server_name=target.server_name)

    # --- LinkOwner -------------------------------------------------------------

    @property
    def alpn(self) -> str | None:
        """See `LinkOwner`."""
        return None if self._context.plaintext else ALPN_PROTOCOL

    def may_introduce(self, protocol: LinkProtocol) -> bool:
        """See `LinkOwner`."""
        self.protocol = protocol
        return self._rules.introduce(self)

    def explain(self, protocol: LinkProtocol, error: ssl.SSLError) -> FastnodeError:
        """See `LinkOwner`."""
        target = self._target
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
        peer = await self._context.admission.judge(
            protocol, verified=self.verifies, expected=self._wanted
        )
        target, recheck = self._target, self._context.recheck
        if recheck is not None and target.cert_manager is not None:
            name = target.server_name if target.verifies_name else None
            recheck.remember(protocol, peer, target.cert_manager, name)
        self._rules.compare(protocol, peer)
        return peer

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
            self._wanted,
            self.candidate,
            reason,
            error,
            event="dial_failed",
            peer=str(self._wanted),
            address=self.candidate.address,
            link=protocol.number,
            error=error,
        )


def describe_os(error: BaseException) -> str:
    """Return the reason of an `OSError` without its number."""
    if isinstance(error, socket.gaierror):
        return error.strerror or str(error)
    if isinstance(error, OSError) and error.errno is not None:
        # `error.strerror` is not used, because asyncio replaces it with its own text.
        return os.strerror(error.errno)
    text: Any = getattr(error, "strerror", None)
    return text or str(error) or type(error).__name__
