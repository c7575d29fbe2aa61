"""An `asyncio.BufferedProtocol` with the callbacks of a `Connection`."""

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

    asyncio requires an instance of `asyncio.BufferedProtocol`, and an extension type
    cannot be one. The slots hold the bound methods of the extension type, so a callback
    needs no Python frame.
    """

    __slots__ = _CALLBACKS

    def __init__(self, connection: Any) -> None:
        for name in _CALLBACKS:
            setattr(self, name, getattr(connection, name))
