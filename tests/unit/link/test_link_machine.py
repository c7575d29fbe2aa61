"""Links as state machines: the table, a link in memory, and two that talk."""

from __future__ import annotations

import asyncio
import struct
from contextlib import ExitStack
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from fastnode import Message, ProtocolError
from fastnode.errors import CloseReason
from fastnode.link.machine import FRAMES, TRANSITIONS, State
from fastnode.wire.kinds import KINDS
from helpers import frames
from helpers.memory import MemoryEnd, MemoryNode, running_loop
from helpers.nodes import A, B

WINDOW = 128 << 10
OVERRUN = 2 * frames.MAX_FRAME
TICKET = bytes(range(16))
#: Every kind, with a body that breaks no rule; what may be wrong is its time.
BODIES = {
    frames.ACCEPT: b"",
    frames.ENDPOINT: b"echo",
    frames.MESSAGE: b"hi",
    frames.CALL: bytes(4),
    frames.REPLY: bytes(4),
    frames.ERROR: bytes(8),
    frames.CONTINUE: b"part",
    frames.CREDIT: bytes(4),
    frames.CANCEL: bytes(4),
    frames.PING: bytes(8),
    frames.PONG: bytes(8),
    frames.GOODBYE: frames.reason(1),
    frames.MOVED: b"",
    frames.RECONNECT: b"",
    frames.STAY: frames.reason(28),
    frames.CONFIRM: bytes(4),
    frames.PAUSE: b"echo",
    frames.RESUME: b"echo",
    frames.DROPPED: bytes(4) + b"echo",
    frames.LEAVING: bytes(4),
}
#: What is begun by a frame of these is numbered.
NUMBERED = (frames.CALL, frames.CONFIRM)
UNTIL_MOVED = {kind.number for kind in KINDS if kind.until_moved}
AFTER_GOODBYE = {kind.number for kind in KINDS if kind.after_goodbye}
REACHED = {State.TLS, *TRANSITIONS.values()}


def test_no_kind_is_left_out() -> None:
    # HELLO has a rule of its own.
    assert {*BODIES, frames.HELLO} == set().union(*FRAMES.values())


