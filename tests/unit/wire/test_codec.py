"""Encoder and decoder against each other and against plain Python."""

from __future__ import annotations

import itertools
import os
import struct
import sys
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastnode import ConfigError, ProtocolError
from fastnode.buffers.pool import BufferPool
from fastnode.wire.decoder import Decoder, Frame
from fastnode.wire.encoder import Encoder
from helpers import frames

SIZES = (0, 1, 63, 64, 4095, 4096, 4097, 16383, 16384, 16385, 65512, 65516, 65517,
         65528, 65529, 70000, 131072, 1_000_003)  # fmt: skip


@pytest.fixture
def pool() -> BufferPool:
    return BufferPool()


@pytest.fixture
def encoder(pool: BufferPool) -> Iterator[Encoder]:
    encoder = Encoder(pool)
    yield encoder
    encoder.clear()
    assert pool.outstanding == 0


@pytest.fixture
def decoder(pool: BufferPool) -> Iterator[Decoder]:
    decoder = Decoder(pool)
    yield decoder
    decoder.close()
    assert pool.outstanding == 0


def decode(data: bytes, cuts: list[int] | None = None, **limits: Any) -> list[Frame]:
    """All frames of `data`, fed in pieces."""
    pool = BufferPool()
    decoder = Decoder(pool, **limits)
    try:
        found = []
        edges = [0, *sorted(cuts or []), len(data)]
        for begin, end in itertools.pairwise(edges):
            found += decoder.feed(data[begin:end])
        return found
    finally:
        decoder.close()
        assert pool.outstanding == 0


@pytest.mark.parametrize("size", SIZES)
def test_encoder_writes_what_the_document_says(encoder: Encoder, size: int) -> None:
    payload = os.urandom(size)
    encoder.add_message("audit", payload)
    lane = frames.DATA if 8 + size <= 65536 else frames.BULK
    assert encoder.take() == (
        frames.endpoint(0, b"audit", lane) + frames.message(0, payload, lane)
    )
    encoder.add_call("price", 77, payload, frames.HIGH)
    assert encoder.take() == (
        frames.endpoint(0, b"price", frames.HIGH)
        + frames.call(0, 77, payload, frames.HIGH)
    )
    lane = frames.DATA if 12 + size <= 65536 else frames.BULK
    encoder.add_confirm("new", 78, payload)
    written = encoder.take()
    number = int.from_bytes(written[2:4])
    assert written == (
        frames.endpoint(number, b"new", lane)
        + frames.confirm(number, 78, payload, lane)
    )
    encoder.add_reply(0xFFFFFFFF, payload)
    assert encoder.take() == frames.reply(0xFFFFFFFF, payload)


@pytest.mark.parametrize("size", SIZES)
def test_decoder_reads_what_the_document_says(decoder: Decoder, size: int) -> None:
    payload = os.urandom(size)
    assert decoder.feed(frames.message(9, payload)) == [(4, 9, 0, payload)]
    assert decoder.feed(frames.call(9, 1, payload)) == [(5, 9, 1, payload)]
    assert decoder.feed(frames.confirm(9, 2, payload)) == [(17, 9, 2, payload)]
    assert decoder.feed(frames.reply(5, payload)) == [(6, 0, 5, payload)]
    assert not decoder.unfinished


@pytest.mark.parametrize("size", [0, 1, 4096, 5000, 65529])
def test_byte_by_byte(decoder: Decoder, size: int) -> None:
    payload = os.urandom(size)
    data = frames.call(3, 4, payload) + frames.frame(frames.PING, bytes(8))
    found = []
    for at in range(len(data)):
        found += decoder.feed(data[at : at + 1])
        # A frame is unfinished until its last byte, and only until then.
        assert decoder.unfinished == (at not in (len(data) - 17, len(data) - 1))
    assert found == [(5, 3, 4, payload), (11, 0, 0, bytes(8))]


def test_frames_of_a_succession_byte_by_byte() -> None:
    stay = frames.reason(28, "why", "hint")
    data = (
        frames.frame(frames.MOVED)
        + frames.frame(frames.RECONNECT)
        + frames.frame(frames.STAY, stay)
    )
    expected = [(14, 0, 0, b""), (15, 0, 0, b""), (16, 0, 0, stay)]
    assert decode(data) == decode(data, list(range(len(data)))) == expected


