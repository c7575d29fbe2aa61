"""`fastnode.testing.FakeClock`: time that a test advances."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from fastnode import CallTimeout, ConfigError, Message, NetworkOptions, NodeOptions
from fastnode.testing import FakeClock, Network, pair
from helpers.nodes import WAIT_SECONDS

QUARTER = 900.0
HOUR = 3600.0


@pytest.mark.parametrize("frozen", [True, False])
async def test_a_sleep_ends_when_time_was_advanced(frozen: bool) -> None:
    with FakeClock(frozen=frozen) as clock:
        sleeps = asyncio.create_task(asyncio.sleep(HOUR, "rested"))
        await clock.advance(HOUR - 60)
        assert not sleeps.done()
        await clock.advance(60)
        assert sleeps.result() == "rested"


async def test_frozen_time_stands_still() -> None:
    loop = asyncio.get_running_loop()
    with FakeClock(frozen=True) as clock:
        began = loop.time()
        await asyncio.to_thread(time.sleep, 0.01)
        assert loop.time() == clock.time() == began
        await clock.advance(0)
        await clock.advance(7.5)
        assert loop.time() - began == 7.5


async def test_time_that_is_not_frozen_goes_on() -> None:
    with FakeClock() as clock:
        began = clock.time()
        await clock.advance(HOUR)
        async with asyncio.timeout(WAIT_SECONDS):
            await asyncio.sleep(0.01)
        # The time of uvloop has milliseconds.
        assert HOUR + 0.009 < clock.time() - began < HOUR + WAIT_SECONDS


async def test_a_task_that_sleeps_in_a_loop_sees_each_time() -> None:
    loop = asyncio.get_running_loop()
    with FakeClock(frozen=True) as clock:
        began, seen = loop.time(), []

        async def tick() -> None:
            while True:
                await asyncio.sleep(10)
                seen.append(loop.time() - began)

        ticks = asyncio.create_task(tick())
        await clock.advance(45)
        assert seen == [10, 20, 30, 40]
        ticks.cancel()
        await asyncio.wait([ticks])


async def test_timeouts_and_waits_expire() -> None:
    with FakeClock() as clock:

        async def waits() -> None:
            async with asyncio.timeout(30):
                await asyncio.Event().wait()

        one = asyncio.create_task(waits())
        other = asyncio.create_task(asyncio.wait_for(asyncio.Event().wait(), 40))
        await clock.advance(35)
        assert isinstance(one.exception(), TimeoutError)
        assert not other.done()
        await clock.advance(10)
        assert isinstance(other.exception(), TimeoutError)


async def test_a_timer_can_be_cancelled() -> None:
    loop = asyncio.get_running_loop()
    ran: list[str] = []
    with FakeClock(frozen=True) as clock:
        for name in ("kept", "cancelled"):
            timer = loop.call_later(5, ran.append, name)
        timer.cancel()
        assert timer.cancelled()
        # One that a timer of the same moment cancels does not run either.
        late: list[asyncio.TimerHandle] = []

        def cancel_late() -> None:
            late[0].cancel()

        loop.call_later(6, cancel_late)
        late.append(loop.call_later(6, ran.append, "late"))
        await clock.advance(10)
        assert ran == ["kept"]


async def test_timers_from_before_stay_in_real_time() -> None:
    """Above all the time limit of the test itself."""
    before = asyncio.create_task(asyncio.sleep(HOUR))
    soon = asyncio.create_task(asyncio.sleep(0.01))
    await asyncio.sleep(0)
    for frozen in (True, False):
        with FakeClock(frozen=frozen) as clock:
            await clock.advance(2 * HOUR)
            await soon
            await clock.advance(0)
            assert not before.done()
    before.cancel()
    await asyncio.wait([before])


async def test_timers_that_are_left_wait_for_the_rest_of_their_time() -> None:
    loop = asyncio.get_running_loop()
    with FakeClock() as clock:
        short = asyncio.create_task(asyncio.sleep(HOUR + 0.02))
        long = asyncio.create_task(asyncio.sleep(3 * HOUR))
        stopped = loop.call_later(HOUR, pytest.fail)
        await clock.advance(HOUR - 1)
        stopped.cancel()
        await clock.advance(1)
        assert not short.done()
    real = loop.time()
    assert abs(real - time.monotonic()) < WAIT_SECONDS
    await asyncio.wait_for(short, WAIT_SECONDS)
    assert not long.done()
    long.cancel()
    await asyncio.wait([long])


async def test_what_callbacks_raise_goes_to_the_loop() -> None:
    loop = asyncio.get_running_loop()
    told: list[Any] = []
    handler = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: told.append(context["exception"]))
    try:
        with FakeClock() as clock:
            loop.call_later(1, lambda: 1 / 0)
            await clock.advance(2)
    finally:
        loop.set_exception_handler(handler)
    assert [type(error) for error in told] == [ZeroDivisionError]


async def test_a_task_that_never_rests_does_not_stop_the_test() -> None:
    async def spin() -> None:
        while True:  # noqa: ASYNC110
            await asyncio.sleep(0)

    spins = asyncio.create_task(spin())
    with FakeClock() as clock:
        await clock.advance(1)
    spins.cancel()
    await asyncio.wait([spins])


async def test_wrong_use() -> None:
    clock = FakeClock()
    with pytest.raises(ConfigError, match="not in use"):
        await clock.advance(1)
    with clock:
        for another in (clock, FakeClock()):
            with pytest.raises(ConfigError, match="in use"), another:
                pass
        for seconds in (-1, "1", None, float("nan"), float("inf")):
            with pytest.raises(ConfigError):
                await clock.advance(seconds)  # type: ignore[arg-type]
    with clock:
        await clock.advance(1)


async def test_a_loop_that_cannot_be_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed:
        __slots__ = ("call_at", "call_later", "call_soon", "time")

    loop: Any = Closed()
    loop.call_at = loop.call_later = loop.call_soon = print
    loop.time = lambda: 0.0
    with monkeypatch.context() as patch:
        patch.setattr(asyncio, "get_running_loop", lambda: loop)
        with pytest.raises(ConfigError, match="Closed cannot have a fake clock"):
            FakeClock().__enter__()


async def test_an_error_of_the_test_gives_the_time_back() -> None:
    loop = asyncio.get_running_loop()
    with pytest.raises(RuntimeError), FakeClock() as clock:
        await clock.advance(HOUR)
        raise RuntimeError
    assert abs(loop.time() - time.monotonic()) < HOUR


# --- with nodes -----------------------------------------------------------------------


async def test_a_call_times_out_when_time_was_advanced() -> None:
    with FakeClock() as clock:
        async with pair() as (a, b):
            begun = asyncio.Event()

            @b.handler("slow")
            async def slow(message: Message) -> bytes:
                begun.set()
                await asyncio.sleep(2 * QUARTER)
                return b"at last"

            call = asyncio.create_task(a.call(b.name, "slow", b"", timeout=QUARTER))
            await begun.wait()
            await clock.advance(QUARTER - 60)
            assert not call.done()
            await clock.advance(60)
            with pytest.raises(CallTimeout):
                await call
            begun.clear()
            call = asyncio.create_task(a.call(b.name, "slow", b"", timeout=3 * QUARTER))
            await begun.wait()
            await clock.advance(2 * QUARTER)
            assert await call == b"at last"


async def test_links_outlive_a_jump_of_time() -> None:
    options = NodeOptions(network=NetworkOptions(keepalive_interval=1.0))
    async with pair(options=options) as (a, b):
        link = await a.connect(b.name)
        with FakeClock() as clock:
            await clock.advance(600)
            await link.ping()
        assert a.links == (link,)


async def test_a_delay_of_a_network_passes_when_time_is_advanced() -> None:
    network = Network()
    with FakeClock() as clock:
        async with pair(network=network) as (a, b):
            link = await a.connect(b.name)
            network.delay(a, b, HOUR)
            ping = asyncio.create_task(link.ping())
            # How soon the bytes are in the network depends on the machine.
            while not ping.done():
                await clock.advance(HOUR)
            await ping


async def test_a_keeper_dials_again_when_time_was_advanced() -> None:
    """Its pauses grow to half a minute, which no test waits for."""
    network = Network()
    with FakeClock() as clock:
        async with pair(network=network) as (a, b):
            keeper = a.keep_connected(b.name)
            link = await keeper.connected()
            network.cut(a, b)
            await link.wait_closed()
            # Each time it finds the connection refused, and waits for longer.
            for _ in range(10):
                last = keeper.error
                while keeper.error is last:
                    await clock.advance(1)
            network.restore()
            while keeper.link is None:
                await clock.advance(1)
