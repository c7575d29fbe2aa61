"""Cancellations that overtake their calls, and those that come too late."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastnode import Message
from fastnode.limits import MAX_EARLY_CANCELS
from helpers import frames
from helpers.memory import MemoryEnd, MemoryNode, running_loop
from helpers.nodes import A


@contextmanager
def called() -> Iterator[tuple[MemoryEnd, list[int], Any]]:
    """A link, the sizes of the calls that were handled, and its node."""
    handled: list[int] = []
    with running_loop() as loop:
        node = MemoryNode(loop)

        @node.node.handler("work")
        def work(message: Message) -> bytes:
            handled.append(len(message.payload))
            return b""

        end = node.end()
        end.connect()
        end.feed(frames.hello(A))
        end.feed(frames.frame(frames.ACCEPT))
        for lane in (frames.DATA, frames.BULK):
            end.feed(frames.endpoint(0, b"work", lane))
        yield end, handled, node
        node.finish()


def cancel(number: int) -> bytes:
    return frames.frame(frames.CANCEL, struct.pack(">I", number))


def test_guarantee_8_a_large_call_is_cancelled_though_a_later_one_came_first() -> None:
    """CANCEL overtakes the large call in another lane, and is not dropped."""
    large = frames.call(0, 1, bytes(100_000), frames.BULK)
    with called() as (end, handled, _):
        end.feed(large[: frames.MAX_FRAME])
        end.feed(frames.call(0, 2, b"small"))
        assert handled == [5]
        end.feed(cancel(1))
        end.feed(large[frames.MAX_FRAME :])
        assert handled == [5]
        end.feed(frames.call(0, 3, b"next"))
        assert handled == [5, 4]


def test_a_large_call_that_has_not_begun_to_arrive_is_cancelled_too() -> None:
    with called() as (end, handled, _):
        end.feed(frames.call(0, 2, b"small"))
        end.feed(cancel(1))
        end.feed(frames.call(0, 1, bytes(100_000), frames.BULK))
        assert handled == [5]


def test_a_cancellation_that_comes_too_late_cancels_nothing_else() -> None:
    with called() as (end, handled, _):
        for number in range(1, 100):
            end.feed(frames.call(0, number, b"x"))
            end.feed(cancel(number))
        assert len(handled) == 99


def test_guarantee_9_cancellations_without_calls_are_bounded() -> None:
    most = MAX_EARLY_CANCELS
    with called() as (end, handled, _):
        # The first of them make room for the last ones.
        end.feed(b"".join(cancel(number) for number in range(1, most + 101)))
        end.feed(b"".join(frames.call(0, n, b"x") for n in range(1, most + 102)))
        assert len(handled) == 101