def test_moved_inside_a_reply_is_in_another_lane(decoder: Decoder) -> None:
    parts = split_frames(frames.reply(1, bytes(100_000)))
    found = decoder.feed(parts[0] + frames.frame(frames.MOVED) + b"".join(parts[1:]))
    assert [frame[0] for frame in found] == [frames.MOVED, frames.REPLY]


payloads = st.one_of(
    st.binary(max_size=200),
    st.integers(0, 150_000).map(lambda size: (b"0123456789abcdef" * 9400)[:size]),
)
conversations = st.lists(
    st.tuples(st.sampled_from(["message", "call", "confirm", "reply"]), payloads),
    max_size=8,
)


@settings(max_examples=100, deadline=None)
@given(conversations, st.data())
def test_any_split_gives_the_same_frames(
    conversation: list[tuple[str, bytes]], data: st.DataObject
) -> None:
    encoder = Encoder(BufferPool())
    expected: list[Frame] = []
    written = b""
    for number, (what, payload) in enumerate(conversation, 1):
        if what == "message":
            encoder.add_message("e", payload)
            expected.append((4, 0, 0, payload))
        elif what == "call":
            encoder.add_call("e", number, payload)
            expected.append((5, 0, number, payload))
        elif what == "confirm":
            encoder.add_confirm("e", number, payload)
            expected.append((17, 0, number, payload))
        else:
            encoder.add_reply(number, payload)
            expected.append((6, 0, number, payload))
        written += encoder.take()
    encoder.clear()
    cuts = data.draw(st.lists(st.integers(0, len(written)), max_size=12))
    found = [frame for frame in decode(written, cuts) if frame[0] != frames.ENDPOINT]
    assert found == expected


def test_control_frames_pass_between_the_parts_of_a_message(decoder: Decoder) -> None:
    payload = os.urandom(200_000)
    parts = split_frames(frames.message(1, payload))
    ping = frames.frame(frames.PING, bytes(8))
    small = frames.reply(9, b"quick")
    found = decoder.feed(parts[0] + ping + parts[1] + small + b"".join(parts[2:]))
    assert [frame[0] for frame in found] == [frames.PING, frames.REPLY, frames.MESSAGE]
    assert found[-1][3] == payload


def test_two_large_messages_in_different_lanes_are_assembled_at_once(
    decoder: Decoder,
) -> None:
    sent, answered = os.urandom(150_000), os.urandom(160_000)
    one = split_frames(frames.message(1, sent))
    two = split_frames(frames.reply(2, answered))
    found = []
    for each in zip(one, two, strict=True):
        found += decoder.feed(b"".join(each))
    assert found == [(4, 1, 0, sent), (6, 0, 2, answered)]


def test_a_large_reply_between_other_frames_byte_by_byte(pool: BufferPool) -> None:
    """A large message, a large reply, and small replies and pings between them."""
    sent, answered = os.urandom(150_000), os.urandom(160_000)
    ping = frames.frame(frames.PING, bytes(8))
    data = b"".join(
        one + two + ping + frames.reply(number, b"quick")
        for number, (one, two) in enumerate(
            zip(
                split_frames(frames.message(1, sent, frames.BULK)),
                split_frames(frames.reply(99, answered)),
                strict=True,
            )
        )
    )
    between = [(frames.PING, 0, 0, bytes(8)), (frames.REPLY, 0, 0, b"quick")]
    expected = [
        *between,
        (frames.PING, 0, 0, bytes(8)),
        (frames.REPLY, 0, 1, b"quick"),
        (frames.MESSAGE, 1, 0, sent),
        (frames.REPLY, 0, 99, answered),
        (frames.PING, 0, 0, bytes(8)),
        (frames.REPLY, 0, 2, b"quick"),
    ]
    assert decode(data) == expected
    decoder = Decoder(pool)
    found = []
    for at in range(len(data)):
        found += decoder.feed(data[at : at + 1], lanes=True)
    assert [frame for _, frame in found] == expected
    assert [lane for lane, (kind, *_) in found if kind != frames.PING] == [
        frames.REPLIES,
        frames.REPLIES,
        frames.BULK,
        frames.BULK_REPLIES,
        frames.REPLIES,
    ]
    assert not decoder.unfinished
    decoder.close()
    assert pool.outstanding == 0


