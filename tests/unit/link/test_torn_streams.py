"""A link whose write fails: the stream may end inside of a frame."""

from __future__ import annotations

import pytest

from fastnode.link.machine import State
from helpers import frames
from helpers.memory import MemoryNode, running_loop
from helpers.nodes import A


@pytest.mark.parametrize("count", [1, 3])
def test_nothing_follows_a_write_that_failed(count: int) -> None:
    """A goodbye there would be taken for a part of a message."""
    with running_loop() as loop:
        node = MemoryNode(loop)
        end = node.end()
        failing = False
        kept = end.transport.write

        def write(data: bytes) -> None:
            if failing:
                kept(data[: len(data) // 2])
                raise OSError("half of it was written")
            kept(data)

        # The link keeps what it finds here when it is connected.
        end.transport.write = write  # type: ignore[method-assign]
        end.connect()
        end.feed(frames.hello(A))
        end.feed(frames.frame(frames.ACCEPT))
        assert end.state is State.UP
        loop.turn()
        end.transport.take()

        failing = True
        for _ in range(count):
            end.protocol.link.send("sink", bytes(1000))
        loop.turn()
        failing = False
        assert end.error is not None
        whole = count * (1000 + 8) + 8 + len("sink")
        assert len(end.transport.take()) == whole // 2
        node.take_errors()
        node.finish()
