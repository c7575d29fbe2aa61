"""Judging a peer: its certificate, its name, and what the user says of it."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from fastnode.certs.name_constraints import violation_of
from fastnode.dispatch.user_code import HookFailed
from fastnode.errors import (
    DialedItself,
    HandshakeError,
    HostnameMismatch,
    NotAuthorized,
    PeerNameMismatch,
    Side,
)
from fastnode.link.instances import is_additional
from fastnode.log_limit import LogLimit
from fastnode.names import NodeName
from fastnode.node.membership import Membership, belongs
from fastnode.peer import Peer
from fastnode.tls.identity import (
    covers_again,
    describe,
    describe_violation,
    forbidding,
    read_again,
    readable,
    remedy_for,
    remedy_of,
)

if TYPE_CHECKING:
    from cryptography import x509

    from fastnode.link.protocol import LinkProtocol
    from fastnode.node.slow import SlowCallbacks
    from fastnode.options import Authorize

__all__ = ["ITSELF", "Admission"]

#: What a node says that has dialed its own acceptor.
ITSELF: Final = "the dialer is this node itself"

log = logging.getLogger("fastnode.node")


@dataclass(frozen=True, slots=True)
class Admission:
    """The rules by which one node judges its peers.

    Attributes:
        own: the node's own name.
        verify_peer_name: a verified certificate must cover the name that is used.
        authorize: the user's hook, asked last.
        slow: times it.
        limit: logs what it raises.
    """

    own: NodeName
    verify_peer_name: bool
    authorize: Authorize | None
    slow: SlowCallbacks
    limit: LogLimit = field(default_factory=lambda: LogLimit(log))

    async def judge(
        self,
        protocol: LinkProtocol,
        *,
        verified: bool,
        expected: NodeName | Membership | None,
    ) -> Peer:
        """Return the peer if it is admitted.

        Args:
            verified: whether TLS verified the certificate that was presented.
            expected: the name or the service that was dialed; None for an inbound link.

        Raises:
            HostnameMismatch, PeerNameMismatch, NotAuthorized: refused.
        """
        engine = protocol.presented
        name = protocol.peer_hello.name
        der = engine.certificate
        certificate = read_again(der) if verified else readable(der)
        if der and certificate is None:
            raise HandshakeError(
                "the peer's certificate cannot be read",
                peer=str(name),
                side=Side.LOCAL,
                hint="it is not as RFC 5280 says; issue another one",
            )
        own = protocol.settings.hello.instance
        if name == self.own and protocol.peer_hello.instance == own:
            # Discovery lists this node too, which is no mistake of anybody.
            by_address = is_additional(protocol.peer_hello)
            raise (DialedItself if by_address else PeerNameMismatch)(
                ITSELF,
                peer=str(name),
                side=Side.LOCAL,
                hint="the node that was meant does not run there; or mend its route",
            )
        if isinstance(expected, NodeName) and name != expected:
            raise PeerNameMismatch(
                f"{expected} was dialed, {name} answered",
                peer=str(name),
                side=Side.LOCAL,
                hint="correct the route or the name",
            )
        verified = verified and certificate is not None
        # A certificate that nobody verified covers nothing: such a peer is admitted
        # as what it is, and never takes the place of a verified one.
        if verified and certificate is not None:
            self._check_names(protocol, certificate, der)
            protocol.authorities = engine.constrained_by or ()
        if isinstance(expected, Membership):
            shown = certificate if verified else None
            reason = self._why_no_member(name, shown, protocol.authorities, expected)
            if reason is not None:
                host, port = protocol.address
                raise PeerNameMismatch(
                    f"the node at {host}:{port} does not belong to {expected}: "
                    f"{reason}",
                    peer=str(name),
                    side=Side.LOCAL,
                    hint=expected.remedy,
                )
        peer = Peer(
            name=str(name),
            address=protocol.address,
            certificate=certificate,
            verified=verified,
            tls_version=engine.version,
            cipher=engine.cipher,
            group=engine.group,
            instance=protocol.peer_hello.instance.hex(),
        )
        await self._ask(peer)
        return peer

    def why_no_member(self, protocol: LinkProtocol, wanted: Membership) -> str | None:
        """Return why the peer of a link does not belong to a service; None if it does.

        Args:
            protocol: a link that is up, whoever dialed it.
        """
        peer = protocol.peer
        assert peer is not None
        shown = peer.certificate if peer.verified else None
        name = NodeName.parse(peer.name)
        return self._why_no_member(name, shown, protocol.authorities, wanted)

    def _why_no_member(
        self,
        name: NodeName,
        certificate: x509.Certificate | None,
        authorities: tuple[bytes, ...],
        wanted: Membership,
    ) -> str | None:
        """As `belongs`. Only the name part counts without a verified certificate, and
        where nothing is to be compared with certificates (`verify_peer_name=False`).

        A node that verifies its peers uses no link of a peer that is not verified.
        """
        compared = self.verify_peer_name or wanted.server_name is not None
        if certificate is not None and compared:
            return belongs(certificate, authorities, name, wanted)
        if name.name != wanted.service:
            return f"{name} is not a node name of {wanted}"
        return None

    def _check_names(
        self, protocol: LinkProtocol, certificate: x509.Certificate, der: bytes | None
    ) -> None:
        """Compare both names of a verified peer with its certificate and chain.

        TLS has compared the server name with the certificate, but not each host that a
        wildcard covers with the name constraints of the chain.
        """
        engine = protocol.presented
        name = protocol.peer_hello.name
        authorities, server_name = engine.constrained_by, engine.server_name
        if server_name is None and not self.verify_peer_name:
            return
        if authorities is None:
            raise HandshakeError(
                "the chain of the peer's certificate cannot be seen, so its name "
                "constraints cannot be checked",
                peer=str(name),
                side=Side.LOCAL,
                hint="use an interpreter whose ssl module tells the verified chain, as "
                "that of CPython does",
            )
        self.compare_names(name, certificate, der, authorities, server_name)

    def compare_names(
        self,
        name: NodeName,
        certificate: x509.Certificate,
        der: bytes | None,
        authorities: tuple[bytes, ...],
        server_name: str | None,
    ) -> None:
        """Raise if a verified peer may not use its names.

        Args:
            name: the node name of the peer.
            certificate, der: the certificate of the peer, read and as DER.
            authorities: the certificates of its verified chain that carry name
                constraints, DER.
            server_name: the name that TLS has verified; None if it has not.

        Raises:
            HostnameMismatch, PeerNameMismatch: refused.
        """
        if server_name is not None:
            violation = violation_of(authorities, server_name, by_uri=False)
            if violation is not None:
                raise HostnameMismatch(
                    "the server's certificate may not be used for the name that was "
                    f"dialed: {describe_violation(violation)}",
                    peer=str(name),
                    side=Side.LOCAL,
                    hint=remedy_of(violation),
                )
        if not self.verify_peer_name or covers_again(der, name, authorities):
            return
        violation = forbidding(certificate, name, authorities)
        if violation is not None:
            raise PeerNameMismatch(
                f"the peer calls itself {name}, which its certificate may not cover: "
                f"{describe_violation(violation)}; {describe(certificate)}",
                peer=str(name),
                side=Side.LOCAL,
                hint=remedy_of(violation),
            )
        raise PeerNameMismatch(
            f"the peer calls itself {name}, which its certificate does not cover: "
            f"{describe(certificate)}",
            peer=str(name),
            side=Side.LOCAL,
            hint=remedy_for(certificate, name),
        )

    async def _ask(self, peer: Peer) -> None:
        if self.authorize is None:
            return
        try:
            answer = await self.slow.ask("authorize", self.authorize, peer)
        except HookFailed as failed:
            text = "the authorize hook raised on %s"
            self.limit.say(
                logging.ERROR,
                "authorize",
                text,
                peer,
                event="hook_failed",
                node=self.own,
                hook="authorize",
                peer=peer,
                traceback=failed.error,
            )
            answer = False
        if answer is not True:
            raise NotAuthorized(
                f"{peer.name} is not authorized",
                peer=peer,
                side=Side.LOCAL,
                hint="the authorize hook of the refusing node decides that",
            )
