"""ERROR: why a call got no reply. Sans-IO."""

from __future__ import annotations

import struct
from typing import Final

from fastnode.errors import (
    Busy,
    CallTimeout,
    MessageTooLarge,
    NoSuchEndpoint,
    ProtocolError,
    RemoteError,
    Side,
)
from fastnode.limits import MAX_REASON_BYTES
from fastnode.wire.text import cut

__all__ = [
    "BUSY",
    "CODES",
    "DEADLINE_OVER",
    "HANDLER_RAISED",
    "NO_SUCH_ENDPOINT",
    "REPLY_TOO_LARGE",
    "decode_call_error",
    "encode_call_error",
]

# Codes of an ERROR frame (docs/wire-format.md).
HANDLER_RAISED: Final = 1
NO_SUCH_ENDPOINT: Final = 2
REPLY_TOO_LARGE: Final = 3
DEADLINE_OVER: Final = 4
BUSY: Final = 5
#: ``FastnodeError.code`` of the error that the caller gets, by the code of the frame.
#: An extension block may say another one, which the handler chose.
CODES: Final = {
    HANDLER_RAISED: RemoteError.code,
    NO_SUCH_ENDPOINT: NoSuchEndpoint.code,
    REPLY_TOO_LARGE: MessageTooLarge.code,
    DEADLINE_OVER: CallTimeout.code,
    BUSY: Busy.code,
}

_NUMBER = struct.Struct(">I")
# Of an extension block.
_SIZE = struct.Struct(">H")
# The code, and the length of the name; the text is the rest.
_HEAD = struct.Struct(">HH")


def encode_call_error(
    number: int, code: int, name: str, text: str, block: bytes | None = None
) -> bytes:
    """Return the body of an ERROR frame.

    Args:
        number: of the call.
        name: of the exception's type.
        text: what it says. Both are cut to MAX_REASON_BYTES.
        block: an extension block; the frame has the flag EXTENDED then.
    """
    encoded = cut(name, MAX_REASON_BYTES)
    head = _NUMBER.pack(number)
    if block is not None:
        head += _SIZE.pack(len(block)) + block
    head += _HEAD.pack(code, len(encoded))
    return head + encoded + cut(text, MAX_REASON_BYTES)


def decode_call_error(body: bytes) -> tuple[int, str, str]:
    """Return code, name and text of what follows number and block in an ERROR frame.

    Raises:
        ProtocolError: the length of the name is wrong, or there is too much text.
    """
    code, size = _HEAD.unpack_from(body)
    rest = body[_HEAD.size :]
    if size > len(rest) or len(rest) > 2 * MAX_REASON_BYTES:
        raise ProtocolError("the peer sent a malformed ERROR frame", side=Side.REMOTE)
    return (
        code,
        rest[:size].decode("utf-8", "replace"),
        rest[size:].decode("utf-8", "replace"),
    )
