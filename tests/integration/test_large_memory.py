"""The memory of messages of 32 MiB and more: used again, given back, never shared."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path

import pytest

from fastnode import Message, Node
from fastnode.buffers.spares import Spares
from fastnode.limits import MAX_SPARES, MIB, SPARE_LEAST_BYTES
from helpers.nodes import B, pair, until

# 200 MiB each; the loop has no part in whose memory a payload is.
pytestmark = pytest.mark.one_loop
#: A sanitizer keeps what was freed.
SANITIZED = "LD_PRELOAD" in os.environ
SIZE = SPARE_LEAST_BYTES + MIB


def spares(node: Node) -> Spares:
    return node._context.pool.spares


def pattern(number: int, size: int = SIZE) -> bytes:
    """Another for each number, without a second one of that size."""
    return (bytes([number, 1, 2, 3, 4, 5, 6]) * (size // 7 + 1))[:size]


def digest(payload: bytes) -> bytes:
    return hashlib.sha256(payload).digest()


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.parametrize("kind", ["plain", "async", "call", "async call"])
async def test_it_is_used_again_and_goes_back(kind: str) -> None:
    async with pair() as (a, b):
        got: list[bytes] = []

        def plain(message: Message) -> bytes:
            got.append(digest(message.payload))
            # A handler may use its hash; the next payload has another.
            assert hash(message.payload) != 0
            return b"done"

        async def slow(message: Message) -> bytes:
            await asyncio.sleep(0)
            return plain(message)

        b.handler("e")(slow if kind.startswith("async") else plain)
        link = await a.connect(B)
        sizes = [SIZE, SIZE, SIZE + 5 * MIB, SIZE - MIB, SIZE]
        before = resident()
        for number, size in enumerate(sizes):
            payload = pattern(number, size)
            if kind.endswith("call"):
                assert await link.call("e", payload) == b"done"
            else:
                await link.send_confirmed("e", payload)
            await until(lambda: len(spares(b)) == 1)
            assert len(got) == number + 1
            assert got[-1] == digest(payload)
            assert spares(b).held == len(payload)
        assert len(spares(a)) <= MAX_SPARES
        del payload
        await until(lambda: not spares(a) and not spares(b))
        assert resident() - before < SIZE // 2 or SANITIZED


async def test_what_a_handler_keeps_never_changes() -> None:
    async with pair() as (a, b):
        kept: list[bytes] = []
        views: list[memoryview] = []

        @b.handler("e")
        def keep(message: Message) -> None:
            number = message.payload[0]
            if number % 3 == 0:
                kept.append(message.payload)
            elif number % 3 == 1:
                views.append(memoryview(message.payload)[1:])

        link = await a.connect(B)
        for number in range(7):
            await link.send_confirmed("e", pattern(number))
        assert [digest(payload) for payload in kept] == [
            digest(pattern(number)) for number in (0, 3, 6)
        ]
        assert [digest(bytes(view)) for view in views] == [
            digest(pattern(number)[1:]) for number in (1, 4)
        ]


async def test_what_a_sender_sends_and_keeps_never_changes() -> None:
    async with pair() as (a, b):
        b.handler("e")(lambda message: None)
        b.handler("echo")(lambda message: message.payload)
        link = await a.connect(B)
        payload = pattern(1)
        await link.send_confirmed("e", payload)
        # In and out: the same object is the message and its reply.
        echoed = await link.call("echo", payload)
        assert not spares(a)
        for number in range(2, 5):
            await link.send_confirmed("e", pattern(number))
        assert digest(payload) == digest(echoed) == digest(pattern(1))


async def test_what_a_sender_drops_goes_back() -> None:
    async with pair() as (a, b):
        b.handler("e")(lambda message: None)
        link = await a.connect(B)
        for number in range(3):
            link.send("e", pattern(number))
            await until(lambda: link.stats.queued_bytes == 0)
            assert 1 <= len(spares(a)) <= MAX_SPARES
        await until(lambda: not spares(a) and not spares(b))


async def test_a_node_that_has_stopped_holds_nothing() -> None:
    async with pair() as (a, b):
        b.handler("e")(lambda message: None)
        link = await a.connect(B)
        link.send("e", pattern(1))
        await until(lambda: spares(a) and spares(b))
        await a.stop()
        await b.stop()
        assert not spares(a)
        assert not spares(b)
