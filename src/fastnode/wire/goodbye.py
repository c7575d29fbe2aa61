"""GOODBYE and STAY: why a link ends, never came up, or is not replaced. Sans-IO."""

from __future__ import annotations

import struct

from fastnode.errors import ProtocolError, Side
from fastnode.limits import MAX_REASON_BYTES
from fastnode.wire.text import cut

__all__ = ["decode_goodbye", "encode_goodbye"]

# the code, the length of the text; the hint is the rest
_HEAD = struct.Struct(">HH")


def encode_goodbye(code: int, text: str, hint: str) -> bytes:
    """The body of the frame; both texts are cut to MAX_REASON_BYTES."""
    reason = cut(text, MAX_REASON_BYTES)
    return _HEAD.pack(code, len(reason)) + reason + cut(hint, MAX_REASON_BYTES)


def decode_goodbye(body: bytes) -> tuple[int, str, str]:
    """Code, text and hint.

    Raises:
        ProtocolError: the length of the text is wrong.
    """
    code, size = _HEAD.unpack_from(body)
    rest = body[_HEAD.size :]
    if size > len(rest):
        raise ProtocolError(
            "the peer sent a malformed GOODBYE or STAY frame",
            side=Side.REMOTE,
            hint="it runs an incompatible version",
        )
    return (
        code,
        rest[:size].decode("utf-8", "replace"),
        rest[size:].decode("utf-8", "replace"),
    )
