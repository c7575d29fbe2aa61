"""What a call brings back."""

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
    """The reply to a request, and what belongs to it.

    `Node.request` and `Link.request` return one. A handler that wants to send metadata
    with its reply returns one too; then `peer` and `attempts` mean nothing.

    Attributes:
        payload: what the handler returned.
        metadata: what the handler sent with it: a mapping of `str` to `str`.
        peer: who replied; None in a reply that a handler returns.
        attempts: how often the request was sent, from 1.
    """

    payload: bytes
    metadata: Mapping[str, str] = field(default_factory=lambda: _NO_METADATA)
    peer: Peer | None = None
    attempts: int = 1
