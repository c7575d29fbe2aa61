"""Handlers that end in unusual ways, and links that end while something waits."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from fastnode import Message
from fastnode.errors import CloseReason, LinkLost
from fastnode.limits import MAX_UNDER_WAY_BYTES
from fastnode.link.machine import State
from helpers import frames
from helpers.memory import EagerLoop, MemoryEnd, MemoryNode, TurnLoop, running_loop

LOOPS = pytest.mark.parametrize("make", [TurnLoop, EagerLoop])


@contextmanager
def memory_node(
    make: type[TurnLoop] = TurnLoop,
) -> Iterator[tuple[TurnLoop, MemoryNode]]:
    with running_loop(make) as loop:
        node = MemoryNode(loop)
        yield loop, node
        node.finish()
        assert node.context.registry.unfinished() == {}


def connect(node: MemoryNode, name: str, *endpoints: str) -> MemoryEnd:
    """A link that is up. The peer has named the endpoints in the data lane."""
    end = node.end()
    end.connect()
    end.feed(frames.hello(f"{name}@127.0.0.1"))
    end.feed(frames.frame(frames.ACCEPT))
    for number, endpoint in enumerate(endpoints):
        end.feed(frames.endpoint(number, endpoint.encode()))
    assert end.state is State.UP, end.error
    return end


def written(end: MemoryEnd) -> list[tuple[int, bytes]]:
    """Kind and body of all frames that were written."""
    data, at, found = end.transport.take(), 0, []
    while at < len(data):
        kind, _, _, size = struct.unpack_from(">BBHI", data, at)
        found.append((kind, data[at + 8 : at + 8 + size]))
        at += 8 + size
    return found


class Waiting:
    """Asynchronous handlers that wait until the test lets them go.

    Attributes:
        begun: the payloads that they were given.
    """

    def __init__(self, loop: TurnLoop) -> None:
        self._loop = loop
        self._waiters: list[asyncio.Future[None]] = []
        self.begun: list[bytes] = []

    async def one(self, message: Message) -> bytes:
        self.begun.append(message.payload)
        await self._wait()
        return b""

    async def many(self, messages: list[Message]) -> None:
        self.begun += [message.payload for message in messages]
        await self._wait()

    async def _wait(self) -> None:
        self._waiters.append(self._loop.create_future())
        await self._waiters[-1]

    def let_go(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._loop.turn()


@LOOPS
def test_asynchronous_batches_that_end_at_once(make: type[TurnLoop]) -> None:
    """A factory of eager tasks runs the handler to its end before it returns."""
    with memory_node(make) as (_, node):
        got: list[bytes] = []

        @node.node.handler("batch", batch=True, concurrency=1)
        async def batch(messages: list[Message]) -> None:
            got.extend(message.payload for message in messages)

        end = connect(node, "peer", "batch")
        end.feed(frames.confirm(0, 1, b"1") + frames.message(0, b"2"))
        end.feed(frames.message(0, b"3"))
        assert got == [b"1", b"2", b"3"]
        assert written(end)[-1] == (frames.REPLY, struct.pack(">I", 1))
        assert end.protocol.unfinished() == {}
        assert end.state is State.UP


@LOOPS
def test_a_handler_that_ends_its_link_and_goes_on_makes_room_at_its_end(
    make: type[TurnLoop],
) -> None:
    with memory_node(make) as (loop, node):
        waiting = Waiting(loop)

        @node.node.handler("bounded", concurrency=1)
        def bounded(message: Message) -> Any:
            if message.payload == b"ends":
                first.protocol.terminate(LinkLost("the handler ended it"))
            return waiting.one(message)

        first, second = (connect(node, name, "bounded") for name in ("one", "two"))
        first.feed(frames.message(0, b"ends"))
        assert first.state is State.CLOSED
        second.feed(frames.message(0, b"waits"))
        assert waiting.begun == [b"ends"]
        waiting.let_go()
        assert waiting.begun == [b"ends", b"waits"]
        waiting.let_go()
        assert second.protocol.unfinished() == {}


def test_a_lost_link_that_waited_for_a_turn_is_forgotten() -> None:
    with memory_node() as (loop, node):
        waiting = Waiting(loop)
        node.node.handler("batch", batch=True, concurrency=1)(waiting.many)
        node.node.handler("slow")(waiting.one)
        first, second = (
            connect(node, name, "batch", "slow") for name in ("one", "two")
        )
        first.feed(frames.message(0, b"runs"))
        second.feed(frames.message(0, b"waits") + frames.message(1, b"slow"))
        assert waiting.begun == [b"runs", b"slow"]
        protocol = second.protocol
        # Its handler goes on when the socket is gone.
        second.callbacks.eof_received()
        second.callbacks.connection_lost(None)
        loop.turn()
        assert protocol in list(node.context.links)
        node.ends.remove(second)
        waiting.let_go()
        assert waiting.begun == [b"runs", b"slow"]
        assert protocol not in list(node.context.links)


def test_after_stop_nothing_begins() -> None:
    with memory_node() as (loop, node):
        waiting = Waiting(loop)
        node.node.handler("bounded", concurrency=1)(waiting.one)
        end = connect(node, "peer", "bounded")
        end.feed(frames.message(0, b"1") + frames.message(0, b"2"))
        end.protocol.cancel_handlers()
        loop.turn()
        assert waiting.begun == [b"1"]


def test_the_coroutine_of_a_handler_that_has_ended_runs_no_more() -> None:
    """It belongs to a task, which shows it to everybody."""
    with memory_node() as (_, node):
        coroutines: list[Any] = []

        @node.node.handler("async")
        async def handle(message: Message) -> bytes:
            task = asyncio.current_task()
            assert task is not None
            coroutines.append(task.get_coro())
            return b""

        end = connect(node, "peer", "async")
        end.feed(frames.call(0, 1, b""))
        (coroutine,) = coroutines
        calls: list[Callable[[], object]] = [
            lambda: coroutine.send(None),
            lambda: next(coroutine),
            lambda: coroutine.throw(ValueError("late")),
        ]
        for call in calls:
            with pytest.raises(RuntimeError, match="has ended"):
                call()
        coroutine.close()
        assert [kind for kind, _ in written(end)].count(frames.REPLY) == 1


def test_messages_that_wait_for_their_lane_need_no_replies_read() -> None:
    with memory_node() as (loop, node):
        waiting, heavy = Waiting(loop), Waiting(loop)
        node.node.handler("large")(lambda message: bytes(400 << 10))
        node.node.handler("async")(waiting.one)
        node.node.handler("heavy")(heavy.one)
        end = connect(node, "peer", "large", "async", "heavy")
        for number, name in enumerate([b"large", b"async", b"heavy"]):
            end.feed(frames.endpoint(number, name, frames.BULK))
        end.feed(frames.message(2, bytes(MAX_UNDER_WAY_BYTES), frames.BULK))
        end.feed(frames.message(1, bytes(70_000), frames.BULK))
        assert waiting.begun == []
        # The peer reads none of these replies, so the last call is held back.
        for number in range(1, 7):
            end.feed(frames.call(0, number, b""))
        assert "held back" in end.protocol.unfinished()
        heavy.let_go()
        assert len(waiting.begun) == 1
        assert "held back" in end.protocol.unfinished()
        waiting.let_go()


def test_a_link_that_a_handler_closes_says_goodbye_when_batches_are_handed_over() -> (
    None
):
    with memory_node() as (_, node):
        got: list[bytes] = []

        @node.node.handler("batch", batch=True)
        def batch(messages: list[Message]) -> None:
            got.extend(message.payload for message in messages)

        @node.node.handler("closes")
        def closes(message: Message) -> None:
            end.protocol.begin_close(CloseReason.CLOSED)

        end = connect(node, "peer", "batch", "closes")
        written(end)
        end.feed(frames.message(0, b"1") + frames.message(1, b""))
        assert got == [b"1"]
        assert [kind for kind, _ in written(end)] == [frames.GOODBYE]


@pytest.mark.parametrize("batch", [False, True])
def test_a_task_factory_that_raises_ends_one_call(batch: bool) -> None:
    class Failing(TurnLoop):
        fails = False

        def create_task(self, coro: Any, **options: Any) -> asyncio.Task[Any]:
            if self.fails:
                raise OSError("no more tasks")
            return super().create_task(coro, **options)

    with memory_node(Failing) as (loop, node):
        assert isinstance(loop, Failing)
        waiting = Waiting(loop)
        handler = waiting.many if batch else waiting.one
        node.node.handler("bounded", batch=batch, concurrency=1)(handler)
        end = connect(node, "peer", "bounded")
        written(end)
        loop.fails = True
        end.feed(frames.confirm(0, 1, b"1"))
        ((kind, body),) = written(end)
        assert (kind, body[:4]) == (frames.ERROR, struct.pack(">I", 1))
        assert end.protocol.unfinished() == {}
        assert len(node.take_errors()) == 1
        loop.fails = False
        end.feed(frames.confirm(0, 2, b"2"))
        assert waiting.begun == [b"2"]
        waiting.let_go()
        assert end.protocol.unfinished() == {}
