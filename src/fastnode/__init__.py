"""fastnode: fast, mutually authenticated TLS links between Python services."""

from typing import TYPE_CHECKING, Any

from fastnode.certs import (
    CertAuthManager,
    Certificate,
    CertificateWatch,
    CertManager,
    CertPool,
    ClientAuth,
    SpiffeId,
    SpiffeRule,
)
from fastnode.errors import (
    CallTimeout,
    CertificateError,
    CertificateExpired,
    CertificateLoadError,
    CertificateRequired,
    CertificateRevoked,
    CloseReason,
    ConfigError,
    FastnodeError,
    HandshakeError,
    HandshakeTimeout,
    HostnameMismatch,
    LinkClosed,
    LinkLost,
    MessageTooLarge,
    NoRoute,
    NoSuchEndpoint,
    NotAuthorized,
    PeerNameMismatch,
    ProtocolError,
    RemoteError,
    RevocationListExpired,
    SendQueueFull,
    SettingsFrozenError,
    Side,
    UnknownAuthority,
    WorkerFailed,
)
from fastnode.link.link import Link
from fastnode.link.message import Message
from fastnode.link.peer import Peer
from fastnode.link.stats import LinkStats, Undelivered
from fastnode.loggers import make_careful
from fastnode.node.acceptor import Acceptor, AcceptorStats
from fastnode.node.dial import DialStats
from fastnode.node.keeper import Keeper
from fastnode.node.node import Node, start_node
from fastnode.node.refusal import Refusal
from fastnode.node.runner import run
from fastnode.options import (
    AcceptorOptions,
    Listener,
    NetworkOptions,
    NodeOptions,
    Resolver,
)
from fastnode.routing import Route

if TYPE_CHECKING:
    from fastnode.workers import WorkerGroup, WorkerStatus, serve

make_careful("fastnode")

__all__ = [
    "Acceptor",
    "AcceptorOptions",
    "AcceptorStats",
    "CallTimeout",
    "CertAuthManager",
    "CertManager",
    "CertPool",
    "Certificate",
    "CertificateError",
    "CertificateExpired",
    "CertificateLoadError",
    "CertificateRequired",
    "CertificateRevoked",
    "CertificateWatch",
    "ClientAuth",
    "CloseReason",
    "ConfigError",
    "DialStats",
    "FastnodeError",
    "HandshakeError",
    "HandshakeTimeout",
    "HostnameMismatch",
    "Keeper",
    "Link",
    "LinkClosed",
    "LinkLost",
    "LinkStats",
    "Listener",
    "Message",
    "MessageTooLarge",
    "NetworkOptions",
    "NoRoute",
    "NoSuchEndpoint",
    "Node",
    "NodeOptions",
    "NotAuthorized",
    "Peer",
    "PeerNameMismatch",
    "ProtocolError",
    "Refusal",
    "RemoteError",
    "Resolver",
    "RevocationListExpired",
    "Route",
    "SendQueueFull",
    "SettingsFrozenError",
    "Side",
    "SpiffeId",
    "SpiffeRule",
    "Undelivered",
    "UnknownAuthority",
    "WorkerFailed",
    "WorkerGroup",
    "WorkerStatus",
    "run",
    "serve",
    "start_node",
]


def __getattr__(name: str) -> Any:
    # Programs of one process need no multiprocessing: it is a tenth of the import time.
    if name in ("WorkerGroup", "WorkerStatus", "serve"):
        from fastnode import workers  # noqa: PLC0415

        return getattr(workers, name)
    raise AttributeError(f"module 'fastnode' has no attribute {name!r}")
