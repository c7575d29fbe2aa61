"""Which lane goes next, and what stays in order."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastnode.buffers.pool import BufferPool
from fastnode.wire.decoder import Decoder, Frame
from fastnode.wire.encoder import Encoder
from helpers import frames

LARGE = 150_000
WINDOW = 1 << 20

sends = st.tuples(
    st.just("send"),
    st.sampled_from(["a", "b", "c"]),
    st.sampled_from([frames.DATA, frames.HIGH]),
    st.sampled_from([5, 5, 5000, 40_000, LARGE]),
)
steps = st.one_of(
    sends,
    sends,
    st.tuples(st.just("take"), st.integers(1, 6)),
    st.tuples(
        st.just("grant"),
        st.sampled_from(frames.CREDITED),
        st.sampled_from([0, 1, 70_000, WINDOW]),
    ),
    st.tuples(st.just("reply"), st.sampled_from([5, 40_000, LARGE])),
    st.just(("control",)),
)


class Receiver:
    """Resolves endpoint numbers as a peer does."""

    def __init__(self) -> None:
        self.decoder = Decoder(BufferPool())
        self.books: dict[int, dict[int, bytes]] = defaultdict(dict)
        self.got: list[tuple[str, bool, bytes]] = []
        self.lanes: list[int] = []
        self.replies: list[tuple[int, bytes]] = []

    def feed(self, data: bytes) -> None:
        for lane, (kind, number, call, payload) in self.decoder.feed(data, lanes=True):
            assert payload is not None
            if kind == frames.ENDPOINT:
                self.books[lane][number] = payload
            elif kind == frames.MESSAGE:
                name = self.books[lane][number].decode()
                self.got.append((name, lane == frames.HIGH, payload))
                self.lanes.append(lane)
            elif kind == frames.REPLY:
                self.replies.append((call, payload))


@settings(max_examples=200, deadline=None)
@given(st.lists(steps, max_size=40))
def test_guarantee_8_order_per_endpoint_and_priority(
    plan: list[tuple[str, ...]],
) -> None:
    encoder = Encoder(BufferPool())
    receiver = Receiver()
    sent: list[tuple[str, bool, bytes]] = []
    replied: list[tuple[int, bytes]] = []
    for lane in range(7):
        encoder.grant(lane, WINDOW)
    for number, (what, *values) in enumerate(plan):
        if what == "send":
            name, priority, size = values
            payload = number.to_bytes(4) + bytes(int(size))
            encoder.add_message(name, payload, int(priority))
            sent.append((name, priority == frames.HIGH, payload))  # type: ignore[comparison-overlap]
        elif what == "take":
            receiver.feed(encoder.take(int(values[0])))
        elif what == "grant":
            encoder.grant(int(values[0]), int(values[1]))
        elif what == "reply":
            replied.append((number, number.to_bytes(4) + bytes(int(values[0]))))
            encoder.add_reply(*replied[-1])
        else:
            encoder.add_frame(frames.PING, 0, bytes(8))
    receiver.feed(encoder.take())
    assert encoder.queued == 0
    assert len(receiver.got) == len(sent)
    for name in "abc":
        for high in (False, True):
            wanted = [p for n, h, p in sent if (n, h) == (name, high)]
            assert [p for n, h, p in receiver.got if (n, h) == (name, high)] == wanted
    assert sorted(receiver.replies) == replied
    receiver.decoder.close()
    encoder.clear()


@pytest.fixture
def encoder() -> Encoder:
    made = Encoder(BufferPool())
    for lane in range(7):
        made.grant(lane, WINDOW)
    return made


def kinds(data: bytes) -> list[tuple[int, int]]:
    """Kind and lane of each frame."""
    found = []
    while data:
        kind, flags, number = data[0], data[1], int.from_bytes(data[2:4])
        lane = number if kind == frames.CONTINUE else flags >> 1 & 7
        if kind == frames.REPLY:
            lane = frames.BULK_REPLIES if flags & frames.MORE else frames.REPLIES
        if kind != frames.ENDPOINT:
            found.append((kind, lane))
        data = data[8 + int.from_bytes(data[4:8]) :]
    return found


def test_small_messages_pass_between_the_frames_of_a_large_one(
    encoder: Encoder,
) -> None:
    encoder.add_message("bulk", bytes(10 * 65536))
    first = encoder.take(2)
    encoder.add_message("small", b"")
    encoder.add_message("urgent", b"", frames.HIGH)
    encoder.add_frame(frames.PONG, 0, bytes(8))
    assert kinds(first) == [(frames.MESSAGE, 3), (frames.CONTINUE, 3)]
    assert kinds(encoder.take(4)) == [
        (frames.PONG, 0),
        (frames.MESSAGE, frames.HIGH),
        (frames.MESSAGE, frames.DATA),
        (frames.CONTINUE, frames.BULK),
    ]
    encoder.clear()


def test_data_and_bulk_take_turns(encoder: Encoder) -> None:
    encoder.add_message("bulk", bytes(4 * 65536))
    for _ in range(3):
        encoder.add_message("data", bytes(60_000))
    lanes = [lane for _, lane in kinds(encoder.take(6))]
    assert lanes == [0, 3, 0, 3, 0, 3]
    encoder.clear()


def test_all_that_is_small_passes_between_the_frames_of_a_large_reply(
    encoder: Encoder,
) -> None:
    encoder.add_reply(1, bytes(10 * 65536))
    assert kinds(encoder.take(2)) == [
        (frames.REPLY, frames.BULK_REPLIES),
        (frames.CONTINUE, frames.BULK_REPLIES),
    ]
    encoder.add_reply(2, b"small")
    encoder.add_frame(frames.ERROR, 0, bytes(8))
    encoder.add_reply(3, bytes(60_000))
    encoder.add_reply(4, bytes(70_000))
    encoder.add_message("urgent", b"", frames.HIGH)
    encoder.add_message("small", b"")
    encoder.add_frame(frames.CREDIT, 0, bytes(4))
    encoder.add_frame(frames.PONG, 0, bytes(8))
    found = kinds(encoder.take(5))
    # What keeps the link going first, then replies in their order.
    assert [kind for kind, _ in found] == [
        frames.CREDIT,
        frames.PONG,
        frames.REPLY,
        frames.ERROR,
        frames.REPLY,
        frames.MESSAGE,
        frames.MESSAGE,
        frames.CONTINUE,
    ]
    assert [lane for _, lane in found[5:]] == [
        frames.HIGH,
        frames.DATA,
        frames.BULK_REPLIES,
    ]
    encoder.clear()


def test_data_bulk_and_large_replies_take_turns(encoder: Encoder) -> None:
    encoder.add_reply(1, bytes(4 * 65536))
    encoder.add_message("bulk", bytes(4 * 65536))
    for _ in range(3):
        encoder.add_message("data", bytes(60_000))
    lanes = [lane for _, lane in kinds(encoder.take(9))]
    data, bulk, reply = frames.DATA, frames.BULK, frames.BULK_REPLIES
    assert sorted(lanes[:3]) == [data, bulk, reply]
    assert lanes == lanes[:3] * 3
    # Who has nothing to send, or no credit, gives up its turn.
    encoder.grant(bulk, 0)
    assert {lane for _, lane in kinds(encoder.take(9))} == {reply}
    encoder.grant(bulk, WINDOW)
    encoder.grant(reply, 0)
    assert {lane for _, lane in kinds(encoder.take(9))} == {bulk}
    encoder.clear()


def test_replies_do_not_wait_for_the_credit_of_messages(encoder: Encoder) -> None:
    for lane in (frames.DATA, frames.HIGH, frames.BULK, frames.INNER):
        encoder.grant(lane, 0)
    encoder.add_message("a", bytes(LARGE))
    encoder.add_reply(1, bytes(LARGE))
    encoder.add_reply(2, bytes(10))
    found = kinds(encoder.take(9))
    assert found == [
        (frames.REPLY, frames.REPLIES),
        (frames.REPLY, frames.BULK_REPLIES),
        *[(frames.CONTINUE, frames.BULK_REPLIES)] * 2,
    ]
    # A large one waits for its own, and holds up nothing.
    encoder.grant(frames.BULK_REPLIES, 0)
    encoder.add_reply(3, bytes(LARGE))
    encoder.add_reply(4, bytes(10))
    assert kinds(encoder.take(9)) == [(frames.REPLY, frames.REPLIES)]
    encoder.clear()


def test_no_lane_without_credit_sends_and_none_holds_up_another(
    encoder: Encoder,
) -> None:
    for lane in (frames.DATA, frames.BULK):
        encoder.grant(lane, 0)
    encoder.add_message("a", b"")
    encoder.add_message("b", bytes(LARGE))
    assert encoder.take(1) == b""
    encoder.add_message("c", b"", frames.HIGH)
    assert kinds(encoder.take(9)) == [(frames.MESSAGE, frames.HIGH)]
    encoder.grant(frames.BULK, WINDOW)
    # What was queued in data before a large message goes before it.
    assert encoder.take(1) == b""
    encoder.grant(frames.DATA, 1)
    assert kinds(encoder.take(2)) == [(frames.MESSAGE, 0), (frames.MESSAGE, 3)]
    encoder.clear()


def test_what_follows_a_large_message_to_an_endpoint_stays_behind_it(
    encoder: Encoder,
) -> None:
    encoder.grant(frames.BULK, 0)
    encoder.add_message("a", bytes(LARGE))
    encoder.add_message("a", b"behind")
    encoder.add_message("b", b"passes")
    assert kinds(encoder.take(9)) == [(frames.MESSAGE, frames.DATA)]
    encoder.grant(frames.BULK, WINDOW)
    found: list[Frame] = []
    decoder = Decoder(BufferPool())
    found = decoder.feed(encoder.take())
    decoder.close()
    assert [f[3] for f in found if f[0] == frames.MESSAGE] == [bytes(LARGE), b"behind"]
    # Bulk is empty: the next goes its usual way.
    encoder.add_message("a", b"")
    assert kinds(encoder.take()) == [(frames.MESSAGE, frames.DATA)]
    encoder.clear()


def test_each_lane_has_its_own_dictionary_and_assembly() -> None:
    receiver = Receiver()
    parts = []
    for lane in (frames.DATA, frames.HIGH, frames.BULK, frames.INNER):
        receiver.feed(frames.endpoint(0, b"name %d" % lane, lane))
        data = frames.message(0, bytes([lane]) * 70_000, lane)
        parts.append((data[:65536], data[65536:]))
    for first, _ in parts:
        receiver.feed(first)
    assert receiver.decoder.unfinished
    for _, second in parts:
        receiver.feed(second)
    assert receiver.got == [
        (f"name {lane}", lane == frames.HIGH, bytes([lane]) * 70_000)
        for lane in (0, 2, 3, 4)
    ]
    assert receiver.lanes == [0, 2, 3, 4]
    assert not receiver.decoder.unfinished
    receiver.decoder.close()


def test_what_is_given_up_leaves_no_barrier(encoder: Encoder) -> None:
    encoder.add_message("a", b"")
    encoder.add_message("b", bytes(LARGE))
    encoder.clear()
    encoder.add_frame(frames.GOODBYE, 0, frames.reason(16))
    assert kinds(encoder.take(2)) == [(frames.GOODBYE, 0)]
    encoder.clear()


@pytest.mark.parametrize("size", [40_000, LARGE])
def test_a_call_of_a_handler_takes_its_own_lane_only_if_all_of_it_can_leave(
    size: int,
) -> None:
    """Half of it would wait for credit, which may depend on its reply."""
    encoder = Encoder(BufferPool())
    for lane in range(7):
        encoder.grant(lane, WINDOW if lane == frames.INNER else size * 3 // 2)
    decoder = Decoder(BufferPool())
    lanes = []
    for number in (1, 2, 3):
        encoder.add_call("e", number, bytes(size), nested=True)
        while data := encoder.take(runs=1):
            lanes += [
                lane
                for lane, (kind, *_) in decoder.feed(data, lanes=True)
                if kind == frames.CALL
            ]
    assert lanes == [
        frames.BULK if size == LARGE else frames.DATA,
        frames.INNER,
        frames.INNER,
    ]
    assert not encoder.queued
    encoder.clear()
    decoder.close()
