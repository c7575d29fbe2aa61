"""Deliveries as a state machine: whatever happens to them, nothing stays counted.

A peer sends messages, calls and confirmed messages over several links to handlers of
every kind, and does not read its replies for a while. Handlers wait, raise, call back
and end their own links. Links are closed, replaced and lost.
"""

from __future__ import annotations

import asyncio
import struct
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, ClassVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from fastnode import Message
from fastnode.errors import CloseReason, LinkLost
from fastnode.limits import CONGESTION_SECONDS, MAX_FRAME_BYTES, MAX_UNDER_WAY_BYTES
from fastnode.link.machine import State
from helpers import frames
from helpers.memory import EagerLoop, MemoryEnd, MemoryNode, TurnLoop, running_loop

#: The reply of a handler that fills the queue of replies with three of them.
LARGE = 400 << 10
#: While a handler has this, every further one of its lane waits.
HEAVY = frames.message(1, bytes(5 + MAX_UNDER_WAY_BYTES), frames.BULK)
NAMES = ("plain", "async", "one", "two", "batch", "async batch", "one batch")
BATCHES = frozenset({"batch", "async batch", "one batch"})
NUMBERED = (frames.CALL, frames.CONFIRM)


class Act(IntEnum):
    """What a handler does with a message."""

    RETURN = 0
    WAIT = 1
    RAISE = 2
    RAISE_ANYTHING = 3
    CANCEL = 4
    REPLY_LARGE = 5
    CALL_BACK = 6
    END_LINK = 7
    END_LINK_AND_WAIT = 8


class Strange(BaseException):
    """What no library expects."""


@dataclass
class Sent:
    """A message, call or confirmed message of the peer."""

    number: int
    chain: int
    endpoint: str
    lane: int
    kind: int
    nested: bool
    call: int
    cancelled: bool = False


@dataclass(eq=False)
class Side:
    """The peer's end of one link."""

    end: MemoryEnd
    #: Links that follow each other have the same.
    chain: int
    link: Any
    protocol: Any
    sent: list[Sent] = field(default_factory=list)
    calls: int = 0
    moved: bool = False
    goodbye: bool = False
    #: Our side has said goodbye.
    left: bool = False
    before: Side | None = None
    #: The endpoints that our side has paused.
    paused: set[bytes] = field(default_factory=set)
    #: Our calls that were answered: number -> how often.
    answers: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    #: Calls of handlers that wait for an answer.
    asked: list[int] = field(default_factory=list)

    @property
    def alive(self) -> bool:
        return self.end.state is not State.CLOSED

    @property
    def takes_more(self) -> bool:
        return self.alive and not (self.moved or self.goodbye)


