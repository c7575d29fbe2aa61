"""The reply to a request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from fastnode.peer import Peer

__all__ = ["Reply"]

_NO_METADATA: Final[Mapping[str, str]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Reply:
    """The reply to a request, with its metadata.

    `Node.request` and `Link.request` return a `Reply`. A handler can return one too, to
    send metadata with its payload. Then `peer` and `attempts` are not used.

    Attributes:
        payload: the payload that the handler returned.
        metadata: the metadata that the handler sent, a mapping of `str` to `str`.
        peer: the peer that replied. None in a reply that a handler returns.
        attempts: how often the request was sent, from 1.
    """

    payload: bytes
    metadata: Mapping[str, str] = field(default_factory=lambda: _NO_METADATA)
    peer: Peer | None = None
    attempts: int = 1
