"""Discovery: which addresses a service has, and how that changes.

- `Target`: the address of one instance
- `Discovery`, `AnnouncingDiscovery`: the protocols; your own discovery fills them
"""

from __future__ import annotations

from fastnode.discovery.protocol import (
    AnnouncedAcceptor,
    AnnouncedNode,
    AnnouncingDiscovery,
    Discovery,
)
from fastnode.discovery.target import Target

__all__ = [
    "AnnouncedAcceptor",
    "AnnouncedNode",
    "AnnouncingDiscovery",
    "Discovery",
    "Target",
]