class DispatchMachine(RuleBasedStateMachine):
    """See the module."""

    loop_class: ClassVar[type[TurnLoop]] = TurnLoop
    network: ClassVar[dict[str, Any]] = {}
    features: ClassVar[bytes] = frames.feature(frames.HANDOVER)

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.loop = self.stack.enter_context(running_loop(self.loop_class))
        self.node = MemoryNode(self.loop, **self.network)
        self.sides: list[Side] = []
        self.count = 0
        self.waiting: list[asyncio.Future[None]] = []
        #: What handlers were given, in its order.
        self.begun: list[int] = []
        self.of: dict[int, tuple[Sent, Side]] = {}
        handler = self.node.node.handler
        handler("plain")(self.plain)
        handler("async")(self.later)
        handler("one", concurrency=1)(self.later)
        handler("two", concurrency=2)(self.returns_awaitable)
        handler("batch", batch=True)(self.batch)
        handler("async batch", batch=True)(self.batch_later)
        handler("one batch", batch=True, concurrency=1)(self.batch_later)

    # --- handlers -------------------------------------------------------------------

    def begin(self, message: Message) -> tuple[Act, Side]:
        number, act = struct.unpack(">IB", message.payload[:5])
        if number == 0:
            return Act.WAIT, self.sides[0]
        self.begun.append(number)
        return Act(act), self.of[number][1]

    def plain(self, message: Message) -> bytes:
        act, side = self.begin(message)
        return self.do(act, side)

    def do(self, act: Act, side: Side) -> bytes:
        if act is Act.RAISE:
            raise ValueError("on purpose")
        if act is Act.RAISE_ANYTHING:
            raise Strange
        if act is Act.CANCEL:
            raise asyncio.CancelledError
        if act in (Act.END_LINK, Act.END_LINK_AND_WAIT):
            side.protocol.terminate(LinkLost("a handler ended it"))
        return bytes(LARGE) if act is Act.REPLY_LARGE else b""

    async def later(self, message: Message) -> bytes:
        return await self.act_later(*self.begin(message))

    async def act_later(self, act: Act, side: Side) -> bytes:
        reply = self.do(act, side)
        if act in (Act.WAIT, Act.REPLY_LARGE, Act.END_LINK_AND_WAIT):
            waiter: asyncio.Future[None] = self.loop.create_future()
            self.waiting.append(waiter)
            await waiter
        if act is Act.CALL_BACK:
            await side.link.call("anything", b"")
        return reply

    def returns_awaitable(self, message: Message) -> Any:
        """Raises, and may end the link, before there is an awaitable."""
        act, side = self.begin(message)
        if act in (Act.WAIT, Act.CALL_BACK):
            return self.act_later(act, side)
        reply = self.do(act, side)
        if act is Act.END_LINK_AND_WAIT:
            return self.act_later(Act.WAIT, side)
        return self.act_later(Act.RETURN, side) if act is Act.RETURN else reply

    def batch(self, messages: list[Message]) -> None:
        for act, side in [self.begin(message) for message in messages]:
            self.do(act, side)

    async def batch_later(self, messages: list[Message]) -> None:
        for act, side in [self.begin(message) for message in messages]:
            await self.act_later(act, side)

    # --- the peer -------------------------------------------------------------------

    def connect(self, before: Side | None = None) -> Side:
        chain = len(self.sides) if before is None else before.chain
        end = self.node.end()
        end.connect()
        features = self.features
        if before is not None:
            ticket = before.protocol.succession.ticket
            features += frames.feature(frames.SUCCEEDS, ticket)
        end.feed(frames.hello(f"peer{chain}@127.0.0.1", features=features))
        end.feed(frames.frame(frames.ACCEPT))
        assert end.state is State.UP, end.error
        side = Side(end, chain, end.protocol.link, end.protocol, before=before)
        for lane in (frames.DATA, frames.HIGH, frames.BULK, frames.INNER):
            for number, name in enumerate(NAMES):
                end.feed(frames.endpoint(number, name.encode(), lane))
        self.sides.append(side)
        return side

    def read(self, side: Side) -> None:
        """Look at the frames that our side has written."""
        data, at = side.end.transport.take(), 0
        while at < len(data):
            kind, _, _, size = struct.unpack_from(">BBHI", data, at)
            body = data[at + 8 : at + 8 + size]
            at += 8 + size
            if kind in (frames.REPLY, frames.ERROR):
                side.answers[struct.unpack(">I", body[:4])[0]] += 1
            elif kind == frames.CALL:
                side.asked.append(struct.unpack(">I", body[:4])[0])
            elif kind == frames.GOODBYE:
                side.left = True
            elif kind == frames.PAUSE:
                assert body not in side.paused
                side.paused.add(body)
            elif kind == frames.RESUME:
                side.paused.remove(body)

    def pick(self, data: st.DataObject) -> Side:
        return data.draw(st.sampled_from([s for s in self.sides if s.takes_more]))

    @initialize(heavy=st.booleans(), links=st.integers(1, 3))
    def begin_links(self, heavy: bool, links: int) -> None:
        for _ in range(links):
            self.connect()
        if heavy:
            self.sides[0].end.feed(HEAVY)
            assert len(self.waiting) == 1

    @precondition(lambda self: any(s.takes_more for s in self.sides))
    @rule(
        data=st.data(),
        name=st.sampled_from(NAMES),
        lane=st.sampled_from([frames.DATA, frames.DATA, frames.HIGH, frames.INNER]),
        kind=st.sampled_from([frames.MESSAGE, *NUMBERED, *NUMBERED]),
        acts=st.lists(
            st.sampled_from([*Act, Act.WAIT, Act.WAIT, Act.REPLY_LARGE]),
            min_size=1,
            max_size=4,
        ),
        size=st.sampled_from([0, 0, 3000]),
        nested=st.booleans(),
    )
    def send(
        self,
        data: st.DataObject,
        name: str,
        lane: int,
        kind: int,
        acts: list[Act],
        size: int,
        nested: bool,
    ) -> None:
        """A few, which come together."""
        side, both = self.pick(data), b""
        for act in acts:
            self.count += 1
            side.calls += kind in NUMBERED
            sent = Sent(
                self.count, side.chain, name, lane, kind,
                nested and kind in NUMBERED, side.calls,
            )  # fmt: skip
            self.of[self.count] = sent, side
            side.sent.append(sent)
            payload = struct.pack(">IB", self.count, act) + bytes(size)
            flags = lane << 1 | (frames.NESTED if sent.nested else 0)
            if kind in NUMBERED:
                payload = struct.pack(">I", side.calls) + payload
            number = NAMES.index(name)
            both += frames.frame(kind, payload, flags=flags, number=number)
        side.end.feed(both)

    @precondition(lambda self: any(s.takes_more and s.calls for s in self.sides))
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        side = data.draw(
            st.sampled_from([s for s in self.sides if s.takes_more and s.calls])
        )
        call = data.draw(st.integers(1, side.calls))
        for each in side.sent:
            if each.kind in NUMBERED and each.call == call:
                each.cancelled = True
        side.end.feed(frames.frame(frames.CANCEL, struct.pack(">I", call)))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def let_go(self, data: st.DataObject) -> None:
        at = data.draw(st.integers(0, len(self.waiting) - 1))
        waiter = self.waiting.pop(at)
        if not waiter.done():
            waiter.set_result(None)
        self.loop.turn()

    @rule(data=st.data(), well=st.booleans())
    def answer(self, data: st.DataObject, well: bool) -> None:
        for side in self.sides:
            self.read(side)
            if side.asked and side.alive and not side.goodbye:
                self.answer_one(side, well)
                return

    def answer_one(self, side: Side, well: bool) -> None:
        number = struct.pack(">I", side.asked.pop(0))
        kind = frames.REPLY if well else frames.ERROR
        side.end.feed(frames.frame(kind, number + (b"" if well else bytes(4))))

    @rule(data=st.data(), paused=st.booleans())
    def write(self, data: st.DataObject, paused: bool) -> None:
        """The transport takes no more, or takes more again."""
        side = data.draw(st.sampled_from(self.sides))
        if side.alive:
            self.writable(side, paused)

    def writable(self, side: Side, paused: bool) -> None:
        callbacks = side.end.callbacks
        (callbacks.pause_writing if paused else callbacks.resume_writing)()
        self.loop.turn()

    @precondition(lambda self: any(s.takes_more for s in self.sides))
    @rule(data=st.data())
    def read_replies(self, data: st.DataObject) -> None:
        self.grant(self.pick(data))

    def grant(self, side: Side) -> None:
        self.read(side)
        body = struct.pack(">I", LARGE)
        side.end.feed(frames.frame(frames.CREDIT, body, number=frames.BULK_REPLIES))

    @rule()
    def pass_time(self) -> None:
        """A window that is full is full for long."""
        self.loop.advance(1.5 * CONGESTION_SECONDS)

    @precondition(lambda self: any(s.takes_more for s in self.sides))
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        self.pick(data).end.hang_up()
        self.loop.turn()

    @precondition(lambda self: any(s.takes_more for s in self.sides))
    @rule(data=st.data(), here=st.booleans())
    def close(self, data: st.DataObject, here: bool) -> None:
        side = self.pick(data)
        if here:
            side.protocol.begin_close(CloseReason.CLOSED)
            self.loop.turn()
        else:
            self.say_goodbye(side)

    def say_goodbye(self, side: Side) -> None:
        side.goodbye = True
        side.end.feed(frames.frame(frames.GOODBYE, frames.reason(1)))

    def newest(self) -> list[Side]:
        """Links that can be replaced now."""
        return [
            side
            for side in self.sides
            if side.end.state is State.UP
            and side.takes_more
            and side.protocol.succession.held is None
        ]

    @precondition(lambda self: self.newest())
    @rule(data=st.data())
    def succeed(self, data: st.DataObject) -> None:
        """A newer link: messages come there, and later the last one comes here."""
        self.connect(data.draw(st.sampled_from(self.newest())))

    @precondition(lambda self: self.not_moved())
    @rule()
    def move(self) -> None:
        side = self.not_moved()[0]
        side.moved = True
        side.end.feed(frames.frame(frames.MOVED))

    def not_moved(self) -> list[Side]:
        replaced = [side.before for side in self.sides]
        return [side for side in self.sides if side.takes_more and side in replaced]

    # --- what holds -----------------------------------------------------------------

    @invariant()
    def in_order(self) -> None:
        """For each endpoint and lane, over links that follow each other."""
        last: dict[tuple[int, str, int], tuple[int, int]] = defaultdict(lambda: (0, 0))
        for number in self.begun:
            sent, side = self.of[number]
            key = sent.chain, sent.endpoint, sent.lane
            if sent.lane == frames.INNER or (
                sent.nested and sent.endpoint in ("one", "two")
            ):
                continue
            # What still comes on a link was sent before what comes on the next one.
            place = self.sides.index(side), number
            assert place > last[key], (number, self.begun)
            last[key] = place

    @invariant()
    def bounds_hold(self) -> None:
        assert len(self.begun) == len(set(self.begun))

    def teardown(self) -> None:
        self.come_to_rest()
        assert self.node.context.registry.unfinished() == {}
        for side in self.sides:
            left = side.protocol.unfinished()
            if side.alive:
                assert left == {}, left
                self.read(side)
                assert side.left or not side.paused
                self.all_is_answered(side)
            else:
                # What was held of windows went with the link.
                counts = {name for name in left if not name.startswith("held, lane")}
                assert not counts - {"shut", "paused", "set aside"}, left
        for text in self.node.take_errors():
            assert text.startswith("the handler of"), text
        self.node.ends = [end for end in self.node.ends if not end.transport.aborted]
        self.node.finish()
        assert self.node.context.registry.unfinished() == {}
        self.stack.close()

    def come_to_rest(self) -> None:
        """Everything goes on that waits."""
        before = None
        while before != (before := self.progress()):
            for side in self.sides:
                if not side.alive:
                    continue
                self.writable(side, False)
                self.read(side)
                while side.asked and side.alive and not side.goodbye:
                    self.answer_one(side, True)
                if side.alive and not side.goodbye:
                    self.grant(side)
                if side.alive and side.left and not side.goodbye:
                    self.say_goodbye(side)
            while self.waiting:
                waiter = self.waiting.pop()
                if not waiter.done():
                    waiter.set_result(None)
                self.loop.turn()
            if self.not_moved():
                self.move()

    def progress(self) -> tuple[int, ...]:
        return (
            len(self.begun),
            len(self.waiting),
            sum(s.moved + s.goodbye + len(s.answers) for s in self.sides),
            sum(map(sum, (side.protocol.unfinished().values() for side in self.sides))),
        )

    def all_is_answered(self, side: Side) -> None:
        for sent in side.sent:
            if not sent.cancelled and side.end.state is State.UP:
                refused = sent.kind == frames.CALL and sent.endpoint in BATCHES
                assert (sent.number in self.begun) != refused, sent
            if sent.kind in NUMBERED:
                least = 0 if sent.cancelled or side.end.state is not State.UP else 1
                assert least <= side.answers[sent.call] <= 1, sent


