"""From `link.send` or `link.call` to the handler: links in memory, without TLS."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from fastnode import Link, Message
from link_pair import LinkPair

MESSAGES = {64: 1000, 1 << 10: 500, 16 << 10: 20}


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop of the benchmark's own, which runs between its clock readings only."""
    with asyncio.Runner() as runner:
        yield runner.get_loop()


async def made() -> tuple[LinkPair, Link, list[int]]:
    """Connected; the last one is how many messages came."""
    pair, seen = LinkPair(), [0]

    def sink(_: Message) -> None:
        seen[0] += 1

    async def task(_: Message) -> None:
        seen[0] += 1

    def echo(message: Message) -> bytes:
        return message.payload

    pair.registry.add("sink", sink)
    pair.registry.add("task", task)
    pair.registry.add("echo", echo)
    return pair, await pair.connected(), seen


async def closed(pair: LinkPair) -> None:
    """The loop has had a turn since."""
    pair.close()
    await asyncio.sleep(0)


@pytest.mark.parametrize("size", MESSAGES, ids=["64 B", "1 KiB", "16 KiB"])
@pytest.mark.parametrize("endpoint", ["sink", "task"], ids=["plain", "async"])
def test_one_way(
    benchmark: BenchmarkFixture,
    loop: asyncio.AbstractEventLoop,
    endpoint: str,
    size: int,
) -> None:
    """Messages to a plain handler, and to an asynchronous one."""
    pair, link, seen = loop.run_until_complete(made())
    payload, count = bytes(size), MESSAGES[size]

    async def work() -> None:
        for _ in range(count - 1):
            link.send(endpoint, payload)
            await link.drain()
        await link.send_confirmed(endpoint, payload)

    benchmark(lambda: loop.run_until_complete(work()))
    assert seen[0] >= count
    loop.run_until_complete(closed(pair))


@pytest.mark.parametrize("outstanding", [1, 64])
def test_call(
    benchmark: BenchmarkFixture, loop: asyncio.AbstractEventLoop, outstanding: int
) -> None:
    """Calls, so many at a time."""
    pair, link, _ = loop.run_until_complete(made())
    payload = bytes(64)

    async def work() -> None:
        calls = [link.call("echo", payload) for _ in range(outstanding)]
        for reply in await asyncio.gather(*calls):
            assert reply == payload

    benchmark(lambda: loop.run_until_complete(work()))
    loop.run_until_complete(closed(pair))
