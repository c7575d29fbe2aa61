"""Tools for the tests of services that use fastnode.

- `pair`, `cluster`: nodes that are started, know each other, and stop at the end
- `authority`: a throwaway certificate authority
- `Network`: connections between nodes that a test can cut, silence and delay
- `FakeClock`: lets a test advance the time of its event loop

They need no test framework. `fastnode.testing.pytest_plugin` has fixtures for pytest.
docs/testing.md shows how to use all of them.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastnode.testing.certificates import (
        CertificateFiles,
        ThrowawayAuthority,
        authority,
    )
    from fastnode.testing.clock import FakeClock
    from fastnode.testing.network import Network
    from fastnode.testing.nodes import cluster, pair

__all__ = [
    "CertificateFiles",
    "FakeClock",
    "Network",
    "ThrowawayAuthority",
    "authority",
    "cluster",
    "pair",
]

#: pytest imports this package in every project where fastnode is installed. So nothing
#: is loaded before a test asks for it.
_MODULES = {
    "CertificateFiles": "fastnode.testing.certificates",
    "FakeClock": "fastnode.testing.clock",
    "Network": "fastnode.testing.network",
    "ThrowawayAuthority": "fastnode.testing.certificates",
    "authority": "fastnode.testing.certificates",
    "cluster": "fastnode.testing.nodes",
    "pair": "fastnode.testing.nodes",
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
