"""What a node's acceptors and dialer stand on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastnode.certs.groups import check_available
from fastnode.link.protocol import LinkProtocol

if TYPE_CHECKING:
    from fastnode.buffers.pool import BufferPool
    from fastnode.certs.manager import CertManager
    from fastnode.link.endpoint import EndpointRegistry
    from fastnode.link.owner import LinkOwner
    from fastnode.link.settings import LinkSettings
    from fastnode.log_limit import LogLimit
    from fastnode.names import NodeName
    from fastnode.node.admission import Admission
    from fastnode.node.dial import DialStats
    from fastnode.node.links import LinkRegistry
    from fastnode.node.slow import SlowCallbacks
    from fastnode.options import NetworkOptions, OnRefused
    from fastnode.tls.engine import TlsEngine

__all__ = ["Foundation", "groups_of"]


def groups_of(network: NetworkOptions) -> tuple[str, ...] | None:
    """The key-exchange groups that a node asks for; None: the default.

    Raises:
        ConfigError: this process's TLS library does not have one of them.
    """
    groups = None if network.groups is None else tuple(network.groups)
    if groups is not None and not network.plaintext:
        check_available(groups)
    return groups


@dataclass(frozen=True, slots=True)
class Foundation:
    """The parts that all links of a node share.

    Attributes:
        name: the node's own name.
        plaintext: whether there is no TLS.
        cert_manager: the node's; None only in plaintext.
        groups: key-exchange groups, canonical names; None: the default.
        settings: limits and times of links.
        registry: endpoints.
        admission: how peers are judged.
        links: the links there are.
        pool: slabs.
        receive_buffer: ciphertext of whatever link is being read.
        dial_stats: what became of the node's dials.
        dial_limit: logs those that came to nothing.
        on_refused: told of connections to acceptors that did not become links.
        slow: warns of callbacks that block the loop.
    """

    name: NodeName
    plaintext: bool
    cert_manager: CertManager | None
    groups: tuple[str, ...] | None
    settings: LinkSettings
    registry: EndpointRegistry
    admission: Admission
    links: LinkRegistry
    pool: BufferPool
    receive_buffer: bytearray
    dial_stats: DialStats
    dial_limit: LogLimit
    on_refused: OnRefused | None
    slow: SlowCallbacks

    def wanted(self) -> dict[str, tuple[str, ...]]:
        """What this node asks of the contexts of its cert managers.

        Without `groups` it is nothing, so that a subclass of `CertManager` that
        overrides ``server_context`` or ``client_context`` need not know the argument.
        """
        return {} if self.groups is None else {"groups": self.groups}

    def protocol(
        self, engine: TlsEngine, owner: LinkOwner, *, dialer: bool
    ) -> LinkProtocol:
        """A protocol for one connection, registered until its socket is closed."""
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
