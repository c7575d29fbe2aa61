"""A `Connection` as asyncio wants to see it."""

from __future__ import annotations

import asyncio
from typing import Any

__all__ = ["TransportProtocol"]

_CALLBACKS = (
    "connection_made",
    "connection_lost",
    "get_buffer",
    "buffer_updated",
    "eof_received",
    "pause_writing",
    "resume_writing",
)


class TransportProtocol(asyncio.BufferedProtocol):
    """The callbacks of a `Connection`, as attributes of an instance.

    asyncio asks for an instance of `asyncio.BufferedProtocol`, which an extension
    type cannot be. The slots hold the extension type's bound methods, so that a
    callback costs no Python frame.
    """

    __slots__ = _CALLBACKS

    def __init__(self, connection: Any) -> None:
        for name in _CALLBACKS:
            setattr(self, name, getattr(connection, name))
