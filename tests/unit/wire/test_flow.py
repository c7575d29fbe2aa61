"""Flow control, as docs/wire-format.md says it, between the encoder and a model."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from fastnode.buffers.pool import BufferPool
from fastnode.wire.decoder import Decoder
from fastnode.wire.encoder import Encoder
from helpers import frames

WINDOW = 128 << 10
OVERRUN = 128 << 10
CREDITED = frames.CREDITED


class FlowControl(RuleBasedStateMachine):
    """A sender, and a receiver that grants what it has received when it likes."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder(BufferPool())
        self.decoder = Decoder(BufferPool())
        self.owed = dict.fromkeys(CREDITED, 0)
        self.window = dict.fromkeys(CREDITED, WINDOW)
        self.sent = 0
        self.got = 0
        for lane in range(7):
            self.encoder.grant(lane, WINDOW)

    @rule(
        size=st.sampled_from([0, 100, 10_000, 65_000, 66_000, 400_000]),
        high=st.booleans(),
        name=st.sampled_from("abc"),
    )
    def send(self, size: int, name: str, *, high: bool) -> None:
        lane = frames.HIGH if high else frames.DATA
        self.encoder.add_message(name, bytes(size), lane)
        self.sent += 1

    @rule(size=st.sampled_from([0, 60_000, 66_000, 400_000]))
    def reply(self, size: int) -> None:
        self.encoder.add_reply(1, bytes(size))
        self.sent += 1

    @rule(runs=st.integers(1, 30))
    def take(self, runs: int) -> None:
        data = self.encoder.take(runs)
        at = 0
        while at < len(data):
            kind, flags, number = (
                data[at],
                data[at + 1],
                int.from_bytes(data[at + 2 : at + 4]),
            )
            size = 8 + int.from_bytes(data[at + 4 : at + 8])
            lane = number if kind == frames.CONTINUE else flags >> 1
            if kind == frames.REPLY:
                lane = frames.BULK_REPLIES if flags & frames.MORE else frames.REPLIES
            if lane in CREDITED:
                self.owed[lane] += size
            at += size
        kinds = [f[0] for f in self.decoder.feed(data)]
        self.got += kinds.count(frames.MESSAGE) + kinds.count(frames.REPLY)

    @rule(lane=st.sampled_from(CREDITED), grows=st.booleans())
    def grant(self, lane: int, *, grows: bool) -> None:
        extra = self.window[lane] if grows and self.window[lane] < 4 * WINDOW else 0
        self.window[lane] += extra
        credit = self.encoder.lanes[lane].credit + self.owed[lane] + extra
        self.encoder.grant(lane, credit)
        self.owed[lane] = 0

    @invariant()
    def both_sides_agree(self) -> None:
        for lane in CREDITED:
            credit = self.encoder.lanes[lane].credit
            # Nothing is lost on the way: what is not owed may be sent.
            assert credit + self.owed[lane] == self.window[lane]
            assert credit > -OVERRUN
            assert self.owed[lane] < self.window[lane] + OVERRUN

    def teardown(self) -> None:
        # With grants everything arrives: nothing waits for another lane's credit only.
        for _ in range(1000):
            self.take(50)
            for lane in CREDITED:
                self.grant(lane, grows=False)
            if not self.encoder.queued:
                break
        assert self.encoder.queued == 0
        assert self.got == self.sent
        self.encoder.clear()
        self.decoder.close()


TestFlowControl: Any = FlowControl.TestCase
TestFlowControl.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None
)
