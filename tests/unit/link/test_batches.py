"""Batch endpoints of a link in memory: what is in a batch, and when it goes out."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastnode import Message
from fastnode.errors import CloseReason
from fastnode.limits import MAX_BATCH_BYTES, MAX_BATCH_MESSAGES
from fastnode.link.machine import State
from helpers import frames
from helpers.memory import MemoryEnd, MemoryNode, TurnLoop, running_loop
from helpers.nodes import A

#: Endpoints by their numbers: two that take batches, one that does not.
BATCH, OTHER_BATCH, PLAIN = range(3)
NAMES = [b"batch", b"other batch", b"plain"]
SIZES = st.sampled_from([0, 1, 64, 1000, MAX_BATCH_BYTES - 1, MAX_BATCH_BYTES, 70_000])


class Receiver:
    """What was handed over, in its order.

    Attributes:
        batches: endpoint and payloads of each call of a handler.
    """

    def __init__(self, node: MemoryNode) -> None:
        self.batches: list[tuple[int, list[bytes]]] = []
        for number in (BATCH, OTHER_BATCH):
            name = NAMES[number].decode()

            @node.node.handler(name, batch=True)
            def handle(messages: list[Message], number: int = number) -> None:
                assert {m.endpoint for m in messages} == {NAMES[number].decode()}
                assert {m.sender.name for m in messages} == {A}
                self.batches.append((number, [m.payload for m in messages]))

        @node.node.handler("plain")
        def plain(message: Message) -> bytes:
            self.batches.append((PLAIN, [message.payload]))
            return b"reply"

    def of(self, number: int) -> list[bytes]:
        """All payloads that one endpoint was given."""
        return [
            each for to, payloads in self.batches if to == number for each in payloads
        ]


@contextmanager
def link_up() -> Iterator[tuple[TurnLoop, MemoryNode, MemoryEnd]]:
    """A link whose peer has named the three endpoints."""
    with running_loop() as loop:
        node = MemoryNode(loop)
        end = node.end()
        end.connect()
        end.feed(frames.hello(A))
        end.feed(frames.frame(frames.ACCEPT))
        for number, name in enumerate(NAMES):
            end.feed(frames.endpoint(number, name))
        assert end.state is State.UP
        yield loop, node, end
        node.finish()


@settings(deadline=None)
@given(
    sent=st.lists(st.tuples(st.integers(BATCH, PLAIN), SIZES), max_size=12),
    piece=st.sampled_from([0, 1, 7, 1000, 16 << 10]),
)
def test_nothing_is_lost_doubled_or_overtaken(
    sent: list[tuple[int, int]], piece: int
) -> None:
    """However it is cut, down to single bytes where there are few of them."""
    if piece < 1000 and sum(size for _, size in sent) > 10_000:
        piece *= 1000
    payloads = [
        (to, bytes([number]) + bytes(size)) for number, (to, size) in enumerate(sent)
    ]
    with link_up() as (_, node, end):
        receiver = Receiver(node)
        end.feed(b"".join(frames.message(*each) for each in payloads), piece)
        for number in range(3):
            assert receiver.of(number) == [p for to, p in payloads if to == number]
        for _, batch in receiver.batches:
            assert 0 < len(batch) <= MAX_BATCH_MESSAGES
            assert sum(map(len, batch[:-1])) < MAX_BATCH_BYTES


def test_what_came_together_is_handed_over_together() -> None:
    with link_up() as (_, node, end):
        receiver = Receiver(node)
        both = frames.message(BATCH, b"a") + frames.message(OTHER_BATCH, b"b")
        end.feed(both + frames.message(PLAIN, b"p") + both)
        # Those gathered for one endpoint do not wait for those of another.
        assert receiver.batches == [
            (PLAIN, [b"p"]), (BATCH, [b"a", b"a"]), (OTHER_BATCH, [b"b", b"b"]),
        ]  # fmt: skip
        end.feed(frames.message(BATCH, b"c"))
        assert receiver.batches[3:] == [(BATCH, [b"c"])]


@pytest.mark.parametrize("size", [0, 64, MAX_BATCH_BYTES // 4])
def test_a_full_batch_is_handed_over_at_once(size: int) -> None:
    most = min(
        MAX_BATCH_MESSAGES, MAX_BATCH_BYTES // size if size else MAX_BATCH_MESSAGES
    )
    count = 2 * most + 1
    with link_up() as (_, node, end):
        receiver = Receiver(node)
        end.feed(frames.message(BATCH, bytes(size)) * count)
        sizes = [len(batch) for _, batch in receiver.batches]
        assert sum(sizes) == count
        assert max(sizes) <= most


def test_a_call_overtakes_no_batch() -> None:
    with link_up() as (_, node, end):
        receiver = Receiver(node)
        data = frames.message(BATCH, b"1") + frames.call(PLAIN, 1, b"2")
        end.feed(data + frames.message(BATCH, b"3"))
        assert receiver.batches == [(BATCH, [b"1"]), (PLAIN, [b"2"]), (BATCH, [b"3"])]


@pytest.mark.parametrize(
    "last",
    [frames.frame(99), frames.frame(frames.GOODBYE, frames.reason(1))],
    ids=["nonsense", "goodbye"],
)
def test_what_came_before_the_end_is_handed_over(last: bytes) -> None:
    with link_up() as (_, node, end):
        receiver = Receiver(node)
        end.feed(frames.message(BATCH, b"1") * 3 + last)
        assert receiver.batches == [(BATCH, [b"1"] * 3)]


def test_a_handler_may_end_the_link() -> None:
    with link_up() as (_, node, end):
        calls = []

        @node.node.handler("batch", batch=True)
        def handle(messages: list[Message]) -> None:
            calls.append(len(messages))
            end.protocol.begin_close(CloseReason.CLOSED)
            end.protocol.connection_lost(None)
            end.transport.aborted = True

        @node.node.handler("plain")
        def plain(message: Message) -> None:
            raise AssertionError("the link has ended")

        end.feed(frames.message(BATCH, b"1") * 2 + frames.call(PLAIN, 1, b""))
        assert calls == [2]


@settings(deadline=None)
@given(
    piece=st.sampled_from([0, 1, 50]), counts=st.lists(st.integers(1, 40), max_size=6)
)
def test_of_an_async_handler_one_batch_is_under_way(
    piece: int, counts: list[int]
) -> None:
    with link_up() as (loop, node, end):
        begun: list[list[bytes]] = []
        gates: list[asyncio.Future[None]] = []

        @node.node.handler("batch", batch=True)
        async def handle(messages: list[Message]) -> None:
            begun.append([m.payload for m in messages])
            gates.append(loop.create_future())
            await gates[-1]

        sent = []
        for round_, count in enumerate(counts):
            payloads = [bytes([round_, number]) for number in range(count)]
            sent += payloads
            end.feed(b"".join(frames.message(BATCH, p) for p in payloads), piece)
            assert len(begun) == 1
        held = len(sent) > len(begun[0]) if begun else False
        while gates:
            gates.pop(0).set_result(None)
            loop.turn()
            assert len(gates) <= 1
        assert [p for batch in begun for p in batch] == sent
        if held:
            # What came meanwhile was handed over together.
            assert len(begun) == 2
        assert end.protocol.running == 0


def test_what_was_parked_is_handed_over_too() -> None:
    """While the peer does not read its replies, nothing is handled, batches too."""
    with link_up() as (loop, node, end):
        receiver = Receiver(node)
        node.node.handler("large")(lambda message: bytes(60_000))
        end.feed(frames.endpoint(3, b"large"))
        end.callbacks.pause_writing()
        for number in range(1, 31):
            end.feed(frames.call(3, number, b""))
        end.feed(frames.confirm(BATCH, 31, b"1"))
        end.feed(frames.message(BATCH, b"2") + frames.call(PLAIN, 32, b"3"))
        end.feed(frames.message(BATCH, b"4"))
        assert receiver.batches == []
        end.callbacks.resume_writing()
        loop.turn()
        assert receiver.of(BATCH) == [b"1", b"2", b"4"]
        assert receiver.of(PLAIN) == [b"3"]
        assert end.protocol.stats().queued_bytes == 0


def test_a_kept_message_is_not_used_again() -> None:
    with link_up() as (_, node, end):
        kept = []

        @node.node.handler("plain")
        def plain(message: Message) -> None:
            if message.payload != b"drop":
                kept.append(message)

        payloads = [b"1", b"drop", b"2", b"drop", b"drop", b"3"]
        end.feed(b"".join(frames.message(PLAIN, p) for p in payloads))
        assert [m.payload for m in kept] == [b"1", b"2", b"3"]
        assert {m.endpoint for m in kept} == {"plain"}
        assert len(set(map(id, kept))) == 3
