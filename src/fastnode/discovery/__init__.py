"""Discovery: which addresses a service has, and how that changes.

- `Target`: the address of one instance
- `Discovery`, `AnnouncingDiscovery`: the protocols; your own discovery fills them
- `StaticDiscovery`: targets that the program knows
- `LocalDiscovery`: the nodes of one user on one host
- `DnsDiscovery`: A and AAAA records, or SRV records
- `EtcdDiscovery`: keys of etcd
- `DiscoveryError`: a directory that cannot be asked or written
- `Watch`, `Publish`: what your own discovery returns, and how it gives its targets
- `fastnode.discovery.kit`: checks for your own discovery

Each name is loaded when it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastnode.discovery.dns import DnsDiscovery
    from fastnode.discovery.etcd import EtcdDiscovery
    from fastnode.discovery.failure import DiscoveryError
    from fastnode.discovery.local import LocalDiscovery
    from fastnode.discovery.protocol import (
        AnnouncedAcceptor,
        AnnouncedNode,
        AnnouncingDiscovery,
        Discovery,
    )
    from fastnode.discovery.static import StaticDiscovery
    from fastnode.discovery.target import Target
    from fastnode.discovery.watch import Publish, Watch

__all__ = [
    "AnnouncedAcceptor",
    "AnnouncedNode",
    "AnnouncingDiscovery",
    "Discovery",
    "DiscoveryError",
    "DnsDiscovery",
    "EtcdDiscovery",
    "LocalDiscovery",
    "Publish",
    "StaticDiscovery",
    "Target",
    "Watch",
]

#: Where the names are.
_MODULES = {
    "AnnouncedAcceptor": "fastnode.discovery.protocol",
    "AnnouncedNode": "fastnode.discovery.protocol",
    "AnnouncingDiscovery": "fastnode.discovery.protocol",
    "Discovery": "fastnode.discovery.protocol",
    "DiscoveryError": "fastnode.discovery.failure",
    "EtcdDiscovery": "fastnode.discovery.etcd",
    "DnsDiscovery": "fastnode.discovery.dns",
    "LocalDiscovery": "fastnode.discovery.local",
    "Publish": "fastnode.discovery.watch",
    "StaticDiscovery": "fastnode.discovery.static",
    "Target": "fastnode.discovery.target",
    "Watch": "fastnode.discovery.watch",
}

if not TYPE_CHECKING:  # or type checkers would take any name for one of these

    def __getattr__(name: str) -> object:
        """Load a name (PEP 562)."""
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(_MODULES[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    """Return all names, also those that are not loaded yet."""
    return sorted({*globals(), *__all__})
