"""Calls that are cancelled before their handlers begin."""

from __future__ import annotations

import asyncio
import gc
import struct

from fastnode import Message
from fastnode.link.machine import State
from helpers import frames
from helpers.memory import MemoryNode, running_loop
from helpers.nodes import A

WINDOW = 128 << 10


def test_guarantee_9_a_call_cancelled_before_it_begins_holds_nothing() -> None:
    """CALL and CANCEL in one segment: the handler's task never takes a step."""
    with running_loop() as loop:
        node = MemoryNode(loop, window=WINDOW)

        @node.node.handler("wait")
        async def wait(message: Message) -> bytes:
            await asyncio.Event().wait()
            return b""

        end = node.end()
        end.connect()
        end.feed(frames.hello(A))
        end.feed(frames.frame(frames.ACCEPT))
        end.feed(frames.frame(frames.ENDPOINT, b"wait", number=0))
        end.transport.take()
        sent = granted = 0
        for number in range(1, 20):
            call = frames.call(0, number, bytes(20_000))
            sent += len(call)
            end.feed(call + frames.frame(frames.CANCEL, struct.pack(">I", number)))
            written = end.transport.take()
            assert written[:1] in (b"", bytes([frames.CREDIT]))
            granted += int.from_bytes(written[8:12])
            assert end.state is State.UP, end.error
            assert sent - granted <= WINDOW // 2 + len(call)
        # A coroutine that nobody awaited says so when it is collected.
        gc.collect()
        node.finish()
