"""Which engine TLS connections get: the direct one where it can be had."""

from __future__ import annotations

import os
import ssl
from typing import Final

from fastnode.errors import ConfigError, Side
from fastnode.openssl.handle import why_unreachable, wrap
from fastnode.tls.direct import DirectEngine
from fastnode.tls.engine import TlsEngine
from fastnode.tls.memory_bio import MemoryBioEngine

__all__ = ["ENGINE_VARIABLE", "engine_in_use", "make_engine", "why_not_direct"]

#: ``memory-bio`` in this variable of the environment keeps to Python's `ssl` module:
#: for tests, and to find out whether a fault is in the engine.
ENGINE_VARIABLE: Final = "FASTNODE_TLS_ENGINE"


def why_not_direct() -> str | None:
    """Why connections of this process use `ssl.MemoryBIO`; None: they do not."""
    if os.environ.get(ENGINE_VARIABLE) == "memory-bio":
        return f"{ENGINE_VARIABLE} says so"
    return why_unreachable()


def engine_in_use() -> str:
    """The TLS library and how it is reached, in words."""
    why = why_not_direct()
    how = "called directly" if why is None else f"through ssl.MemoryBIO: {why}"
    return f"{ssl.OPENSSL_VERSION}, {how}"


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
    return MemoryBioEngine(context, server_side=server_side, server_name=server_name)
