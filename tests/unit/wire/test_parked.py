"""What is held back for endpoints that the peer has paused."""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastnode.buffers.pool import BufferPool
from fastnode.errors import ProtocolError
from fastnode.limits import ENDPOINT_DICTIONARY_SIZE
from fastnode.wire.encoder import Encoder
from fastnode.wire.parking import Parking
from helpers import frames

LARGE = 150_000
WINDOW = 1 << 24
NAMES = ["a", "b", "c"]
#: An extension block with nothing but the time that is left.
DEADLINE = b"\x01\x00\x08" + bytes(8)

names = st.sampled_from(NAMES)
steps = st.one_of(
    *[
        st.tuples(
            st.sampled_from(["message", "call", "deadline"]),
            names,
            st.sampled_from([frames.DATA, frames.DATA, frames.HIGH]),
            st.sampled_from([0, 5, 5000, 15_000, 40_000, LARGE]),
        )
    ]
    * 3,
    st.tuples(st.just("nested"), names, st.sampled_from([5, LARGE])),
    st.tuples(st.just("pause"), names),
    st.tuples(st.just("pause"), names),
    st.tuples(st.just("resume"), names),
    st.tuples(st.just("take"), st.integers(1, 6)),
    st.tuples(st.just("drop"), st.integers(0, 40)),
    st.tuples(
        st.just("grant"),
        st.sampled_from(frames.CREDITED),
        st.sampled_from([0, 1, 70_000, WINDOW]),
    ),
)


@dataclass
class Got:
    """A message that a peer has received as a whole."""

    name: str
    high: bool
    nested: bool
    call: int
    payload: bytes
    time_left: int | None


