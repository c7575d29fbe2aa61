"""Extension blocks, without sockets: what is made is read, and nothing else is."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastnode import ConfigError, ProtocolError
from fastnode.buffers.pool import BufferPool
from fastnode.limits import MAX_EXTENSION_BYTES
from fastnode.wire.decoder import Decoder, Frame
from fastnode.wire.encoder import Encoder
from fastnode.wire.extension import Extension, decode, encode, encode_status
from helpers import frames

NAMES = st.text("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz", min_size=1)
VALUES = st.text(
    st.characters(codec="utf-8").filter(
        lambda c: c == "\t" or (c >= " " and c != "\x7f")
    )
)
METADATA = st.dictionaries(NAMES, VALUES, max_size=64).filter(
    lambda found: (
        sum(len(n) + len(v.encode()) for n, v in found.items()) <= 16 << 10
        and all(len(name) <= 255 for name in found)
    )
)
IDS = st.none() | st.binary(min_size=16, max_size=16)
ATTEMPTS = st.integers(1, 0xFFFF)


def field(kind: int, value: bytes) -> bytes:
    return struct.pack(">BH", kind, len(value)) + value


def entry(name: bytes, value: bytes) -> bytes:
    return struct.pack(">BH", len(name), len(value)) + name + value


@given(st.booleans(), IDS, ATTEMPTS, st.none() | METADATA)
def test_what_is_made_is_read(
    deadline: bool,
    request_id: bytes | None,
    attempt: int,
    metadata: dict[str, str] | None,
) -> None:
    block = encode(
        deadline=deadline, request_id=request_id, attempt=attempt, metadata=metadata
    )
    assert len(block) <= MAX_EXTENSION_BYTES
    found = decode(block)
    assert found.time_left == (0 if deadline else -1)
    assert found.request == request_id
    assert found.attempt == (attempt if request_id else 1)
    assert dict(found.metadata or {}) == (metadata or {})
    assert found.code is None


@given(st.text("abcxyz019_.-", max_size=63), st.binary(max_size=16 << 10))
def test_a_status(rest: str, details: bytes) -> None:
    found = decode(encode_status("c" + rest, details))
    assert (found.code, found.details) == ("c" + rest, details)


def test_the_largest() -> None:
    names = {f"n{i:02}": "" for i in range(64)}
    room = (16 << 10) - 3 * 64
    metadata = names | {"n00": "x" * room}
    block = encode(deadline=True, request_id=bytes(16), metadata=metadata)
    assert len(block) <= MAX_EXTENSION_BYTES
    assert dict(decode(block).metadata or {}) == metadata
    with pytest.raises(ConfigError):
        encode(metadata=metadata | {"n01": "y"})
    assert len(encode_status("c" * 64, bytes(16 << 10))) <= MAX_EXTENSION_BYTES


def test_as_the_document_says() -> None:
    """Byte by byte: docs/wire-format.md, "Extension blocks"."""
    block = (
        field(1, struct.pack(">Q", 1_500_000))
        + field(2, bytes(range(16)) + b"\0\2")
        + field(3, entry(b"trace-id", b"abc"))
        + field(200, b"of a later version")
        + field(200, b"twice")
    )
    found = decode(block)
    assert found.time_left == 1.5
    assert (found.request, found.attempt) == (bytes(range(16)), 2)
    assert dict(found.metadata or {}) == {"trace-id": "abc"}
    assert decode(field(4, b"\4busy...")).details == b"..."


@pytest.mark.parametrize(
    "block",
    [
        b"\1",
        b"\1\0",
        b"\1\0\0",
        b"\1\0\1",
        field(1, bytes(7)),
        field(1, bytes(9)),
        field(1, bytes(8)) * 2,
        field(2, bytes(17)),
        field(2, bytes(18)),  # attempt 0
        field(2, bytes(16) + b"\0\1") * 2,
        field(3, b"\1"),
        field(3, b"\1\0\0"),
        field(3, entry(b"", b"")),
        field(3, entry(b"Upper", b"")),
        field(3, entry(b"a b", b"")),
        field(3, entry(b"\xff", b"")),
        field(3, entry(b"a", b"\xff")),
        field(3, entry(b"a", b"\n")),
        field(3, entry(b"a", b"1") * 2),
        field(3, b"".join(entry(b"n%d" % i, b"") for i in range(65))),
        field(3, entry(b"a", bytes([65]) * (16 << 10))),
        field(4, b""),
        field(4, b"\0"),
        field(4, b"\2a"),
        field(4, b"\1A"),
        field(4, b"\1\xff"),
        field(4, b"\x41" + b"a" * 65),
        field(4, b"\1a" + bytes((16 << 10) + 1)),
        field(4, b"\1a") * 2,
        bytes(MAX_EXTENSION_BYTES + 1),
    ],
    ids=lambda block: block[:8].hex(),
)
def test_guarantee_10_a_broken_block(block: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(block)


@given(st.binary(max_size=300))
def test_guarantee_10_any_bytes(block: bytes) -> None:
    try:
        found = decode(block)
    except ProtocolError:
        return
    assert isinstance(found, Extension)
    assert found.attempt >= 1


# --- frames with blocks --------------------------------------------------------------


def both() -> tuple[Encoder, Decoder]:
    pool = BufferPool()
    decoder = Decoder(pool)
    decoder.extend()
    return Encoder(pool), decoder


SIZES = st.integers(0, 70_000) | st.sampled_from((0, 1, 4096, 16 << 10, 200_000))


@given(
    st.lists(
        st.tuples(
            st.sampled_from((frames.MESSAGE, frames.CALL, frames.CONFIRM)),
            SIZES,
            st.none() | METADATA,
            st.booleans(),
            st.booleans(),
        ),
        max_size=8,
    ),
    st.booleans(),
)
def test_frames_with_blocks(
    items: list[tuple[int, int, dict[str, str] | None, bool, bool]], bytewise: bool
) -> None:
    encoder, decoder = both()
    expected = []
    for number, (kind, size, metadata, deadline, high) in enumerate(items, 1):
        payload = bytes([number]) * size
        block = encode(deadline=deadline, request_id=bytes(16), metadata=metadata)
        call = 0 if kind == frames.MESSAGE else number
        lane = frames.HIGH if high else frames.DATA
        encoder.add_extended(
            kind,
            "echo",
            call,
            payload,
            block,
            lane,
            deadline=1000 + number if deadline else 0,
        )
        if not metadata:
            # A frame without a block has none of the frame before it.
            encoder.add_message("echo", b"plain", lane)
        expected.append((kind, call, payload, metadata or {}, deadline, number))
    stream = encoder.take(now=1000.0)
    found: list[tuple[Frame, bytes | None]] = []
    if bytewise and len(stream) < 20_000:
        for at in range(len(stream)):
            found += decoder.feed(stream[at : at + 1], blocks=True)
    else:
        found = decoder.feed(stream, blocks=True)
    got = []
    for (kind, _, call, body), sent in found:
        if kind == frames.ENDPOINT or body == b"plain":
            assert sent is None
            continue
        assert sent is not None
        extension = decode(sent)
        number = body[0] if body else 0
        left = extension.time_left
        if number and left >= 0:
            assert abs(left - number) < 0.001
        got.append((kind, call, body, dict(extension.metadata or {}), left >= 0))
    assert sorted(got, key=repr) == sorted((each[:5] for each in expected), key=repr)
    assert not decoder.unfinished
    encoder.clear()
    decoder.close()


def test_what_is_over_has_no_time_left() -> None:
    encoder, decoder = both()
    block = encode(deadline=True)
    for number in range(1, 100):
        encoder.add_extended(frames.CALL, "e", number, b"", block, deadline=10.0)
    found = decoder.feed(encoder.take(now=11.0), blocks=True)
    lefts = [decode(each).time_left for _, each in found if each is not None]
    assert lefts == [0.0] * 99
    encoder.clear()
    decoder.close()


def test_replies_and_errors_with_blocks() -> None:
    encoder, decoder = both()
    block = encode(metadata={"a": "b"})
    for size in (0, 5000, 100_000):
        encoder.add_reply(7, bytes(size), block)
    status = encode_status("busy", bytes(16 << 10))
    body = struct.pack(">IH", 9, len(status)) + status + struct.pack(">HH", 1, 0)
    encoder.add_error(body, extended=True)
    found = decoder.feed(encoder.take(), blocks=True)
    assert [(kind, call) for (kind, _, call, _), _ in found] == [
        (frames.REPLY, 7),
        (frames.REPLY, 7),
        (frames.ERROR, 9),
        (frames.REPLY, 7),
    ]
    assert [each for _, each in found] == [block, block, status, block]
    assert found[2][0][3] == struct.pack(">HH", 1, 0)
    encoder.clear()
    decoder.close()


@pytest.mark.parametrize("kind", [frames.CALL, frames.MESSAGE, frames.ERROR])
def test_guarantee_10_a_block_that_is_cut_or_not_agreed_on(kind: int) -> None:
    prefix = b"" if kind == frames.MESSAGE else bytes(3) + b"\1"
    rest = bytes(4) if kind == frames.ERROR else b""
    good = frames.frame(kind, prefix + b"\0\0" + rest, flags=frames.EXTENDED)
    decoder = Decoder(BufferPool())
    with pytest.raises(ProtocolError, match="not agreed"):
        decoder.feed(good)
    decoder.close()
    for cut in (b"\0\1", b"\xff\xff", struct.pack(">H", MAX_EXTENSION_BYTES + 1)):
        _, decoder = both()
        with pytest.raises(ProtocolError):
            decoder.feed(frames.frame(kind, prefix + cut, flags=frames.EXTENDED))
        decoder.close()
    _, decoder = both()
    assert len(decoder.feed(good)) == 1
    decoder.close()
