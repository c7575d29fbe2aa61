"""The wire format in plain Python, written from docs/wire-format.md alone."""

from __future__ import annotations

import struct
from itertools import count

HELLO, ACCEPT, ENDPOINT, MESSAGE, CALL, REPLY, ERROR = range(1, 8)
CONTINUE, CREDIT, CANCEL, PING, PONG, GOODBYE = range(8, 14)
MOVED, RECONNECT, STAY, CONFIRM = range(14, 18)
PAUSE, RESUME, DROPPED, LEAVING = range(18, 22)
#: Types of fields in an extension block.
DEADLINE, REQUEST, METADATA, STATUS = range(1, 5)
#: Types of features.
HANDOVER, SUCCEEDS, EXTENSIONS, WORKERS, ADDITIONAL = range(1, 6)
MORE, NESTED, EXTENDED = 1, 16, 32
DATA, CONTROL, HIGH, BULK, INNER, REPLIES, BULK_REPLIES = range(7)
#: Lanes in which the receiver grants credit.
CREDITED = (DATA, HIGH, BULK, INNER, BULK_REPLIES)
MAX_FRAME = 64 * 1024


def frame(kind: int, body: bytes = b"", *, flags: int = 0, number: int = 0) -> bytes:
    """One frame."""
    return struct.pack(">BBHI", kind, flags, number, len(body)) + body


def message(number: int, payload: bytes, lane: int = DATA) -> bytes:
    """A one-way message, in as many frames as it takes."""
    return _split(MESSAGE, number, b"", payload, lane)


def call(
    number: int, call_number: int, payload: bytes, lane: int = DATA, *, flags: int = 0
) -> bytes:
    """A call."""
    prefix = struct.pack(">I", call_number)
    return _split(CALL, number, prefix, payload, lane, flags)


def confirm(number: int, call_number: int, payload: bytes, lane: int = DATA) -> bytes:
    """A message that is to be confirmed."""
    return _split(CONFIRM, number, struct.pack(">I", call_number), payload, lane)


def endpoint(number: int, name: bytes, lane: int = DATA) -> bytes:
    """A name, and its number in a lane."""
    return frame(ENDPOINT, name, number=number, flags=lane << 1)


def field(kind: int, value: bytes) -> bytes:
    """One field of an extension block."""
    return struct.pack(">BH", kind, len(value)) + value


def entry(name: bytes, value: bytes) -> bytes:
    """One entry of the field METADATA."""
    return struct.pack(">BH", len(name), len(value)) + name + value


def extended(
    kind: int,
    prefix: bytes,
    block: bytes,
    rest: bytes = b"",
    *,
    flags: int = 0,
    number: int = 0,
) -> bytes:
    """One frame with an extension block.

    Args:
        prefix: what stands before the block: the number of the call, the total.
        rest: what follows the block.
    """
    body = prefix + struct.pack(">H", len(block)) + block + rest
    return frame(kind, body, flags=flags | EXTENDED, number=number)


def dropped(name: bytes, count: int = 1) -> bytes:
    """Tell that messages to a name were dropped."""
    return frame(DROPPED, struct.pack(">I", count) + name)


def leaving(grace_ms: int = 0) -> bytes:
    """Tell that this side will stop."""
    return frame(LEAVING, struct.pack(">I", grace_ms))


def reply(call_number: int, payload: bytes) -> bytes:
    """A reply."""
    return _split(REPLY, 0, struct.pack(">I", call_number), payload, BULK_REPLIES)


def _split(
    kind: int, number: int, prefix: bytes, payload: bytes, lane: int, flags: int = 0
) -> bytes:
    if kind != REPLY:
        flags |= lane << 1
    if 8 + len(prefix) + len(payload) <= MAX_FRAME:
        return frame(kind, prefix + payload, number=number, flags=flags)
    first = MAX_FRAME - 8 - len(prefix) - 8
    total = struct.pack(">Q", len(payload))
    body = prefix + total + payload[:first]
    frames = [frame(kind, body, flags=flags | MORE, number=number)]
    for at in count(first, MAX_FRAME - 8):
        part = payload[at : at + MAX_FRAME - 8]
        more = at + len(part) < len(payload)
        frames.append(frame(CONTINUE, part, flags=MORE if more else 0, number=lane))
        if not more:
            return b"".join(frames)
    raise AssertionError


def feature(kind: int, value: bytes = b"") -> bytes:
    """One feature of a HELLO."""
    return struct.pack(">HH", kind, len(value)) + value


def reason(code: int, text: str = "", hint: str = "") -> bytes:
    """The body of a GOODBYE or STAY."""
    return struct.pack(">HH", code, len(text.encode())) + (text + hint).encode()


def hello(
    name: str,
    *,
    instance: bytes = bytes(16),
    max_message: int = 1 << 26,
    max_frame: int = MAX_FRAME,
    window: int = 1 << 20,
    endpoints: int = 1024,
    keepalive_ms: int = 15000,
    versions: tuple[int, int] = (1, 1),
    magic: bytes = b"fastnode",
    features: bytes = b"",
) -> bytes:
    """A HELLO frame."""
    body = struct.pack(
        ">8sBBH16sQIIIIH",
        magic,
        *versions,
        0,
        instance,
        max_message,
        max_frame,
        window,
        endpoints,
        keepalive_ms,
        len(name.encode()),
    )
    return frame(HELLO, body + name.encode() + features)