def split_frames(data: bytes) -> list[bytes]:
    """One `bytes` for each frame."""
    found = []
    while data:
        size = 8 + struct.unpack(">I", data[4:8])[0]
        found.append(data[:size])
        data = data[size:]
    return found


# --- the endpoint dictionary ----------------------------------------------------


def test_a_name_travels_once(encoder: Encoder) -> None:
    for _ in range(3):
        encoder.add_message("orders", b"")
        encoder.add_message("audit", b"")
    found = decode(encoder.take())
    assert [f[3] for f in found if f[0] == frames.ENDPOINT] == [b"orders", b"audit"]
    assert [f[1] for f in found if f[0] == frames.MESSAGE] == [0, 1, 0, 1, 0, 1]


def test_at_the_bound_the_oldest_number_is_given_away(encoder: Encoder) -> None:
    encoder.limit(65536, 2)
    for name in ("a", "b", "c", "a", "c"):
        encoder.add_message(name, name.encode())
    book: dict[int, bytes] = {}
    seen = []
    for kind, number, _, payload in decode(encoder.take()):
        assert number < 2
        assert payload is not None
        if kind == frames.ENDPOINT:
            book[number] = payload
        else:
            seen.append((book[number], payload))
    assert seen == [(n, n) for n in (b"a", b"b", b"c", b"a", b"c")]


@pytest.mark.parametrize("name", ["", "x" * 256, "\u00fc" * 128])
def test_names_that_cannot_be(encoder: Encoder, name: str) -> None:
    with pytest.raises(ConfigError, match="255"):
        encoder.add_message(name, b"")
    assert encoder.take() == b""


# --- what a peer may not send ------------------------------------------------------

