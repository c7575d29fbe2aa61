"""The decoder as a state machine, against the wire format in plain Python."""

from __future__ import annotations

import struct

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
)

from fastnode import ProtocolError
from fastnode.buffers.pool import BufferPool, live_slabs
from fastnode.wire.decoder import Decoder, Frame
from helpers import frames

MAX_MESSAGE = 300_000
numbers = st.integers(0, 3)
#: Around the sizes at which the decoder changes its ways.
sizes = st.one_of(
    st.integers(0, 40),
    st.sampled_from([4095, 4096, 4097, 16_384, 65_516, 65_528, 65_529, 140_000]),
)


class DecoderMachine(RuleBasedStateMachine):
    """Frames are queued in three lanes, cut into parts, and fed in pieces."""

    def __init__(self) -> None:
        super().__init__()
        self.slabs = live_slabs()
        self.pool = BufferPool()
        self.connect()

    def connect(self) -> None:
        """A decoder that nothing was fed to, and what is expected of it."""
        self.decoder = Decoder(self.pool, max_message=MAX_MESSAGE)
        self.wire = bytearray()  # sent, and not fed yet
        self.expected: list[tuple[int, Frame]] = []  # where it ends on the wire
        self.sent = self.fed = 0
        self.found: list[Frame] = []
        # What is missing of a message of several frames, by lane.
        self.open: dict[int, tuple[Frame, bytes]] = {}

    def send(self, data: bytes, frame: Frame | None = None) -> None:
        self.wire += data
        self.sent += len(data)
        if frame is not None:
            self.expected.append((self.sent, frame))

    @precondition(lambda self: 0 not in self.open)
    @rule(number=numbers, size=sizes, call=st.booleans())
    def whole(self, number: int, size: int, call: bool) -> None:
        payload = bytes([size % 251]) * size
        if call:
            data = frames.call(number, 7, payload)
            self.send(data, (frames.CALL, number, 7, payload))
        else:
            data = frames.message(number, payload)
            self.send(data, (frames.MESSAGE, number, 0, payload))

    @rule(
        lane=st.sampled_from([frames.DATA, frames.BULK, frames.BULK_REPLIES]),
        first=st.integers(1, 9000),
        rest=st.integers(1, 20_000),
    )
    def begin(self, lane: int, first: int, rest: int) -> None:
        if lane in self.open:
            return
        payload = bytes([first % 256]) * first + bytes([rest % 256]) * rest
        head = struct.pack(">Q", len(payload))
        kind, call, number, flags = frames.MESSAGE, 0, 2, frames.MORE | lane << 1
        if lane == frames.BULK_REPLIES:
            kind, call, number, flags = frames.REPLY, 9, 0, frames.MORE
            head = struct.pack(">I", call) + head
        body = head + payload[:first]
        self.send(frames.frame(kind, body, flags=flags, number=number))
        self.open[lane] = ((kind, number, call, payload), payload[first:])

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def go_on(self, data: st.DataObject) -> None:
        lane = data.draw(st.sampled_from(sorted(self.open)))
        frame, rest = self.open.pop(lane)
        size = data.draw(st.integers(1, len(rest)))
        part, rest = rest[:size], rest[size:]
        flags = frames.MORE if rest else 0
        self.send(
            frames.frame(frames.CONTINUE, part, flags=flags, number=lane),
            None if rest else frame,
        )
        if rest:
            self.open[lane] = (frame, rest)

    @rule(size=sizes.filter(lambda size: size <= 65_524))
    def reply(self, size: int) -> None:
        payload = bytes(size)
        self.send(frames.reply(8, payload), (frames.REPLY, 0, 8, payload))

    @rule(body=st.binary(min_size=8, max_size=8), kind=st.sampled_from([11, 12]))
    def small(self, body: bytes, kind: int) -> None:
        self.send(frames.frame(kind, body), (kind, 0, 0, body))

    @precondition(lambda self: self.wire)
    @rule(data=st.data())
    def feed(self, data: st.DataObject) -> None:
        size = data.draw(st.integers(1, len(self.wire)))
        self.found += self.decoder.feed(bytes(self.wire[:size]))
        del self.wire[:size]
        self.fed += size

    @rule(
        data=st.sampled_from(
            [
                frames.frame(0),
                frames.frame(17),
                frames.frame(frames.PING),
                frames.frame(frames.PING, bytes(8), flags=1),
                frames.frame(frames.MESSAGE, flags=2),
                struct.pack(">BBHI", frames.CALL, 0, 0, (1 << 32) - 1),
                frames.frame(frames.CONTINUE, b"", number=1),
                frames.frame(frames.CONTINUE, b"x", number=2),
                frames.frame(frames.CONTINUE, b"x", number=frames.REPLIES),
                frames.frame(frames.REPLY, bytes(4), flags=frames.REPLIES << 1),
                frames.frame(frames.REPLY, bytes(11) + b"\2x", flags=1) * 2,
            ]
        )
    )
    def malformed(self, data: bytes) -> None:
        self.found += self.decoder.feed(bytes(self.wire))
        self.fed += len(self.wire)
        self.wire.clear()
        self.finds_what_was_fed_and_no_more()
        with pytest.raises(ProtocolError):
            self.decoder.feed(data)
        self.decoder.close()
        assert self.pool.outstanding == 0
        self.connect()

    @invariant()
    def finds_what_was_fed_and_no_more(self) -> None:
        assert self.found == [f for end, f in self.expected if end <= self.fed]

    @invariant()
    def is_unfinished_exactly_while_it_is(self) -> None:
        if not self.wire:
            assert self.decoder.unfinished == bool(self.open)

    @invariant()
    def holds_one_slab_at_most(self) -> None:
        assert self.pool.outstanding <= 1

    def teardown(self) -> None:
        self.decoder.close()
        assert not self.decoder.unfinished
        assert self.pool.outstanding == 0
        assert live_slabs() == self.slabs


DecoderMachine.TestCase.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, derandomize=True
)
TestDecoderMachine = DecoderMachine.TestCase
