"""LEAVING on one link in memory: said, heard, in every state."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from fastnode import LinkClosed, Message, ProtocolError
from fastnode.errors import CloseReason
from fastnode.link.machine import State
from helpers import frames
from helpers.memory import MemoryEnd, MemoryNode, TurnLoop, running_loop
from helpers.nodes import A

LEAVING = frames.frame(frames.LEAVING, bytes(4))
GOODBYE = frames.frame(frames.GOODBYE, frames.reason(1))
EXTENSIONS = frames.feature(frames.EXTENSIONS)
TICKET = bytes(range(16))


class Case:
    """A link that is up, and the loop and the node that it belongs to."""

    def __init__(self, loop: TurnLoop, node: MemoryNode, end: MemoryEnd) -> None:
        self.loop, self.node, self.end = loop, node, end
        self.began: list[Message] = []
        self.gate = loop.create_future()
        node.node.handler("slow")(self.handle)
        node.node.handler("echo")(lambda message: message.payload)

    async def handle(self, message: Message) -> bytes:
        self.began.append(message)
        await asyncio.shield(self.gate)
        return b"done"

    @property
    def link(self) -> Any:
        return self.end.protocol.link

    def state(self) -> State:
        # A method: the type checker does not take it for what it was before.
        return self.end.state

    def written(self) -> list[int]:
        """The kinds of the frames that were written since the last time."""
        data = self.end.transport.take()
        kinds = []
        while data:
            kind, _, _, size = struct.unpack(">BBHI", data[:8])
            kinds.append(kind)
            data = data[8 + size :]
        return kinds

    def feed(self, data: bytes) -> list[int]:
        self.end.feed(data)
        return self.written()

    def found(self) -> bool:
        """Whether the node addresses the link by the name of its peer."""
        return self.node.context.links.find(A) is self.link

    def kept(self) -> bool:
        """Whether the node keeps it for callers that have no other link."""
        return self.node.context.links.leaving(A) is self.link


@contextmanager
def up(
    *, dialer: bool = False, features: bytes = EXTENSIONS, window: int = 1 << 20
) -> Iterator[Case]:
    with running_loop() as loop:
        node = MemoryNode(loop)
        case = Case(loop, node, node.end(dialer=dialer))
        case.end.connect()
        offer = frames.feature(frames.HANDOVER, TICKET if dialer else b"")
        case.end.feed(frames.hello(A, features=offer + features, window=window))
        if not dialer:
            case.end.feed(frames.frame(frames.ACCEPT))
        assert case.state() is State.UP
        case.end.feed(frames.endpoint(0, b"slow") + frames.endpoint(1, b"echo"))
        case.written()
        yield case
        node.finish()


BOTH = pytest.mark.parametrize("dialer", [False, True])


@BOTH
def test_an_idle_link_is_closed(dialer: bool) -> None:
    with up(dialer=dialer) as case:
        # Plaintext: a node that verifies nobody addresses its peers all the same.
        assert case.found()
        assert case.feed(LEAVING) == [frames.GOODBYE]
        assert case.link.leaving
        assert case.state() is State.CLOSING
        with pytest.raises(LinkClosed, match="the node stops") as caught:
            case.link.send("echo", b"")
        assert caught.value.begun == "no"
        # The peer has as long as it takes it to be silent, and no longer.
        case.loop.advance(59.0)
        assert case.state() is State.CLOSING
        case.loop.advance(2.0)
        assert case.state() is State.CLOSED
        assert type(case.end.error) is LinkClosed


@BOTH
def test_what_is_under_way_keeps_it(dialer: bool) -> None:
    with up(dialer=dialer) as case:
        call = case.loop.create_task(case.link.call("echo", b"1"))
        case.loop.turn()
        assert case.written() == [frames.ENDPOINT, frames.CALL]
        case.feed(frames.call(0, 7, b""))
        assert case.feed(LEAVING) == []
        assert not case.found()
        assert case.kept()
        # Twice is once. What comes is served, and what users send leaves.
        assert case.feed(LEAVING + frames.call(1, 8, b"x")) == [frames.REPLY]
        case.link.send("echo", b"2")
        case.loop.turn()
        assert case.written() == [frames.MESSAGE]
        case.end.feed(frames.reply(1, b"one"))
        assert call.result() == b"one"
        assert case.state() is State.UP
        case.gate.set_result(None)
        case.loop.turn()
        assert case.written() == [frames.REPLY, frames.GOODBYE]
        case.end.feed(GOODBYE)
        assert type(case.end.error) is LinkClosed
        assert case.node.context.links.leaving(A) is None


def test_what_waits_for_credit_leaves_first() -> None:
    with up(window=frames.MAX_FRAME * 2) as case:
        for _ in range(4):
            case.link.send("echo", bytes(60_000))
        drained = case.loop.create_task(case.link.drain())
        case.loop.turn()
        sent = case.written().count(frames.MESSAGE)
        assert sent < 4
        assert case.feed(LEAVING) == []
        credit = struct.pack(">I", frames.MAX_FRAME * 2)
        kinds = case.feed(frames.frame(frames.CREDIT, credit))
        assert kinds.count(frames.MESSAGE) == 4 - sent
        assert kinds[-1] == frames.GOODBYE
        drained.result()


def test_a_sender_that_drains_is_not_told_of_the_end() -> None:
    """All that it has queued has left when the link is closed."""
    with up(window=frames.MAX_FRAME * 2) as case:
        high_water = case.end.protocol.settings.high_water
        for _ in range(high_water // 60_000 + 5):
            case.link.send("echo", bytes(60_000))
        drained = case.loop.create_task(case.link.drain())
        case.loop.turn()
        assert not drained.done()
        case.end.feed(LEAVING)
        credit = struct.pack(">I", 1 << 27)
        assert case.feed(frames.frame(frames.CREDIT, credit))[-1] == frames.GOODBYE
        assert drained.result() is None


@BOTH
def test_while_the_link_is_closing(dialer: bool) -> None:
    with up(dialer=dialer) as case:
        case.end.protocol.begin_close(CloseReason.CLOSED, 5.0)
        case.loop.turn()
        assert case.written() == [frames.GOODBYE]
        assert case.feed(LEAVING) == []
        assert case.state() is State.CLOSING
        case.end.feed(GOODBYE)
        assert type(case.end.error) is LinkClosed


def test_while_a_newer_link_takes_over() -> None:
    with up() as case:
        newer = case.node.end()
        newer.connect()
        ticket = case.end.protocol.succession.ticket
        offer = frames.feature(frames.HANDOVER)
        claim = frames.feature(frames.SUCCEEDS, ticket)
        newer.feed(frames.hello(A, features=offer + claim + EXTENSIONS))
        newer.feed(frames.frame(frames.ACCEPT))
        assert case.state() is State.RETIRING
        assert case.written() == [frames.MOVED]
        # It ends as any link that was replaced: when the peer has moved too.
        assert case.feed(LEAVING) == []
        assert case.state() is State.RETIRING
        assert case.feed(frames.frame(frames.MOVED)) == [frames.GOODBYE]
        assert newer.state is State.UP


@pytest.mark.parametrize(
    "before", [b"", frames.hello(A, features=EXTENSIONS)], ids=["hello", "accepted"]
)
def test_guarantee_10_before_the_link_is_up(before: bytes) -> None:
    with running_loop() as loop:
        node = MemoryNode(loop)
        end = node.end()
        end.connect()
        end.feed(before)
        end.feed(LEAVING)
        assert isinstance(end.error, ProtocolError)
        node.finish()


@BOTH
@pytest.mark.parametrize("first", [GOODBYE, b""], ids=["after a goodbye", "unasked"])
def test_guarantee_10_out_of_place(dialer: bool, first: bytes) -> None:
    with up(dialer=dialer, features=EXTENSIONS if first else b"") as case:
        case.feed(frames.call(0, 1, b"") + first)
        case.feed(LEAVING)
        assert isinstance(case.end.error, ProtocolError)
        case.gate.set_result(None)
        case.loop.turn()


def announced(case: Case) -> None:
    assert case.end.protocol.extensions.announce(1.5, 20.0)
    assert not case.end.protocol.extensions.announce(1.5, 20.0)
    case.loop.turn()
    assert case.end.transport.take() == frames.frame(
        frames.LEAVING, struct.pack(">I", 1500)
    )


@BOTH
def test_the_side_that_leaves_serves_and_calls(dialer: bool) -> None:
    with up(dialer=dialer) as case:
        announced(case)
        assert not case.link.leaving
        assert case.feed(frames.call(1, 1, b"x")) == [frames.REPLY]
        call = case.loop.create_task(case.link.call("echo", b"1"))
        case.loop.turn()
        assert case.written() == [frames.ENDPOINT, frames.CALL]
        case.end.feed(frames.reply(1, b"one"))
        assert call.result() == b"one"
        # The peer turns away, and messages of it are at work: they have the time of
        # the whole node.
        case.end.feed(frames.message(0, b""))
        crossing = case.loop.create_task(case.link.call("echo", b"2"))
        case.loop.turn()
        case.end.feed(GOODBYE)
        error = crossing.exception()
        assert isinstance(error, LinkClosed)
        assert error.begun == "no"
        with pytest.raises(LinkClosed, match="this node stops"):
            case.link.send("echo", b"")
        case.loop.advance(19.0)
        assert case.state() is State.CLOSING
        case.gate.set_result(None)
        case.loop.turn()
        assert case.written()[-1] == frames.GOODBYE
        assert type(case.end.error) is LinkClosed


def test_both_leave() -> None:
    with up() as case:
        announced(case)
        assert case.feed(LEAVING) == [frames.GOODBYE]
        case.end.feed(GOODBYE)
        assert type(case.end.error) is LinkClosed


@pytest.mark.parametrize("hear", [LEAVING, b""])
def test_the_time_of_an_end_can_be_shortened(hear: bytes) -> None:
    with up() as case:
        case.end.feed(frames.call(0, 1, b""))
        case.end.protocol.begin_close(CloseReason.SHUTDOWN, 50.0)
        case.end.feed(hear)
        case.end.protocol.begin_close(CloseReason.SHUTDOWN, 2.0)
        case.end.protocol.begin_close(CloseReason.SHUTDOWN, 30.0)  # changes nothing
        case.loop.advance(1.9)
        assert case.state() is State.CLOSING
        case.loop.advance(0.2)
        assert case.state() is State.CLOSED
        case.gate.set_result(None)
        case.loop.turn()


def test_an_older_peer_is_not_told() -> None:
    with up(features=b"") as case:
        assert not case.end.protocol.extensions.announce(1.0, 1.0)
        case.loop.turn()
        assert case.written() == []
