"""Which engine TLS connections get: the direct one where it can be had."""

from __future__ import annotations

import logging
import os
import ssl
from dataclasses import dataclass
from typing import Final, Literal

from fastnode.errors import ConfigError, Side
from fastnode.log_limit import LogLimit
from fastnode.openssl.handle import why_unreachable, wrap
from fastnode.tls.direct import DirectEngine
from fastnode.tls.engine import TlsEngine
from fastnode.tls.memory_bio import MemoryBioEngine

__all__ = [
    "ENGINE_VARIABLE",
    "TlsEngineInfo",
    "engine_in_use",
    "make_engine",
    "tls_engine",
    "why_not_direct",
]

log = logging.getLogger("fastnode.tls")
_limit = LogLimit(log)

#: ``memory-bio`` in this variable of the environment keeps to Python's `ssl` module:
#: for tests, and to find out whether a fault is in the engine.
ENGINE_VARIABLE: Final = "FASTNODE_TLS_ENGINE"


def why_not_direct() -> str | None:
    """Why connections of this process use `ssl.MemoryBIO`; None: they do not."""
    if os.environ.get(ENGINE_VARIABLE) == "memory-bio":
        return f"{ENGINE_VARIABLE} says so"
    return why_unreachable()


@dataclass(frozen=True, slots=True)
class TlsEngineInfo:
    """How TLS is done in this process.

    Attributes:
        name: ``direct``, which calls the TLS library itself, or ``memory-bio``, which
            is slower and uses Python's `ssl` module for everything. See docs/tls.md.
        openssl: the TLS library of Python's `ssl` module, with its version.
        why_not_direct: why the engine is not ``direct``; None if it is.
    """

    name: Literal["direct", "memory-bio"]
    openssl: str
    why_not_direct: str | None

    def __str__(self) -> str:
        how = "called directly"
        if self.why_not_direct is not None:
            how = f"through ssl.MemoryBIO: {self.why_not_direct}"
        return f"{self.openssl}, {how}"


def tls_engine() -> TlsEngineInfo:
    """Return which TLS engine the links of this process use, and why."""
    why = why_not_direct()
    name: Literal["direct", "memory-bio"] = "direct" if why is None else "memory-bio"
    return TlsEngineInfo(name, ssl.OPENSSL_VERSION, why)


def engine_in_use() -> str:
    """Return the TLS library and how it is reached, in words."""
    return str(tls_engine())


def make_engine(
    context: ssl.SSLContext, *, server_side: bool, server_name: str | None = None
) -> TlsEngine:
    """A fresh engine.

    Args:
        context: is not changed any more.
        server_side: whether we are the server.
        server_name: sent as SNI and verified, as the context says; clients only.

    Raises:
        ConfigError: the context verifies the server's name, and there is none. Python
            would verify any name then.
    """
    if not server_side and context.check_hostname and not server_name:
        raise ConfigError(
            "there is no server name that the server's certificate could be verified "
            "against",
            side=Side.LOCAL,
            hint="dial a host, or set server_name",
        )
    if why_not_direct() is None:
        handle = wrap(context, server_side=server_side, server_name=server_name)
        if handle is not None:
            return DirectEngine(handle, server_side=server_side)
        _limit.say(
            logging.INFO,
            "unproven",
            "a connection uses ssl.MemoryBIO: which SSL object of OpenSSL is its own "
            "could not be proven",
            event="slower_engine",
        )
    return MemoryBioEngine(context, server_side=server_side, server_name=server_name)