LARGE = bytes(65528)
HOSTILE = {
    "kind 0": frames.frame(0),
    "kind 18": frames.frame(18),
    "kind 255": frames.frame(255),
    "unknown flag": frames.frame(frames.MESSAGE, b"x", flags=0x20),
    "a message from a handler": frames.frame(frames.MESSAGE, b"x", flags=frames.NESTED),
    "a message in the control lane": frames.frame(frames.MESSAGE, b"x", flags=2),
    "a message in the lane of replies": frames.frame(
        frames.MESSAGE, b"x", flags=frames.REPLIES << 1
    ),
    "a message in bulk replies": frames.frame(
        frames.MESSAGE, b"x", flags=frames.BULK_REPLIES << 1
    ),
    "a name in bulk replies": frames.endpoint(0, b"x", frames.BULK_REPLIES),
    "a call in lane 7": frames.call(0, 1, b"", 7),
    "a reply in a lane": frames.frame(frames.REPLY, bytes(4), flags=4),
    "a reply that names its lane": frames.frame(
        frames.REPLY, bytes(4), flags=frames.REPLIES << 1
    ),
    "a large reply that names its lane": frames.frame(
        frames.REPLY, bytes(11) + b"\x02x", flags=1 | frames.BULK_REPLIES << 1
    ),
    "a large reply inside a large reply": frames.frame(
        frames.REPLY, bytes(11) + b"\x02x", flags=1
    )
    * 2,
    "a part of a reply in the lane of whole ones": frames.frame(
        frames.REPLY, bytes(11) + b"\x02x", flags=1
    )
    + frames.frame(frames.CONTINUE, b"x", number=frames.REPLIES),
    "a part of a reply in control": frames.frame(
        frames.REPLY, bytes(11) + b"\x02x", flags=1
    )
    + frames.frame(frames.CONTINUE, b"x", number=frames.CONTROL),
    "a part of a reply too long": frames.frame(
        frames.REPLY, bytes(11) + b"\x02x", flags=1
    )
    + frames.frame(frames.CONTINUE, b"xy", number=frames.BULK_REPLIES),
    "a large reply above the limit": frames.frame(
        frames.REPLY, bytes(4) + struct.pack(">Q", (64 << 20) + 1) + b"x", flags=1
    ),
    "a reply of half a total": frames.frame(frames.REPLY, bytes(11), flags=1),
    "moved inside a message in bulk": frames.frame(
        frames.MESSAGE, struct.pack(">Q", 9) + b"abc", flags=1 | frames.BULK << 1
    )
    + frames.frame(frames.MOVED),
    "flag on a kind that has none": frames.frame(frames.PING, bytes(8), flags=1),
    "the largest length": struct.pack(">BBHI", 4, 0, 0, 0xFFFFFFFF),
    "a length with the sign bit": struct.pack(">BBHI", 4, 0, 0, 0x80000000),
    "one byte too many for a frame": struct.pack(">BBHI", 4, 0, 0, 65529),
    "call without a number": frames.frame(frames.CALL, b"abc"),
    "confirm without a number": frames.frame(frames.CONFIRM, b"abc"),
    "reply without a number": frames.frame(frames.REPLY, b""),
    "short ping": frames.frame(frames.PING, bytes(7)),
    "long pong": frames.frame(frames.PONG, bytes(9)),
    "short credit": frames.frame(frames.CREDIT, bytes(3)),
    "long cancel": frames.frame(frames.CANCEL, bytes(5)),
    "empty hello": frames.frame(frames.HELLO),
    "long hello": struct.pack(">BBHI", 1, 0, 0, 4097),
    "accept with a body": frames.frame(frames.ACCEPT, b"x"),
    "empty name": frames.frame(frames.ENDPOINT),
    "long name": frames.frame(frames.ENDPOINT, bytes(256)),
    "short goodbye": frames.frame(frames.GOODBYE, b"abc"),
    "long goodbye": frames.frame(frames.GOODBYE, bytes(2053)),
    "moved with a body": frames.frame(frames.MOVED, b"x"),
    "reconnect with a body": frames.frame(frames.RECONNECT, b"x"),
    "short stay": frames.frame(frames.STAY, b"abc"),
    "long stay": frames.frame(frames.STAY, bytes(2053)),
    "moved inside a message": frames.frame(
        frames.MESSAGE, struct.pack(">Q", 9) + b"abc", flags=1
    )
    + frames.frame(frames.MOVED),
    "short error": frames.frame(frames.ERROR, bytes(7)),
    "continuation of nothing": frames.frame(frames.CONTINUE, b"x"),
    "continuation of lane 4": frames.frame(frames.CONTINUE, b"x", number=4),
    "continuation of lane 6": frames.frame(frames.CONTINUE, b"x", number=6),
    "continuation of lane 7": frames.frame(frames.CONTINUE, b"x", number=7),
    "continuation of lane 65535": frames.frame(frames.CONTINUE, b"x", number=65535),
    "more without a total": frames.frame(frames.MESSAGE, b"1234567", flags=1),
    "first part as long as all": frames.frame(
        frames.MESSAGE, struct.pack(">Q", 3) + b"abc", flags=1
    ),
    "first part longer than all": frames.frame(
        frames.MESSAGE, struct.pack(">Q", 2) + b"abc", flags=1
    ),
    "empty first part": frames.frame(frames.MESSAGE, struct.pack(">Q", 9), flags=1),
    "a total of all ones": frames.frame(frames.MESSAGE, b"\xff" * 8 + b"abc", flags=1),
    "a total with the sign bit": frames.frame(
        frames.MESSAGE, b"\x80" + bytes(7) + b"abc", flags=1
    ),
    "a total above the limit": frames.frame(
        frames.MESSAGE, struct.pack(">Q", (64 << 20) + 1) + b"abc", flags=1
    ),
    "a message inside a message": frames.frame(
        frames.MESSAGE, struct.pack(">Q", 9) + b"abc", flags=1
    )
    + frames.frame(frames.MESSAGE, b""),
    "a call inside a message": frames.frame(
        frames.MESSAGE, struct.pack(">Q", 9) + b"abc", flags=1
    )
    + frames.call(0, 1, b""),
    "a part too long": frames.frame(
        frames.MESSAGE, struct.pack(">Q", 4) + b"abc", flags=1
    )
    + frames.frame(frames.CONTINUE, b"xy"),
    "an empty part": frames.frame(
        frames.MESSAGE, struct.pack(">Q", 4) + b"abc", flags=1
    )
    + frames.frame(frames.CONTINUE, b"", flags=1),
    "the end too early": frames.frame(
        frames.MESSAGE, struct.pack(">Q", 9) + b"abc", flags=1
    )
    + frames.frame(frames.CONTINUE, b"x"),
    "no end where it must be": frames.frame(
        frames.MESSAGE, struct.pack(">Q", 4) + b"abc", flags=1
    )
    + frames.frame(frames.CONTINUE, b"x", flags=1),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_guarantee_10_malformed_frames(what: str) -> None:
    data = HOSTILE[what]
    with pytest.raises(ProtocolError) as whole:
        decode(data)
    with pytest.raises(ProtocolError) as by_byte:
        decode(data, list(range(len(data))))
    assert str(whole.value) == str(by_byte.value)
    assert whole.value.hint


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=6))
def test_guarantee_10_any_bytes_are_frames_or_a_protocol_error(
    data: bytes, cuts: list[int]
) -> None:
    def outcome(cuts: list[int]) -> object:
        try:
            return decode(data, [min(cut, len(data)) for cut in cuts])
        except ProtocolError as error:
            return str(error)

    whole, cut = outcome([]), outcome(cuts)
    # Frames before the fault are lost to `feed`, so only the verdicts compare.
    assert whole == cut


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 15),
    st.integers(0, 3),
    st.integers(0, 0xFFFF),
    st.integers(0, 0xFFFFFFFF),
    st.binary(max_size=64),
)
def test_guarantee_9_lengths_are_judged_before_memory_is_taken(
    kind: int, flags: int, number: int, length: int, rest: bytes
) -> None:
    pool = BufferPool()
    decoder = Decoder(pool, max_message=1 << 16)
    header = struct.pack(">BBHI", kind, flags, number, length)
    try:
        decoder.feed(header + rest)
    except ProtocolError:
        pass
    finally:
        decoder.close()
    assert pool.held <= 1 << 16
    assert pool.outstanding == 0


