"""DiscoveryError: a directory that cannot be asked or written."""

from __future__ import annotations

from fastnode.errors import Begun, FastnodeError

__all__ = ["DiscoveryError"]


class DiscoveryError(FastnodeError, ConnectionError):
    """The directory of services cannot be asked, or a node cannot be announced there.

    `announce` raises it. A watch does not: it logs the reason, keeps the last targets
    and tries again.
    """

    code = "unavailable"
    begun: Begun = "no"
    usual_hint = "see that the directory can be reached from here; later tries follow"
