"""The iterator of a discovery: the newest set counts, and failures end nothing."""

from __future__ import annotations

import asyncio
import gc
import logging

import pytest

from fastnode import ConfigError
from fastnode.discovery import StaticDiscovery, Target
from fastnode.discovery.watch import Publish, Watch
from fastnode.limits import MAX_TARGETS

ONE, TWO = Target("10.0.0.1", 1), Target("10.0.0.2", 1)


async def test_sets_that_do_not_differ_come_once() -> None:
    step = asyncio.Event()

    async def follow(publish: Publish) -> None:
        publish([TWO, ONE])
        publish([ONE, TWO])
        publish([ONE, TWO, ONE])
        await step.wait()
        publish([TWO])
        await asyncio.Event().wait()

    watch = Watch("s", follow)
    assert await anext(watch) == (ONE, TWO)
    waiting = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    assert not waiting.done()
    step.set()
    assert await waiting == (TWO,)
    await watch.aclose()


async def test_failures_keep_the_last_set(caplog: pytest.LogCaptureFixture) -> None:
    tries = 0

    async def follow(publish: Publish) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise OSError("no directory")
        if tries == 2:
            publish([ONE])
            return
        if tries == 3:
            raise asyncio.CancelledError
        if tries == 4:
            raise BaseExceptionGroup("bad", [GeneratorExit()])
        publish([TWO])
        await asyncio.Event().wait()

    watch = Watch("s", follow, first=0.001, most=0.002)
    with caplog.at_level(logging.WARNING, "fastnode.discovery"):
        assert await anext(watch) == (ONE,)
        assert await anext(watch) == (TWO,)
    assert tries == 5
    assert watch.error is None
    assert "service s cannot be followed, and has no targets yet" in caplog.text
    assert "no directory" in caplog.text
    assert "its last targets stay valid" in caplog.text
    assert "CancelledError" in caplog.text
    assert "BaseExceptionGroup" in caplog.text
    await watch.aclose()


async def test_closing_ends_a_reader_that_waits() -> None:
    watch = StaticDiscovery({}).watch("s")
    assert await anext(watch) == ()
    waiting = asyncio.ensure_future(anext(watch, None))
    await asyncio.sleep(0)
    await watch.aclose()
    assert await waiting is None
    with pytest.raises(StopAsyncIteration):
        await anext(watch)
    await watch.aclose()


async def test_a_watch_that_was_closed_before_it_began_follows_nothing() -> None:
    watch = StaticDiscovery({}).watch("s")
    await watch.aclose()
    with pytest.raises(StopAsyncIteration):
        await anext(watch)


async def test_a_forgotten_watch_ends_its_task() -> None:
    before = asyncio.all_tasks()
    watch = StaticDiscovery({"s": [ONE]}).watch("s")
    assert await anext(watch) == (ONE,)
    [task] = asyncio.all_tasks() - before
    del watch
    gc.collect()
    await asyncio.wait([task], timeout=30)
    assert task.cancelled()


async def test_a_set_has_a_bound(caplog: pytest.LogCaptureFixture) -> None:
    many = [Target(f"10.1.{n >> 8}.{n & 255}", 1) for n in range(MAX_TARGETS + 1)]
    watch = StaticDiscovery({"s": many}).watch("s")
    with caplog.at_level(logging.WARNING, "fastnode.discovery"):
        assert len(await anext(watch)) == MAX_TARGETS
    assert f"only the first {MAX_TARGETS} are used" in caplog.text
    await watch.aclose()


async def test_the_log_is_limited_and_the_reason_can_be_asked_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tried = asyncio.Event()
    tries = 0

    async def follow(publish: Publish) -> None:
        nonlocal tries
        tries += 1
        if tries == 5:
            tried.set()
        publish([("10.0.0.1", 1)])  # type: ignore[list-item]

    watch = Watch("s", follow, where="nowhere", first=0.001, most=0.001)
    assert watch.error is None
    with caplog.at_level(logging.WARNING, "fastnode.discovery"):
        waiting = asyncio.ensure_future(anext(watch, None))
        async with asyncio.timeout(30):
            await tried.wait()
        assert isinstance(watch.error, ConfigError)
    assert len(caplog.records) == 1
    [record] = caplog.records
    assert "service s nowhere cannot be followed" in record.message
    assert (record.event, record.service) == ("discovery_failed", "s")
    await watch.aclose()
    assert await waiting is None


def test_the_name_of_a_service_is_checked() -> None:
    with pytest.raises(ConfigError):
        StaticDiscovery({}).watch("a b")
    with pytest.raises(ConfigError):
        Watch("a b", lambda publish: asyncio.sleep(0))
