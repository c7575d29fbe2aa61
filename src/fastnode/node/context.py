"""What the acceptors and dials of a node share."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fastnode.certs.groups import check_available
from fastnode.link.protocol import LinkProtocol
from fastnode.node.addresses import FailedAddresses

if TYPE_CHECKING:
    from fastnode.buffers.pool import BufferPool
    from fastnode.certs.certificate import Certificate
    from fastnode.certs.manager import CertManager
    from fastnode.dispatch.endpoint import EndpointRegistry
    from fastnode.link.owner import LinkOwner
    from fastnode.link.settings import LinkSettings
    from fastnode.log_limit import LogLimit
    from fastnode.names import NodeName
    from fastnode.node.admission import Admission
    from fastnode.node.links import LinkRegistry
    from fastnode.node.recheck import Recheck
    from fastnode.node.renewal import Renewal
    from fastnode.node.slow import SlowCallbacks
    from fastnode.node.targets import Targets
    from fastnode.options import NetworkOptions, OnRefused
    from fastnode.tls.engine import TlsEngine

__all__ = ["DialStats", "NodeContext", "groups_of", "wanted_of"]


@dataclass(slots=True)
class DialStats:
    """Counts of the links that a node dialed.

    Attributes:
        links: links that came up.
        refused: connections that this side refused, by the name of the error.
        failed: connections that the peer refused or broke off, by the name of the
            error.
    """

    links: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)


def groups_of(network: NetworkOptions) -> tuple[str, ...] | None:
    """Return the key-exchange groups that a node asks for; None: the default.

    Raises:
        ConfigError: the TLS library of this process does not have one of them.
    """
    groups = None if network.groups is None else tuple(network.groups)
    if groups is not None and not network.plaintext:
        check_available(groups)
    return groups


def wanted_of(groups: tuple[str, ...] | None) -> dict[str, tuple[str, ...]]:
    """Return the arguments for cert managers, see `NodeContext.wanted`."""
    return {} if groups is None else {"groups": groups}


@dataclass(frozen=True, slots=True)
class NodeContext:
    """What all links of a node share.

    Attributes:
        name: the own name of the node.
        plaintext: whether there is no TLS.
        cert_manager: the cert manager of the node; None only in plaintext.
        groups: key-exchange groups by their canonical names; None: the default.
        settings: limits and times for links.
        registry: the endpoints of the node.
        admission: the rules for peers.
        targets: finds where other nodes are.
        links: all links.
        pool: slabs for frames.
        receive_buffer: takes the ciphertext of the link that is being read.
        dial_stats: counts the results of dials.
        unreached: counts attempts to dial that found nobody, by the name of the error.
        dial_limit: limits log lines about dials that failed.
        on_refused: called for each connection to an acceptor that became no link.
        slow: warns about callbacks that block the loop.
        failed: addresses that dials could not reach.
        recheck: closes links whose peer would be refused today; None: they stay.
        renewal: renews links; None: they last.
    """

    name: NodeName
    plaintext: bool
    cert_manager: CertManager | None
    groups: tuple[str, ...] | None
    settings: LinkSettings
    registry: EndpointRegistry
    admission: Admission
    targets: Targets
    links: LinkRegistry
    pool: BufferPool
    receive_buffer: bytearray
    dial_stats: DialStats
    dial_limit: LogLimit
    on_refused: OnRefused | None
    slow: SlowCallbacks
    unreached: Counter[str] = field(default_factory=Counter)
    failed: FailedAddresses = field(default_factory=FailedAddresses)
    recheck: Recheck | None = None
    renewal: Renewal | None = None

    def follow(
        self,
        protocol: LinkProtocol,
        manager: CertManager | None,
        shown: Certificate | None,
    ) -> None:
        """Renew the link of a new connection when it is due; see `Renewal.follow`."""
        if self.renewal is not None:
            manager = None if self.plaintext else manager
            self.renewal.follow(protocol, manager, shown)

    def wanted(self) -> dict[str, tuple[str, ...]]:
        """Return the arguments with which this node asks cert managers for contexts.

        They are empty without `groups`. So a subclass of `CertManager` that overrides
        ``server_context`` or ``client_context`` need not know the argument.
        """
        return wanted_of(self.groups)

    def protocol(
        self, engine: TlsEngine, owner: LinkOwner, *, dialer: bool
    ) -> LinkProtocol:
        """Return a protocol for one connection.

        The protocol is registered until its socket is closed.
        """
        protocol = LinkProtocol(
            engine,
            owner,
            self.settings,
            self.registry,
            self.pool,
            self.receive_buffer,
            dialer=dialer,
        )
        self.slow.watch(protocol)
        self.links.connected(protocol)
        return protocol
