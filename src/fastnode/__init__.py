"""fastnode: fast, mutually authenticated TLS links between Python services.

Begin with these:

- `start_node`, `run`, `Node`: a running node
- `Link`, `Message`, `Peer`: what it has to do with
- `NodeOptions`, `NetworkOptions`, `AcceptorOptions`, `Route`: how it listens and dials
- `CertAuthManager`, `Certificate`, `CertPool`, `ClientAuth`: who it is, whom it trusts
- `FastnodeError`: the base of all errors; each has a `hint` and a `code`
- `CallError`: what a handler raises to tell its caller why
- `Service`: many instances behind one name
- `run_node`, `serve`: a node as a program, in one process or in several

All but the errors is loaded when it is first asked for, with what it needs: who
names routes and options waits for no event loop, who names no certificate for no
cryptography.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from fastnode.errors import (
    Busy,
    CallError,
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
    NoInstance,
    NoRoute,
    NoSuchEndpoint,
    NotAuthorized,
    OutOfResources,
    PeerNameMismatch,
    ProtocolError,
    RemoteError,
    RevocationListExpired,
    SendQueueFull,
    SettingsFrozenError,
    Side,
    TooManyConnections,
    UnknownAuthority,
    WorkerFailed,
)
from fastnode.loggers import LOGGERS, make_careful

if TYPE_CHECKING:
    from fastnode.certs.certificate import Certificate
    from fastnode.certs.client_auth import ClientAuth
    from fastnode.certs.manager import CertAuthManager, CertManager
    from fastnode.certs.on_update import WatchUpdate
    from fastnode.certs.pool import CertPool
    from fastnode.certs.spiffe import SpiffeId, SpiffeRule
    from fastnode.certs.watch import CertificateWatch
    from fastnode.dispatch.current import current_message
    from fastnode.dispatch.message import Message
    from fastnode.dispatch.reply import Reply
    from fastnode.link.link import Link
    from fastnode.link.stats import LinkStats, Undelivered
    from fastnode.node.acceptor import Acceptor, AcceptorStats
    from fastnode.node.context import DialStats
    from fastnode.node.distribution import Distribution
    from fastnode.node.health import CheckResult, NodeHealth
    from fastnode.node.keeper import Keeper
    from fastnode.node.node import Node, start_node
    from fastnode.node.refusal import Refusal
    from fastnode.node.renewal import RenewalStats
    from fastnode.node.runner import run
    from fastnode.node.stats import EndpointStats, NodeStats
    from fastnode.options import (
        AcceptorOptions,
        Listener,
        NetworkOptions,
        NodeOptions,
        Resolver,
    )
    from fastnode.peer import Peer
    from fastnode.routing.route import Route
    from fastnode.service.retry import Retry
    from fastnode.service.service import Service
    from fastnode.service.status import BroadcastResult, InstanceStatus, ServiceStats
    from fastnode.tls.choice import TlsEngineInfo, tls_engine
    from fastnode.workers import WorkerGroup, WorkerStatus, run_node, serve

    __version__: str

make_careful(*LOGGERS)

__all__ = [
    "Acceptor",
    "AcceptorOptions",
    "AcceptorStats",
    "BroadcastResult",
    "Busy",
    "CallError",
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
    "CheckResult",
    "ClientAuth",
    "CloseReason",
    "ConfigError",
    "DialStats",
    "Distribution",
    "EndpointStats",
    "FastnodeError",
    "HandshakeError",
    "HandshakeTimeout",
    "HostnameMismatch",
    "InstanceStatus",
    "Keeper",
    "Link",
    "LinkClosed",
    "LinkLost",
    "LinkStats",
    "Listener",
    "Message",
    "MessageTooLarge",
    "NetworkOptions",
    "NoInstance",
    "NoRoute",
    "NoSuchEndpoint",
    "Node",
    "NodeHealth",
    "NodeOptions",
    "NodeStats",
    "NotAuthorized",
    "OutOfResources",
    "Peer",
    "PeerNameMismatch",
    "ProtocolError",
    "Refusal",
    "RemoteError",
    "RenewalStats",
    "Reply",
    "Resolver",
    "Retry",
    "RevocationListExpired",
    "Route",
    "SendQueueFull",
    "Service",
    "ServiceStats",
    "SettingsFrozenError",
    "Side",
    "SpiffeId",
    "SpiffeRule",
    "TlsEngineInfo",
    "TooManyConnections",
    "Undelivered",
    "UnknownAuthority",
    "WatchUpdate",
    "WorkerFailed",
    "WorkerGroup",
    "WorkerStatus",
    "current_message",
    "run",
    "run_node",
    "serve",
    "start_node",
    "tls_engine",
]

#: Where they are, of those that are not loaded yet.
_MODULES = {
    "Acceptor": "fastnode.node.acceptor",
    "AcceptorOptions": "fastnode.options",
    "AcceptorStats": "fastnode.node.acceptor",
    "BroadcastResult": "fastnode.service.status",
    "CertAuthManager": "fastnode.certs.manager",
    "CertManager": "fastnode.certs.manager",
    "CertPool": "fastnode.certs.pool",
    "Certificate": "fastnode.certs.certificate",
    "CertificateWatch": "fastnode.certs.watch",
    "CheckResult": "fastnode.node.health",
    "ClientAuth": "fastnode.certs.client_auth",
    "DialStats": "fastnode.node.context",
    "Distribution": "fastnode.node.distribution",
    "EndpointStats": "fastnode.node.stats",
    "InstanceStatus": "fastnode.service.status",
    "Keeper": "fastnode.node.keeper",
    "Link": "fastnode.link.link",
    "LinkStats": "fastnode.link.stats",
    "Listener": "fastnode.options",
    "Message": "fastnode.dispatch.message",
    "NetworkOptions": "fastnode.options",
    "Node": "fastnode.node.node",
    "NodeHealth": "fastnode.node.health",
    "NodeOptions": "fastnode.options",
    "NodeStats": "fastnode.node.stats",
    "Peer": "fastnode.peer",
    "Refusal": "fastnode.node.refusal",
    "RenewalStats": "fastnode.node.renewal",
    "Reply": "fastnode.dispatch.reply",
    "Resolver": "fastnode.options",
    "Retry": "fastnode.service.retry",
    "Route": "fastnode.routing.route",
    "Service": "fastnode.service.service",
    "ServiceStats": "fastnode.service.status",
    "SpiffeId": "fastnode.certs.spiffe",
    "SpiffeRule": "fastnode.certs.spiffe",
    "TlsEngineInfo": "fastnode.tls.choice",
    "Undelivered": "fastnode.link.stats",
    "WatchUpdate": "fastnode.certs.on_update",
    "WorkerGroup": "fastnode.workers",
    "WorkerStatus": "fastnode.workers",
    "current_message": "fastnode.dispatch.current",
    "run": "fastnode.node.runner",
    "run_node": "fastnode.workers",
    "serve": "fastnode.workers",
    "start_node": "fastnode.node.node",
    "tls_engine": "fastnode.tls.choice",
}

if not TYPE_CHECKING:  # or type checkers would take any name for one of these

    def __getattr__(name: str) -> object:
        """Load a name (PEP 562)."""
        if name == "__version__":
            metadata = import_module("importlib.metadata")
            globals()[name] = metadata.version("fastnode")
            return globals()[name]
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(_MODULES[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    """Those that are not loaded yet, too."""
    return sorted({*globals(), *__all__, "__version__"})
