"""Messages whose sender waits until they were handed to their handler."""

from __future__ import annotations

import asyncio
import logging

import pytest

from fastnode import (
    CallTimeout,
    LinkClosed,
    LinkLost,
    Message,
    MessageTooLarge,
    NoSuchEndpoint,
    RemoteError,
    SendQueueFull,
)
from helpers.nodes import WAIT_SECONDS, B, pair, until


@pytest.mark.parametrize("size", [0, 5, 70_000, 2_000_000])
async def test_returns_when_a_plain_handler_has_returned(size: int) -> None:
    async with pair() as (a, b):
        got: list[bytes] = []

        @b.handler("e")
        def handle(message: Message) -> bytes:
            got.append(message.payload)
            return b"dropped"

        link = await a.connect(B)
        for number in range(3):
            payload = bytes([number]) * size
            if number % 2:
                await a.send(B, "e", payload, confirm=True)
            else:
                await link.send_confirmed("e", bytearray(payload), timeout=WAIT_SECONDS)
            assert got == [bytes([n]) * size for n in range(number + 1)]
        assert link.stats.messages_sent == b.links[0].stats.messages_received == 3
        assert link.stats.calls_sent == b.links[0].stats.calls_received == 0


async def test_returns_when_an_async_handler_is_under_way() -> None:
    async with pair() as (a, b):
        permits = asyncio.Semaphore(0)
        begun: list[bytes] = []

        @b.handler("e", concurrency=1)
        async def handle(message: Message) -> None:
            begun.append(message.payload)
            await permits.acquire()

        await a.send(B, "e", b"1", confirm=True, timeout=WAIT_SECONDS)
        await until(lambda: begun == [b"1"])
        # The next has to wait for its turn; given up, it never begins.
        with pytest.raises(CallTimeout):
            await a.send(B, "e", b"2", confirm=True, timeout=0.05)
        third = asyncio.ensure_future(
            a.send(B, "e", b"3", confirm=True, timeout=WAIT_SECONDS)
        )
        await (await a.connect(B)).ping()
        assert not third.done()
        permits.release()
        await third
        await until(lambda: begun == [b"1", b"3"])
        permits.release()


async def test_says_why_not(caplog: pytest.LogCaptureFixture) -> None:
    async with pair(
        {"max_queued": 2 << 20}, {"max_message_size": 3 << 20, "window": 128 << 10}
    ) as (a, b):

        @b.handler("raises")
        def raises(message: Message) -> None:
            raise KeyError("why")

        @b.handler("raises later")
        async def later(message: Message) -> None:
            raise KeyError("unheard")

        link = await a.connect(B)
        with pytest.raises(NoSuchEndpoint, match="nobody"):
            await a.send(B, "nobody", b"", confirm=True)
        with caplog.at_level(logging.ERROR), pytest.raises(RemoteError) as caught:
            await link.send_confirmed("raises", b"")
        assert caught.value.type_name == "KeyError"
        assert "raises" in caplog.text
        await link.send_confirmed("raises later", b"")
        (other,) = b.links
        await until(lambda: other.stats.handler_errors == 2)
        assert other.stats.unhandled_messages == 1
        with pytest.raises(MessageTooLarge):
            await link.send_confirmed("raises", bytes((3 << 20) + 1))
        link.send("raises later", bytes(2 << 20))
        with pytest.raises(SendQueueFull):
            await link.send_confirmed("raises", bytes(2 << 20))


async def test_order_with_other_messages_and_calls() -> None:
    async with pair() as (a, b):
        got: list[bytes] = []
        b.handler("e")(lambda m: got.append(m.payload))
        link = await a.connect(B)
        waits: list[asyncio.Future[object]] = []
        for number in range(300):
            payload = b"%d" % number
            if number % 3 == 0:
                link.send("e", payload)
            elif number % 3 == 1:
                waits.append(asyncio.ensure_future(link.send_confirmed("e", payload)))
            else:
                waits.append(asyncio.ensure_future(link.call("e", payload)))
            await asyncio.sleep(0)  # it is queued when its task runs
        await asyncio.gather(*waits)
        assert got == [b"%d" % number for number in range(300)]


async def test_lost_links_and_closed_ones() -> None:
    async with pair() as (a, b):
        permits = asyncio.Semaphore(0)

        @b.handler("e", concurrency=1)
        async def handle(message: Message) -> None:
            await permits.acquire()

        link = await a.connect(B)
        link.send("e", b"")
        waiting = asyncio.ensure_future(link.send_confirmed("e", b""))
        await until(lambda: b.links and b.links[0].stats.messages_received == 2)
        for protocol in b._links:
            protocol.abort()
        with pytest.raises(LinkLost):
            await waiting
        with pytest.raises(LinkClosed):
            await link.send_confirmed("e", b"")
        permits.release()


async def test_timeouts_of_plain_sends() -> None:
    async with pair({"high_water": 1, "low_water": 0}, {"window": 128 << 10}) as (a, b):
        permits = asyncio.Semaphore(0)

        @b.handler("e")
        async def handle(message: Message) -> None:
            await permits.acquire()

        with pytest.raises(CallTimeout, match="beta"):
            for _ in range(100):
                await a.send(B, "e", bytes(10_000), timeout=0.2)
        for _ in range(100):
            permits.release()
