"""HELLO, sans-IO."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastnode import ProtocolError
from fastnode.limits import MAX_WORKERS
from fastnode.link.instances import introduce, is_additional, workers_of
from fastnode.names import NodeName
from fastnode.wire.hello import Hello
from helpers import frames


def make(**changes: object) -> Hello:
    values: dict[str, object] = {
        "name": NodeName.parse("orders@10.0.0.1"),
        "instance": bytes(range(16)),
        "max_message": 1 << 26,
        "max_frame": 65536,
        "window": 1 << 20,
        "endpoints": 1024,
        "keepalive_ms": 15000,
    }
    return Hello(**{**values, **changes})  # type: ignore[arg-type]


def test_encoded_as_the_document_says() -> None:
    body = frames.hello("orders@10.0.0.1", instance=bytes(range(16)))[8:]
    assert make().encode() == body
    assert Hello.decode(body) == make()


@given(
    st.fixed_dictionaries(
        {
            "instance": st.binary(min_size=16, max_size=16),
            "max_message": st.integers(1, 2**64 - 1),
            "max_frame": st.integers(16384, 65536),
            "window": st.integers(65536, 2**32 - 1),
            "endpoints": st.integers(1, 65536),
            "keepalive_ms": st.integers(0, 2**32 - 1),
            "ticket": st.none() | st.just(b"") | st.binary(min_size=16, max_size=16),
            "succeeds": st.none() | st.binary(min_size=16, max_size=16),
            "group_workers": st.none() | st.integers(1, 2**32 - 1),
            "wants_another": st.none() | st.just(b""),
        }
    )
)
def test_round_trip(values: dict[str, object]) -> None:
    hello = make(**values)
    assert Hello.decode(hello.encode()) == hello


def test_a_larger_frame_limit_is_cut_to_ours() -> None:
    assert Hello.decode(make(max_frame=1 << 30).encode()).max_frame == 65536


def test_unknown_features_are_ignored() -> None:
    unknown = frames.feature(999, b"abc") + frames.feature(99) + frames.feature(99)
    assert Hello.decode(make().encode() + unknown) == make()
    known = frames.feature(frames.HANDOVER)
    for features in (unknown + known, known + unknown):
        assert Hello.decode(make().encode() + features) == make(ticket=b"")


def test_known_features_are_encoded_as_the_document_says() -> None:
    ticket, other = bytes(range(16)), bytes(range(16, 32))
    features = frames.feature(1, ticket) + frames.feature(2, other)
    name, instance = "orders@10.0.0.1", bytes(range(16))
    body = frames.hello(name, instance=instance, features=features)[8:]
    hello = make(ticket=ticket, succeeds=other)
    assert hello.encode() == body
    assert Hello.decode(body) == hello
    # The order of features means nothing.
    swapped = frames.feature(2, other) + frames.feature(1, ticket)
    assert Hello.decode(make().encode() + swapped) == hello


def test_what_a_hello_says_of_several_instances() -> None:
    alone = introduce(make(), 1, additional=False)
    assert alone == make()
    assert workers_of(alone) == 1
    assert not is_additional(alone)
    told = Hello.decode(introduce(make(), 8, additional=True).encode())
    features = frames.feature(4, b"\0\0\0\x08") + frames.feature(5)
    assert told.encode() == make().encode() + features
    assert workers_of(told) == 8
    assert is_additional(told)
    # Nobody makes us dial without an end.
    assert workers_of(make(group_workers=2**32 - 1)) == MAX_WORKERS


@given(st.integers(0, 100))
def test_guarantee_10_a_hello_that_is_cut(size: int) -> None:
    body = make(ticket=bytes(16), succeeds=bytes(16)).encode()
    whole = {len(make().encode()), len(make(ticket=bytes(16)).encode()), len(body)}
    cut = body[: min(size, len(body))]
    if len(cut) in whole:
        Hello.decode(cut)
    else:
        with pytest.raises(ProtocolError):
            Hello.decode(cut)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        make().encode()[:-1],
        make().encode()[:20],
        b"FASTNODE" + make().encode()[8:],
        frames.hello("no name")[8:],
        frames.hello("a@")[8:],
        frames.hello("")[8:],
        frames.hello("a@\udc80".encode("utf-8", "surrogatepass").decode("latin-1"))[8:],
        frames.hello("a@b", versions=(2, 1))[8:],
        frames.hello("a@b", versions=(0, 1))[8:],
        frames.hello("a@b", max_frame=100)[8:],
        frames.hello("a@b", window=100)[8:],
        frames.hello("a@b", endpoints=0)[8:],
        frames.hello("a@b", max_message=0)[8:],
        frames.hello("a@b", features=b"abc")[8:],
        frames.hello("a@b", features=frames.feature(1) * 2)[8:],
        frames.hello("a@b", features=frames.feature(1, bytes(15)))[8:],
        frames.hello("a@b", features=frames.feature(1, bytes(17)))[8:],
        frames.hello("a@b", features=frames.feature(2))[8:],
        frames.hello("a@b", features=frames.feature(2, bytes(16)) * 2)[8:],
        frames.hello("a@b", features=frames.feature(4, bytes(4)))[8:],
        frames.hello("a@b", features=frames.feature(4, b"\1"))[8:],
        frames.hello("a@b", features=frames.feature(5, b"\1"))[8:],
        frames.hello("a@b", features=struct.pack(">HH", 1, 5) + b"abc")[8:],
    ],
)
def test_guarantee_10_malformed(body: bytes) -> None:
    with pytest.raises(ProtocolError, match="HELLO") as caught:
        Hello.decode(body)
    assert caught.value.hint


@given(st.binary(max_size=300))
def test_guarantee_10_any_bytes(body: bytes) -> None:
    for data in (body, b"fastnode" + body, make().encode()[:40] + body):
        with contextlib.suppress(ProtocolError):
            Hello.decode(data)


@pytest.mark.parametrize(
    ("ours", "theirs", "agreed"),
    [((1, 1), (1, 1), 1), ((1, 3), (2, 5), 3), ((1, 1), (2, 2), None),
     ((3, 4), (1, 2), None), ((1, 9), (4, 4), 4)],
)  # fmt: skip
def test_versions(
    ours: tuple[int, int], theirs: tuple[int, int], agreed: int | None
) -> None:
    one = make(oldest=ours[0], newest=ours[1])
    other = make(oldest=theirs[0], newest=theirs[1])
    assert one.version_with(other) == other.version_with(one) == agreed
