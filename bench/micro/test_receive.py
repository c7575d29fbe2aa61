"""Receiving without TLS, socket and loop: bytes to the calls of a handler.

Fixed counts, so that instruction counters measure the same work every time.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from fastnode import Message

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from helpers import frames
from helpers.memory import MemoryEnd, MemoryNode, TurnLoop, running_loop
from helpers.nodes import A

#: What one read of a socket brings: four TLS records.
READ_BYTES = 64 << 10
SIZES = [64, 1 << 10]
IDS = ["64 B", "1 KiB"]
#: Numbers of the endpoints.
EACH, LISTS, ECHO = range(3)
CALLS = 64


@pytest.fixture
def end() -> Iterator[MemoryEnd]:
    """A link that is up, whose peer has named all endpoints."""
    with running_loop() as loop:
        node = MemoryNode(loop)

        @node.node.handler("each")
        def each(message: Message) -> None:
            """Takes one message."""

        @node.node.handler("lists", batch=True)
        def lists(messages: list[Message]) -> None:
            """Takes many."""

        @node.node.handler("echo")
        def echo(message: Message) -> bytes:
            return message.payload

        made = node.end()
        made.connect()
        made.feed(frames.hello(A))
        made.feed(frames.frame(frames.ACCEPT))
        for number, name in enumerate((b"each", b"lists", b"echo")):
            made.feed(frames.endpoint(number, name))
        yield made
        node.finish()


def read(end: MemoryEnd, data: bytes) -> None:
    """One read of the socket; what is written in answer is thrown away."""
    end.callbacks.get_buffer(-1)[: len(data)] = data
    end.callbacks.buffer_updated(len(data))
    end.transport.written.clear()


@pytest.mark.parametrize("endpoint", [EACH, LISTS], ids=["one by one", "batches"])
@pytest.mark.parametrize("size", SIZES, ids=IDS)
def test_messages(
    benchmark: BenchmarkFixture, end: MemoryEnd, size: int, endpoint: int
) -> None:
    """What one read brings, to the handler."""
    message = frames.message(endpoint, bytes(size))
    data = message * (READ_BYTES // len(message))
    benchmark(read, end, data)
    assert end.protocol.stats().messages_received % (READ_BYTES // len(message)) == 0


def test_calls(benchmark: BenchmarkFixture, end: MemoryEnd) -> None:
    """Calls that came together, and their replies."""
    last = 0
    turn = TurnLoop.turn

    def setup() -> tuple[tuple[MemoryEnd, bytes], dict[str, object]]:
        nonlocal last
        numbers = range(last + 1, last + 1 + CALLS)
        last += CALLS
        return (end, b"".join(frames.call(ECHO, n, bytes(64)) for n in numbers)), {}

    def calls(end: MemoryEnd, data: bytes) -> None:
        read(end, data)
        turn(end._loop)

    benchmark.pedantic(calls, setup=setup, rounds=200)  # type: ignore[no-untyped-call]
    assert end.protocol.stats().calls_received == last
