"""How much a connection reads before others on its loop have a turn."""

from __future__ import annotations

import pytest

from fastnode.link.machine import State
from helpers import frames
from helpers.memory import MemoryNode, MemoryTransport, running_loop
from helpers.nodes import A


class PausedTransport(MemoryTransport):
    """Notes whether it is to read."""

    reads = True

    def is_closing(self) -> bool:
        return self.aborted

    def pause_reading(self) -> None:
        assert self.reads
        self.reads = False

    def resume_reading(self) -> None:
        assert not self.reads
        self.reads = True


@pytest.mark.parametrize("gone", [False, True])
def test_who_fills_the_buffer_twice_waits_for_the_next_turn(*, gone: bool) -> None:
    with running_loop() as loop:
        node = MemoryNode(loop)
        end = node.end()
        transport = end.transport = PausedTransport()
        end.connect()
        end.feed(frames.hello(A))
        end.feed(frames.frame(frames.ACCEPT))
        end.feed(frames.endpoint(0, b"e", frames.BULK))
        data = frames.message(0, bytes(600_000), frames.BULK)
        view = end.callbacks.get_buffer(-1)
        at = 0
        for size, reads in ((len(view), True), (1000, True), (len(view), False)):
            view[:size] = data[at : at + size]
            end.callbacks.buffer_updated(size)
            at += size
            assert transport.reads is reads
        if gone:
            transport.aborted = True
        loop.turn()
        assert transport.reads is not gone
        # A turn has passed: it begins anew.
        loop.turn()
        assert end.state is State.UP
        transport.aborted = False
        end.feed(data[at:])
        assert end.protocol.stats().messages_received == 1
        node.finish()
