"""The times of the keepalive, exactly: links in memory, in a time of their own."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from fastnode import LinkLost, NetworkOptions
from fastnode.errors import CloseReason
from fastnode.limits import BUSY_LINK_READS
from fastnode.link.machine import State
from helpers import frames
from helpers.memory import MemoryEnd, MemoryNode, TurnLoop, running_loop
from helpers.nodes import A, B

#: docs/reliability.md: a dead peer is found after three intervals.
MISSES = 3
#: What is left of a time that a loop rounds to milliseconds.
TICK = 0.005
PONG = frames.frame(frames.PONG, bytes(8))


@pytest.fixture
def loop() -> Iterator[TurnLoop]:
    with running_loop() as made:
        yield made


class Watched:
    """A link that is up, and what it does while time passes.

    Attributes:
        pings: when it sent one, in seconds from when it was up.
    """

    def __init__(
        self,
        loop: TurnLoop,
        own: float,
        theirs: float = 86_400.0,
        *,
        dialer: bool = False,
    ) -> None:
        self.loop = loop
        self.node = MemoryNode(loop, name=B, keepalive_interval=own)
        self.node.node.handler("e")(lambda message: message.payload)
        self.end: MemoryEnd = self.node.end(dialer=dialer)
        self.end.connect()
        self.end.feed(frames.hello(A, keepalive_ms=int(theirs * 1000)))
        if not dialer:
            self.end.feed(frames.frame(frames.ACCEPT))
        assert self.end.state is State.UP
        self.end.transport.take()
        self.began = loop.time()
        self.pings: list[float] = []
        self.said: list[tuple[int, bytes]] = []

    @property
    def alive(self) -> bool:
        return self.end.state is State.UP

    @property
    def now(self) -> float:
        return self.loop.time() - self.began

    def pass_to(self, when: float, step: float) -> None:
        """Let time pass to `when`, or to the end of the link, and look in steps."""
        while self.alive and self.now < when - 1e-9:
            self.loop.advance(min(step, when - self.now))
            self.look()

    def look(self) -> None:
        """Note what it has written."""
        data = self.end.transport.take()
        while data:
            kind, _, _, size = struct.unpack_from(">BBHI", data)
            self.said.append((kind, data[8 : 8 + size]))
            if kind == frames.PING:
                self.pings.append(self.now)
            data = data[8 + size :]

    def finish(self) -> None:
        self.node.finish()


@pytest.mark.parametrize("dialer", [True, False], ids=["dialer", "acceptor"])
@pytest.mark.parametrize("interval", [0.5, 10.0, 3600.0])
def test_a_dead_peer_is_found_after_three_intervals(
    loop: TurnLoop, interval: float, dialer: bool
) -> None:
    at = Watched(loop, interval, 7200.0, dialer=dialer)
    step = interval / 100
    at.pass_to(interval * MISSES - step, step)
    assert at.alive
    at.pass_to(interval * MISSES * 10, step)
    assert at.now == pytest.approx(interval * MISSES, abs=step + TICK)
    # It was asked after each interval but the last.
    expected = [interval * n for n in range(1, MISSES)]
    assert at.pings == pytest.approx(expected, abs=step + TICK)
    error = at.end.error
    assert type(error) is LinkLost
    assert f"nothing was heard for {interval * MISSES:g} s" in str(error)
    # The peer is told why, should it hear that.
    kind, body = at.said[-1]
    assert kind == frames.GOODBYE
    assert struct.unpack_from(">H", body) == (CloseReason.KEEPALIVE_TIMEOUT,)
    at.finish()


def test_the_default_is_fifteen_seconds(loop: TurnLoop) -> None:
    at = Watched(loop, NetworkOptions().keepalive_interval)
    at.pass_to(1000, 0.1)
    assert at.now == pytest.approx(45.0, abs=0.1 + TICK)
    at.finish()


@pytest.mark.parametrize("sign", ["message", "pong", "part of a frame"])
def test_a_peer_that_is_heard_is_neither_probed_nor_judged(
    loop: TurnLoop, sign: str
) -> None:
    at = Watched(loop, 10.0)
    at.end.feed(frames.frame(frames.ENDPOINT, b"e"))
    message = frames.message(0, bytes(5000))
    for number in range(100):
        at.pass_to(at.now + 9.9, 0.1)
        if sign == "part of a frame":
            data = message[number * 50 : number * 50 + 50]
        else:
            data = message if sign == "message" else PONG
        at.end.feed(data)
    assert at.alive
    assert at.pings == []
    # What is sent is no sign of life: only what is heard counts.
    heard = at.now
    link: Any = at.end.protocol.link
    while at.alive and at.now < 10_000:
        link.send("e", b"x")
        at.pass_to(at.now + 0.1, 0.1)
    assert at.now - heard == pytest.approx(30.0, abs=0.1 + TICK)
    at.finish()


def test_a_probe_that_is_answered_starts_the_time_over(loop: TurnLoop) -> None:
    at = Watched(loop, 10.0)
    for number in range(1, 20):
        # Its second probe: one was lost.
        while len(at.pings) < 2 * number:
            assert at.alive
            at.pass_to(at.now + 0.1, 0.1)
        at.end.feed(PONG)
    assert at.now == pytest.approx(19 * 20.0, abs=19 * (0.1 + TICK))
    answered = at.now
    at.pass_to(answered + 100, 0.1)
    assert at.now - answered == pytest.approx(30.0, abs=0.1 + TICK)
    at.finish()


def test_a_sign_of_life_at_the_last_moment_counts(loop: TurnLoop) -> None:
    at = Watched(loop, 10.0)
    for _ in range(20):
        at.pass_to(at.now + 29.9, 0.1)
        assert at.alive
        at.end.feed(PONG)
    at.finish()


@pytest.mark.parametrize(
    ("own", "theirs", "agreed"),
    [
        (10.0, 25.0, 10.0),
        (25.0, 10.0, 10.0),
        (10.0, 0.0, 10.0),  # a peer that does not say
        (10.0, 0.1, 0.1),
        (10.0, 0.001, 0.1),  # no peer has us probe more than ten times a second
        (0.05, 10.0, 0.05),  # our own choice
        (86_400.0, 4_294_967.0, 86_400.0),
    ],
)
@pytest.mark.parametrize("dialer", [True, False], ids=["dialer", "acceptor"])
def test_the_smaller_interval_counts_down_to_the_least(
    loop: TurnLoop, own: float, theirs: float, agreed: float, dialer: bool
) -> None:
    at = Watched(loop, own, theirs, dialer=dialer)
    at.pass_to(agreed * 10, agreed / 50)
    assert not at.alive
    error = agreed / 50 + TICK
    assert at.now == pytest.approx(agreed * MISSES, abs=error)
    assert at.pings == pytest.approx([agreed, 2 * agreed], abs=error)
    at.finish()


@pytest.mark.parametrize("when", [0.0, 9.0, 19.5, 29.5])
def test_a_loop_that_stood_still_judges_nobody(loop: TurnLoop, when: float) -> None:
    """Whatever the peer said meanwhile waits in the socket."""
    at = Watched(loop, 10.0)
    at.pass_to(when, 0.1)
    at.pings.clear()
    loop.stand_still(1000.0)
    woke = at.now
    loop.advance(0.0)
    at.look()
    assert at.alive
    assert len(at.pings) == 1
    # From then on it has the time that is left after the first interval.
    at.pass_to(woke + 100, 0.1)
    assert at.now - woke == pytest.approx(20.0, abs=0.1 + TICK)
    at.finish()


def test_a_link_in_doubt_has_the_time_that_it_is_given(loop: TurnLoop) -> None:
    at = Watched(loop, 1000.0)
    at.end.protocol.check(3.0)
    # Further doubts do not give it more.
    at.pass_to(2.0, 0.1)
    at.end.protocol.check(3.0)
    assert len(at.pings) == 1
    at.pass_to(100.0, 0.1)
    assert at.now == pytest.approx(3.0, abs=0.1 + TICK)
    assert type(at.end.error) is LinkLost
    at.finish()


def test_a_link_in_doubt_that_answers_goes_on(loop: TurnLoop) -> None:
    at = Watched(loop, 1000.0)
    at.end.protocol.check(3.0)
    at.pass_to(2.9, 0.1)
    at.end.feed(PONG)
    at.pass_to(900.0, 1.0)
    assert at.alive
    # One that stood still asks once more.
    at.end.protocol.check(3.0)
    loop.stand_still(50.0)
    loop.advance(0.0)
    assert at.alive
    woke = at.now
    at.pass_to(woke + 100.0, 0.1)
    assert at.now - woke == pytest.approx(3.0, abs=0.1 + TICK)
    at.finish()


def test_a_doubt_during_a_check_has_its_own_check(loop: TurnLoop) -> None:
    """What was heard before the second doubt says nothing about it."""
    at = Watched(loop, 1000.0)
    told: list[str] = []
    at.end.protocol.check(3.0)
    at.pass_to(0.1, 0.1)
    at.end.feed(PONG)
    for number in range(100):
        at.end.protocol.check(3.0, partial(told.append, "dead"))
        at.pass_to(1.0 + number / 100, 0.01)
    assert len(at.pings) == 1
    at.pass_to(5.5, 0.1)
    assert len(at.pings) == 2
    assert not told
    at.pass_to(7.0, 0.1)
    # Whoever asked decides what becomes of the link.
    assert told == ["dead"]
    assert at.alive
    # Nobody is told of a later check, which is another one's.
    at.end.protocol.check(3.0)
    at.pass_to(20.0, 0.1)
    assert told == ["dead"]
    assert type(at.end.error) is LinkLost
    at.finish()


def test_nobody_is_told_of_a_link_that_answers(loop: TurnLoop) -> None:
    at = Watched(loop, 1000.0)
    told: list[str] = []
    at.end.protocol.check(3.0, partial(told.append, "dead"))
    at.pass_to(1.0, 0.1)
    at.end.feed(PONG)
    at.pass_to(9.0, 0.1)
    at.end.protocol.check(3.0)
    at.pass_to(30.0, 0.1)
    assert not told
    assert type(at.end.error) is LinkLost
    at.finish()


def test_a_link_that_closes_is_not_probed(loop: TurnLoop) -> None:
    at = Watched(loop, 1.0)
    at.end.protocol.begin_close(CloseReason.CLOSED, 100.0)
    loop.advance(50.0)
    at.look()
    assert at.pings == []
    assert at.end.state is State.CLOSING
    at.finish()


def test_tls_keeps_its_buffers_on_a_busy_link_only(loop: TurnLoop) -> None:
    at = Watched(loop, 10.0)
    engine = at.end.protocol.presented
    at.end.feed(frames.frame(frames.ENDPOINT, b"e"))
    message = frames.message(0, b"payload")

    def hear(times: int) -> None:
        for _ in range(times):
            at.end.feed(message)

    # Some messages are not much.
    hear(BUSY_LINK_READS - 2)
    assert not engine.holding
    at.pass_to(at.now + 10.1, 0.1)
    hear(BUSY_LINK_READS - 1)
    assert not engine.holding
    hear(1)
    assert engine.holding
    # Until there was a whole interval of which that cannot be said.
    at.pass_to(at.now + 9.0, 0.1)
    hear(BUSY_LINK_READS)
    at.pass_to(at.now + 9.0, 0.1)
    assert engine.holding
    at.pass_to(at.now + 12.0, 0.1)
    assert not engine.holding
    hear(BUSY_LINK_READS)
    assert engine.holding
    at.finish()


def test_nobody_is_busy_before_the_link_is_up(loop: TurnLoop) -> None:
    node = MemoryNode(loop, name=B)
    end = node.end(dialer=False)
    end.connect()
    hello = frames.hello(A)
    assert len(hello) > 2 * BUSY_LINK_READS
    end.feed(hello + frames.frame(frames.ACCEPT), 1)
    assert end.state is State.UP
    assert not end.protocol.presented.holding
    node.finish()