class Receiver:
    """Reads frames as docs/wire-format.md describes them."""

    def __init__(self) -> None:
        self.books: dict[int, dict[int, str]] = defaultdict(dict)
        self.begun: dict[int, tuple[Got, int]] = {}
        self.parts: dict[int, list[bytes]] = defaultdict(list)
        self.got: list[Got] = []
        self.names_begun: list[str] = []

    def feed(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            kind, flags, number, size = struct.unpack_from(">BBHI", data, at)
            self.frame(kind, flags, number, data[at + 8 : at + 8 + size])
            at += 8 + size

    def frame(self, kind: int, flags: int, number: int, body: bytes) -> None:
        lane = number if kind == frames.CONTINUE else flags >> 1 & 7
        if kind == frames.ENDPOINT:
            self.books[lane][number] = body.decode()
            return
        if kind == frames.CONTINUE:
            got, total = self.begun.pop(lane)
        else:
            call, left = 0, None
            if kind != frames.MESSAGE:
                (call,), body = struct.unpack(">I", body[:4]), body[4:]
            total = 0
            if flags & frames.MORE:
                (total,), body = struct.unpack(">Q", body[:8]), body[8:]
            if flags & frames.EXTENDED:
                assert body[:5] == struct.pack(">H", 11) + DEADLINE[:3]
                (left,), body = struct.unpack(">Q", body[5:13]), body[13:]
            name = self.books[lane][number]
            self.names_begun.append(name)
            nested = bool(flags & frames.NESTED)
            assert lane not in self.begun
            got = Got(name, lane == frames.HIGH, nested, call, b"", left)
            total = total or len(body)
        self.parts[lane].append(body)
        if flags & frames.MORE:
            self.begun[lane] = got, total
        else:
            got.payload = b"".join(self.parts.pop(lane))
            assert len(got.payload) == total
            self.got.append(got)


class Sender:
    """An encoder and its parking as one."""

    def __init__(self) -> None:
        self._encoder = Encoder(BufferPool())
        self._parking = Parking(self._encoder)
        self.limit = self._encoder.limit
        self.grant = self._encoder.grant
        self.clear = self._encoder.clear
        self.add_message = self._encoder.add_message
        self.add_call = self._encoder.add_call
        self.add_extended = self._encoder.add_extended
        self.pause_endpoint = self._parking.pause_endpoint
        self.resume_endpoint = self._parking.resume_endpoint
        self.drop_call = self._parking.drop_call

    @property
    def queued(self) -> int:
        return self._encoder.queued

    @property
    def held_back(self) -> int:
        return self._parking.held_back

    def take(self, runs: int | None = None, now: float = 0) -> bytes:
        """As `Encoder.take`, for a link that looks after its parking."""
        taken = bytearray()
        while runs is None or runs > 0:
            self._parking.prepare()
            part = self._encoder.take(None if runs is None else 1, now)
            if not part:
                break
            taken += part
            runs = None if runs is None else runs - 1
        return bytes(taken)


class Script:
    """Does to an encoder what a plan says, and remembers what has to arrive."""

    def __init__(self, endpoints: int) -> None:
        self.encoder = Sender()
        self.encoder.limit(65536, endpoints)
        self.receiver = Receiver()
        self.sent: list[Got] = []
        self.paused: set[str] = set()
        self.time = 100.0
        for lane in frames.CREDITED:
            self.encoder.grant(lane, WINDOW)

    def send(self, number: int, what: str, name: str, lane: int, size: int) -> None:
        payload = number.to_bytes(4) + bytes(size)
        call = 0 if what == "message" else number + 1
        left = None
        if what == "message":
            self.encoder.add_message(name, payload, lane)
        elif what == "deadline":
            self.encoder.add_extended(
                frames.CALL,
                name,
                call,
                payload,
                DEADLINE,
                lane,
                deadline=self.time + number + 1,
            )
            left = (number + 1) * 1_000_000
        else:
            self.encoder.add_call(name, call, payload, lane, nested=what == "nested")
        self.sent.append(
            Got(name, lane == frames.HIGH, what == "nested", call, payload, left)
        )

    def drop(self, call: int) -> None:
        before = self.encoder.held_back
        if self.encoder.drop_call(call):
            assert self.encoder.held_back < before
            (gone,) = [each for each in self.sent if each.call == call]
            self.sent.remove(gone)

    def step(self, number: int, what: str, *values: int | str) -> None:
        if what in ("message", "call", "deadline"):
            name, lane, size = values
            self.send(number, what, str(name), int(lane), int(size))
        elif what == "nested":
            self.send(number, what, str(values[0]), frames.DATA, int(values[1]))
        elif what == "pause":
            self.encoder.pause_endpoint(str(values[0]))
            if any(each.name == values[0] for each in self.sent):
                self.paused.add(str(values[0]))
        elif what == "resume":
            self.encoder.resume_endpoint(str(values[0]))
            self.paused.discard(str(values[0]))
        elif what == "take":
            self.take(int(values[0]))
        elif what == "drop":
            self.drop(int(values[0]))
        else:
            self.encoder.grant(int(values[0]), int(values[1]))

    def take(self, runs: int | None) -> None:
        self.receiver.feed(self.encoder.take(runs, self.time))

    def finish(self) -> None:
        for name in NAMES:
            self.encoder.resume_endpoint(name)
        for _ in range(100):
            self.take(None)
        assert self.encoder.queued == self.encoder.held_back == 0
        got = self.receiver.got
        for name in NAMES:
            for high in (False, True):
                assert [
                    each for each in got if each.name == name and each.high == high
                    and not each.nested
                ] == [
                    each for each in self.sent if each.name == name
                    and each.high == high and not each.nested
                ]  # fmt: skip
        assert sorted(each.call for each in got if each.nested) == sorted(
            each.call for each in self.sent if each.nested
        )
        self.encoder.clear()


@settings(max_examples=300, deadline=None)
@given(st.lists(steps, max_size=60), st.sampled_from([1, 2, 1024]))
def test_guarantee_8_order_holds_whatever_the_peer_pauses(
    plan: list[tuple[str, ...]], endpoints: int
) -> None:
    """Nothing is lost, doubled or overtaken. `endpoints`: with so few, names lose their
    numbers to other names again and again."""
    script = Script(endpoints)
    for number, step in enumerate(plan):
        script.step(number, *step)
    script.finish()


@settings(max_examples=100, deadline=None)
@given(st.lists(steps, max_size=40))
def test_nothing_begins_to_leave_for_a_paused_endpoint(
    plan: list[tuple[str, ...]],
) -> None:
    script = Script(1024)
    for number, step in enumerate(plan):
        begun = len(script.receiver.names_begun)
        script.step(number, *step)
        got = script.receiver
        nested = {each.call for each in script.sent if each.nested}
        if not nested and step[0] == "take":
            assert not script.paused & set(got.names_begun[begun:])
    script.finish()


@pytest.fixture
def encoder() -> Iterator[Sender]:
    made = Sender()
    for lane in frames.CREDITED:
        made.grant(lane, WINDOW)
    yield made
    made.clear()


def test_what_is_held_back_counts_as_queued(encoder: Sender) -> None:
    for _ in range(10):
        encoder.add_message("slow", bytes(1000))
    queued = encoder.queued
    encoder.pause_endpoint("slow")
    encoder.take(1)
    names = 8 + len("slow")
    assert encoder.held_back == queued - names
    encoder.add_message("slow", bytes(1000))
    # As it is parked now, it counts with what that costs.
    assert encoder.held_back == encoder.queued == 11 * 1008 + 128
    encoder.resume_endpoint("slow")
    assert len(encoder.take()) == 11 * 1008
    assert encoder.held_back == 0


def test_a_message_that_has_begun_to_leave_is_finished(encoder: Sender) -> None:
    encoder.add_message("slow", b"1" * LARGE)
    encoder.add_message("slow", b"2" * LARGE)
    receiver = Receiver()
    receiver.feed(encoder.take(1))
    encoder.pause_endpoint("slow")
    receiver.feed(encoder.take())
    assert [each.payload[:1] for each in receiver.got] == [b"1"]
    encoder.resume_endpoint("slow")
    receiver.feed(encoder.take())
    assert [each.payload[:1] for each in receiver.got] == [b"1", b"2"]


def test_calls_that_were_given_up_are_not_kept(encoder: Sender) -> None:
    """However long the endpoint is paused, and however many callers give up."""
    encoder.add_message("slow", b"first")
    encoder.pause_endpoint("slow")
    for number in range(1, 10_001):
        encoder.add_call("slow", number, bytes(10))
        assert encoder.drop_call(number)
    assert not encoder.drop_call(1)
    encoder.add_call("slow", 20_000, b"last")
    encoder.resume_endpoint("slow")
    receiver = Receiver()
    receiver.feed(encoder.take())
    assert [each.payload for each in receiver.got] == [b"first", b"last"]


def test_guarantee_9_a_peer_cannot_have_many_names_remembered(
    encoder: Sender,
) -> None:
    for number in range(5000):
        encoder.pause_endpoint(f"never heard of {number}")
        encoder.resume_endpoint(f"never heard of {number}")
    encoder.limit(65536, 65536)
    for number in range(ENDPOINT_DICTIONARY_SIZE + 1):
        encoder.add_message(f"{number}", b"")
    for number in range(ENDPOINT_DICTIONARY_SIZE):
        encoder.pause_endpoint(f"{number}")
        encoder.pause_endpoint(f"{number}")
    with pytest.raises(ProtocolError, match="paused more than"):
        encoder.pause_endpoint(f"{ENDPOINT_DICTIONARY_SIZE}")


def test_guarantee_9_pauses_again_and_again_do_not_walk_over_a_long_queue(
    encoder: Sender,
) -> None:
    """After some of them what is queued leaves, and only what follows is held back."""
    receiver = Receiver()
    encoder.add_message("slow", b"0")
    for _ in range(60):
        encoder.add_message("other", bytes(1 << 20))
    receiver.feed(encoder.take(1))
    encoder.pause_endpoint("slow")
    encoder.add_message("slow", b"1")
    receiver.feed(encoder.take(1))
    assert encoder.held_back == 9 + 128
    encoder.resume_endpoint("slow")
    # It is put back, and leaves some time behind the first of the large ones.
    encoder._parking.prepare()
    assert encoder.held_back == 0
    encoder.pause_endpoint("slow")
    encoder._parking.prepare()
    # It was not taken out again.
    assert encoder.held_back == 0
    encoder.add_message("slow", b"2")
    assert encoder.held_back == 9 + 128
    receiver.feed(encoder.take())
    encoder.resume_endpoint("slow")
    receiver.feed(encoder.take())
    slow = [each.payload for each in receiver.got if each.name == "slow"]
    assert slow == [b"0", b"1", b"2"]


def test_what_is_resumed_goes_back_a_part_at_a_time(encoder: Sender) -> None:
    encoder.add_message("slow", b"")
    encoder.pause_endpoint("slow")
    for _ in range(1000):
        encoder.add_message("slow", bytes(4000))
    encoder.resume_endpoint("slow")
    taken = encoder.take(1)
    held = encoder.held_back
    assert 0 < encoder.queued - held <= 300_000
    encoder.pause_endpoint("slow")
    assert encoder.take() == b""
    assert encoder.held_back == encoder.queued
    encoder.resume_endpoint("slow")
    receiver = Receiver()
    receiver.feed(taken)
    while encoder.queued:
        receiver.feed(encoder.take())
    assert len(receiver.got) == 1001
