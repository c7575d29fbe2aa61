"""Who blocks the loop is named."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from functools import partial
from typing import Any

import pytest

from fastnode import Message, Peer, RemoteError
from helpers.nodes import WAIT_SECONDS, B, pair, running, until

#: Longer than a busy machine leaves a process waiting for a processor.
LIMIT = 0.2
#: Slower than that, whatever the steps of the clock.
SLOW = 0.25


def slow(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [text for text in caplog.messages if "blocked the loop" in text]


def block() -> None:
    time.sleep(SLOW)


def any_says(caplog: pytest.LogCaptureFixture, words: str) -> bool:
    return any(words in text for text in slow(caplog))


async def test_a_handler_that_blocks_is_named(caplog: pytest.LogCaptureFixture) -> None:
    async with pair({}, {"slow_callback_seconds": LIMIT}) as (a, b):

        @b.handler("sleeps")
        def sleeps(message: Message) -> bytes:
            time.sleep(SLOW)
            return b""

        b.handler("quick")(lambda m: m.payload)
        link = await a.connect(B)
        await link.call("quick", b"", timeout=WAIT_SECONDS)
        await link.call("sleeps", b"", timeout=WAIT_SECONDS)
        (said,) = (text for text in slow(caplog) if "the handler of 'sleeps'" in text)
        assert "alpha@127.0.0.1" in said
        # Among others in one record: from now on each is timed.
        caplog.clear()
        for _ in range(3):
            link.send("quick", b"")
            link.send("sleeps", b"")
        await link.call("quick", b"", timeout=WAIT_SECONDS)
        await until(lambda: b.links[0].stats.messages_received == 6)
        assert all("'sleeps'" in text for text in slow(caplog))


async def test_numbers_of_endpoints_are_those_of_their_lane(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Number 0 of the lane of high priority is another endpoint than of the normal."""
    async with pair({}, {"slow_callback_seconds": LIMIT}) as (a, b):
        b.handler("quick")(lambda m: m.payload)
        b.handler("sleeps")(lambda m: block())
        link = await a.connect(B)
        await link.call("quick", b"", timeout=WAIT_SECONDS)
        link.send("sleeps", b"", priority="high")
        await until(lambda: slow(caplog))
        assert "'sleeps'" in slow(caplog)[0]
        assert "'quick'" not in slow(caplog)[0]


@pytest.mark.parametrize("priority", [None, "high"])
async def test_confirmed_messages_that_block_are_named(
    priority: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with pair({}, {"slow_callback_seconds": LIMIT}) as (a, b):
        b.handler("sleeps")(lambda m: block())
        link = await a.connect(B)
        await link.send_confirmed(
            "sleeps", b"", timeout=WAIT_SECONDS, priority=priority
        )
        assert "the handler of 'sleeps'" in slow(caplog)[0]


async def test_several_in_one_record(caplog: pytest.LogCaptureFixture) -> None:
    async with pair({}, {"slow_callback_seconds": LIMIT}) as (a, b):
        b.handler("sleeps")(lambda m: time.sleep(SLOW))
        b.handler("quick")(lambda m: m.payload)
        link = await a.connect(B)
        link.send("quick", b"")
        link.send("sleeps", b"")
        await link.call("quick", b"", timeout=WAIT_SECONDS)
        assert "'sleeps'" in slow(caplog)[0]


async def test_it_can_be_turned_off(caplog: pytest.LogCaptureFixture) -> None:
    async with pair({}, {"slow_callback_seconds": None}) as (a, b):
        b.handler("sleeps")(lambda m: time.sleep(SLOW))
        await a.call(B, "sleeps", b"", timeout=WAIT_SECONDS)
    assert not slow(caplog)


async def test_hooks_that_block_are_named(caplog: pytest.LogCaptureFixture) -> None:
    def authorize(peer: Peer) -> bool:
        time.sleep(SLOW)
        return False

    def told(refusal: Any) -> None:
        time.sleep(SLOW)

    options = {"authorize": authorize, "on_refused": told}
    async with running(B, slow_callback_seconds=LIMIT, **options) as b:

        def resolve(name: str) -> list[tuple[str, int]]:
            time.sleep(SLOW)
            return [b.acceptors[0].address]

        async with running(
            "alpha@127.0.0.1", listens=False, resolver=resolve,
            slow_callback_seconds=LIMIT,
        ) as a:  # fmt: skip
            with pytest.raises(ConnectionError):
                await a.connect(B)
    for name in ("authorize", "on_refused", "resolver"):
        assert any(f"the {name} hook blocked" in text for text in slow(caplog)), name


async def test_asynchronous_handlers_that_block_are_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with pair({}, {"slow_callback_seconds": LIMIT}) as (a, b):

        @b.handler("first")
        async def first(_: Message) -> None:
            block()

        @b.handler("later")
        async def later(_: Message) -> None:
            await asyncio.sleep(0)
            block()

        @b.handler("raises")
        async def raises(_: Message) -> None:
            block()
            raise ValueError

        @b.handler("waits")
        async def waits(_: Message) -> None:
            await asyncio.sleep(SLOW)

        link = await a.connect(B)
        for name in ("first", "later", "waits"):
            await link.call(name, b"", timeout=WAIT_SECONDS)
        with pytest.raises(RemoteError):
            await link.call("raises", b"", timeout=WAIT_SECONDS)
    for name in ("first", "later", "raises"):
        assert any(f"handler of '{name}' blocked" in text for text in slow(caplog)), (
            name
        )
    assert not any("'waits'" in text for text in slow(caplog))


async def test_handlers_that_were_waiting_are_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with pair({}, {"slow_callback_seconds": LIMIT}) as (a, b):
        go_on = asyncio.Event()

        async def wait() -> None:
            await go_on.wait()

        @b.handler("bounded", concurrency=1)
        def bounded(message: Message) -> Awaitable[None] | None:
            if not message.payload:
                return wait()
            block()
            return None

        @b.handler("batch", batch=True)
        def batch(_: list[Message]) -> None:
            time.sleep(SLOW)

        link = await a.connect(B)
        waiting = [asyncio.ensure_future(link.call("bounded", p)) for p in (b"", b"x")]
        await until(lambda: b.links and b.links[0].stats.calls_received == 2)
        go_on.set()
        await asyncio.gather(*waiting)
        await link.send_confirmed("batch", b"")
    for name in ("bounded", "batch"):
        assert any(f"handler of '{name}'" in text for text in slow(caplog)), name


async def test_callbacks_for_links_that_block_are_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    options: dict[str, Any] = {
        "slow_callback_seconds": LIMIT,
        "on_link_up": lambda link: time.sleep(SLOW),
        "on_link_down": lambda link, reason: time.sleep(SLOW),
    }
    async with pair({}, options) as (a, _):
        await (await a.connect(B)).close()
        for name in ("on_link_up", "on_link_down"):
            said = f"the {name} hook blocked"
            await until(partial(any_says, caplog, said))