class StatesMachine(RuleBasedStateMachine):
    """A peer sends frames of all kinds, in any order; a user closes, time passes."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.loop = self.stack.enter_context(running_loop())

    @initialize(dialer=st.booleans())
    def connect(self, dialer: bool) -> None:
        self.node = MemoryNode(self.loop, window=WINDOW)
        self.node.node.handler("echo")(lambda message: message.payload)
        self.end = self.node.end(dialer=dialer)
        self.end.connect()
        self.dialer = dialer
        self.named = self.moved = self.said_goodbye = False
        self.call = 0
        self.before = self.end.state
        assert self.before is State.HELLO

    @property
    def alive(self) -> bool:
        return self.end.state is not State.CLOSED

    def taken(self, kind: int) -> bool:
        """Whether the document allows the kind now."""
        if kind not in FRAMES[self.end.state]:
            return False
        if self.said_goodbye and self.end.state is State.CLOSING:
            return kind in AFTER_GOODBYE
        if self.moved and kind in UNTIL_MOVED:
            return False
        if kind in (frames.MESSAGE, *NUMBERED):
            return self.named
        if kind == frames.CONTINUE:
            return False  # nothing was begun
        return kind != (frames.STAY if self.dialer else frames.RECONNECT)

    @precondition(lambda self: self.alive)
    @rule(kind=st.sampled_from(sorted(BODIES)), piece=st.integers(0, 3))
    def frame(self, kind: int, piece: int) -> None:
        taken, before = self.taken(kind), self.end.state
        body = BODIES[kind]
        if kind in NUMBERED:
            self.call += 1
            body = struct.pack(">I", self.call)
        self.end.feed(frames.frame(kind, body), piece)
        if not taken:
            assert isinstance(self.end.error, ProtocolError), self.end.error
            assert self.end.state is State.CLOSED
            return
        assert not isinstance(self.end.error, ProtocolError), self.end.error
        self.named |= kind == frames.ENDPOINT
        self.moved |= kind == frames.MOVED
        if kind == frames.GOODBYE:
            self.said_goodbye = True
            assert self.end.state is State.CLOSED or before >= State.UP
        elif kind == frames.ACCEPT:
            assert self.end.state is State.UP

    @precondition(lambda self: self.alive)
    @rule()
    def hello(self) -> None:
        taken = self.end.state is State.HELLO
        offer = frames.feature(frames.HANDOVER, TICKET if self.dialer else b"")
        # Without this one, PAUSE, RESUME, DROPPED and LEAVING break the protocol.
        offer += frames.feature(frames.EXTENSIONS)
        self.end.feed(frames.hello(A, features=offer))
        if not taken:
            assert isinstance(self.end.error, ProtocolError)
        else:
            assert self.end.state is (State.UP if self.dialer else State.ACCEPTED)

    @precondition(
        lambda self: self.end.state is State.UP and not (self.dialer or self.moved)
    )
    @rule()
    def succeed(self) -> None:
        """A newer link takes the place of this one."""
        ticket = self.end.protocol.succession.ticket
        newer = self.node.end()
        newer.connect()
        claim = frames.feature(frames.SUCCEEDS, ticket)
        offer = frames.feature(frames.HANDOVER)
        newer.feed(frames.hello(A, features=offer + claim))
        newer.feed(frames.frame(frames.ACCEPT))
        assert newer.state is State.UP
        assert self.end.state is State.RETIRING

    @precondition(lambda self: self.alive)
    @rule()
    def close(self) -> None:
        up = self.end.state >= State.UP
        self.end.protocol.begin_close(CloseReason.CLOSED)
        self.loop.turn()
        assert self.end.state is State.CLOSING if up else not self.alive

    @precondition(lambda self: self.alive)
    @rule(seconds=st.sampled_from([0.0, 1.0, 16.0]))
    def wait(self, seconds: float) -> None:
        self.loop.advance(seconds)

    @precondition(lambda self: not self.alive)
    @rule(data=st.binary(min_size=1, max_size=30))
    def afterwards(self, data: bytes) -> None:
        """What comes behind the end changes nothing."""
        error = self.end.error
        self.end.feed(data)
        assert self.end.error is error

    @invariant()
    def only_as_the_table_says(self) -> None:
        after = self.end.state
        # A step may take several transitions: each is in the table by itself.
        assert after >= self.before
        assert after in REACHED
        self.before = after
        link = self.end.protocol.link
        assert (link is not None) or after < State.UP or after is State.CLOSED
        assert (self.end.error is None) == self.alive

    def teardown(self) -> None:
        self.node.finish()
        self.stack.close()


class FlowMachine(RuleBasedStateMachine):
    """Two links in memory, and a model of what one owes the other.

    Bytes move between them when a rule says so, in pieces of any size.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.loop = self.stack.enter_context(running_loop())
        self.left = MemoryNode(self.loop, name=A, window=WINDOW)
        self.right = MemoryNode(self.loop, name=B, window=WINDOW)
        self.got: list[bytes] = []
        self.waiting: list[asyncio.Future[None]] = []
        self.held = 0
        self.sent: list[bytes] = []
        self.calls: list[tuple[bytes, asyncio.Task[bytes]]] = []

        @self.right.node.handler("fast")
        def fast(message: Message) -> bytes:
            self.got.append(message.payload)
            return message.payload[:10]

        @self.right.node.handler("slow")
        async def slow(message: Message) -> None:
            size = len(message.payload)
            self.held += size
            waiter: asyncio.Future[None] = self.loop.create_future()
            self.waiting.append(waiter)
            await waiter
            self.held -= size

        self.a, self.b = self.left.end(dialer=True), self.right.end()
        for end in (self.a, self.b):
            end.connect()
        while self.move(self.a, self.b) or self.move(self.b, self.a):
            pass
        assert self.a.state is self.b.state is State.UP
        self.link: Any = self.a.protocol.link

    def move(self, source: MemoryEnd, target: MemoryEnd, piece: int = 0) -> bool:
        data = source.transport.take()
        target.feed(data, piece)
        return bool(data)

    @rule(size=st.integers(0, 70_000))
    def send(self, size: int) -> None:
        payload = bytes([len(self.sent) % 256]) * size
        self.link.send("fast", payload)
        self.sent.append(payload)

    @rule(size=st.integers(0, 40_000), count=st.integers(1, 4))
    def send_to_slow(self, size: int, count: int) -> None:
        for _ in range(count):
            self.link.send("slow", bytes(size))

    @rule(size=st.integers(0, 3000))
    def call(self, size: int) -> None:
        payload = b"%9d " % len(self.sent) + bytes(size)
        task = self.loop.create_task(self.link.call("fast", payload))
        self.loop.turn()
        self.sent.append(payload)
        self.calls.append((payload, task))

    @rule()
    def turn(self) -> None:
        self.loop.turn()

    @rule(piece=st.sampled_from([0, 0, 5000, 777]), forth=st.booleans())
    def carry(self, piece: int, forth: bool) -> None:
        if forth:
            self.move(self.a, self.b, piece)
        else:
            self.move(self.b, self.a, piece)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def let_go(self, data: st.DataObject) -> None:
        at = data.draw(st.integers(0, len(self.waiting) - 1))
        self.waiting.pop(at).set_result(None)
        self.loop.turn()

    @invariant()
    def nobody_overruns_the_window(self) -> None:
        for end in (self.a, self.b):
            assert end.state is State.UP, end.error
        assert self.a.protocol.stats().credit_bytes <= WINDOW
        assert self.held <= WINDOW + OVERRUN
        # What is on its way and what is queued never is more than was granted.
        assert len(self.a.transport.written) <= WINDOW + OVERRUN + (64 << 10)

    @invariant()
    def in_order_and_unchanged(self) -> None:
        assert self.got == self.sent[: len(self.got)]

    def teardown(self) -> None:
        # Whatever the order was: when the handlers are done, all of it arrives.
        moved = True
        while moved or self.waiting:
            moved = False
            while self.waiting:
                self.waiting.pop().set_result(None)
            self.loop.turn()
            moved |= self.move(self.a, self.b)
            moved |= self.move(self.b, self.a)
        assert self.got == self.sent
        for payload, task in self.calls:
            assert task.result() == payload[:10]
        stats = self.a.protocol.stats()
        assert stats.queued_bytes == 0
        assert stats.credit_bytes > WINDOW // 2 - OVERRUN
        self.left.finish()
        self.right.finish()
        self.stack.close()


for machine, steps in ((StatesMachine, 15), (FlowMachine, 40)):
    machine.TestCase.settings = settings(
        max_examples=150, stateful_step_count=steps, deadline=None, derandomize=True
    )
TestStatesMachine = StatesMachine.TestCase
TestFlowMachine = FlowMachine.TestCase