class EagerDispatchMachine(DispatchMachine):
    """The same where tasks begin when they are made."""

    loop_class = EagerLoop


class CongestedDispatchMachine(DispatchMachine):
    """The same with small windows, so that endpoints are paused. The peer goes on
    sending to them: it may not have seen the PAUSE."""

    network: ClassVar[dict[str, Any]] = {"window": 2 * MAX_FRAME_BYTES}
    features: ClassVar[bytes] = frames.feature(frames.HANDOVER) + frames.feature(
        frames.EXTENSIONS
    )

    @precondition(lambda self: any(s.takes_more for s in self.sides))
    @rule(data=st.data(), name=st.sampled_from(NAMES), count=st.integers(10, 25))
    def send_many(self, data: st.DataObject, name: str, count: int) -> None:
        """So many that wait that the window is full."""
        side = self.pick(data)
        for _ in range(count):
            self.count += 1
            sent = Sent(
                self.count, side.chain, name, frames.DATA, frames.MESSAGE, False, 0
            )
            self.of[self.count] = sent, side
            side.sent.append(sent)
            payload = struct.pack(">IB", self.count, Act.WAIT) + bytes(3000)
            side.end.feed(
                frames.frame(frames.MESSAGE, payload, number=NAMES.index(name))
            )
        self.loop.advance(1.5 * CONGESTION_SECONDS)


for machine in (DispatchMachine, EagerDispatchMachine, CongestedDispatchMachine):
    machine.TestCase.settings = settings(
        max_examples=60, stateful_step_count=30, deadline=None, derandomize=True
    )
TestDispatchMachine = DispatchMachine.TestCase
TestEagerDispatchMachine = EagerDispatchMachine.TestCase
TestCongestedDispatchMachine = CongestedDispatchMachine.TestCase
