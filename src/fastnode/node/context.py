"""What the acceptors and dials of a node share."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fastnode.link.protocol import LinkProtocol

if TYPE_CHECKING:
    from fastnode.buffers.pool import BufferPool
    from fastnode.certs.manager import CertManager
    from fastnode.dispatch.endpoint import EndpointRegistry
    from fastnode.link.owner import LinkOwner
    from fastnode.link.settings import LinkSettings
    from fastnode.log_limit import LogLimit
    from fastnode.names import NodeName
    from fastnode.node.admission import Admission
    from fastnode.node.links import LinkRegistry
    from fastnode.node.slow import SlowCallbacks
    from fastnode.node.targets import Targets
    from fastnode.options import OnRefused
    from fastnode.tls.engine import TlsEngine

__all__ = ["DialStats", "NodeContext"]


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


@dataclass(frozen=True, slots=True)
class NodeContext:
    """What all links of a node share.

    Attributes:
        name: the own name of the node.
        plaintext: whether there is no TLS.
        cert_manager: the cert manager of the node; None only in plaintext.
        settings: limits and times for links.
        registry: the endpoints of the node.
        admission: the rules for peers.
        targets: finds where other nodes are.
        links: all links.
        pool: slabs for frames.
        receive_buffer: takes the ciphertext of the link that is being read.
        dial_stats: counts the results of dials.
        dial_limit: limits log lines about dials that failed.
        on_refused: called for each connection to an acceptor that became no link.
        slow: warns about callbacks that block the loop.
    """

    name: NodeName
    plaintext: bool
    cert_manager: CertManager | None
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

    def protocol(
        self, engine: TlsEngine, owner: LinkOwner, *, dialer: bool
    ) -> LinkProtocol:
        """Return a protocol for one connection. It is registered until its socket is
        closed."""
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