def test_a_limit_counts_whole_messages() -> None:
    data = frames.message(0, bytes(100_000))
    assert len(decode(data, max_message=100_000)) == 1
    with pytest.raises(ProtocolError, match="99999"):
        decode(data, max_message=99_999)


def test_before_a_link_is_up_no_payload_is_taken() -> None:
    with pytest.raises(ProtocolError, match="before the link is up"):
        decode(frames.message(0, b"x"), max_message=0)


def test_a_large_message_ends_up_in_an_object_of_its_own() -> None:
    payload = os.urandom(300_000)
    (frame,) = decode(frames.message(0, payload), list(range(0, 300_000, 1000)))
    assert type(frame[3]) is bytes
    assert frame[3] == payload


def test_a_large_message_is_received_into_its_final_object(pool: BufferPool) -> None:
    size = 16 << 20
    data = frames.message(0, bytes(size))
    decoder = Decoder(pool)
    found: list[Frame] = []
    pieces = [memoryview(data)[at : at + 65536] for at in range(0, len(data), 65536)]
    tracemalloc.start()
    try:
        for piece in pieces:
            found += decoder.feed(piece)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        decoder.close()
    assert [len(frame[3] or b"") for frame in found] == [size]
    # The object itself and little more: no second copy, not even for a moment.
    assert size <= peak < size + 262_144
    assert pool.held <= 65536


def test_a_large_payload_is_queued_uncopied(pool: BufferPool, encoder: Encoder) -> None:
    payload = bytes(8 << 20)
    before = sys.getrefcount(payload)
    tracemalloc.start()
    try:
        encoder.add_message("e", payload)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # It is held where it is; its headers are in a slab.
    assert peak < 262_144
    assert pool.held <= 65536
    assert sys.getrefcount(payload) > before
    assert encoder.bulk.size > len(payload)
    encoder.clear()
    assert sys.getrefcount(payload) == before
    # A small one is copied, and its object let go.
    small = bytes(1000)
    before = sys.getrefcount(small)
    encoder.add_message("e", small)
    assert sys.getrefcount(small) == before
