"""Who blocks the loop is named."""

from __future__ import annotations

import time
from typing import Any

import pytest

from fastnode import Message, Peer
from helpers.nodes import WAIT_SECONDS, B, pair, running, until

#: Longer than a busy machine leaves a process waiting for a processor.
LIMIT = 0.2
#: Slower than that, whatever the steps of the clock.
SLOW = 0.25


def slow(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [text for text in caplog.messages if "blocked the loop" in text]


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
