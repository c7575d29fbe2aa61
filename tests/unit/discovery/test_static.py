"""Targets that the program knows and replaces."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from fastnode import ConfigError
from fastnode.discovery import Discovery, StaticDiscovery, Target, kit


class StaticSubject:
    def __init__(self) -> None:
        self.discovery = StaticDiscovery({})

    async def set_targets(self, service: str, targets: Sequence[Target]) -> None:
        self.discovery.update({service: targets})


@pytest.mark.parametrize("check", kit.CHECKS)
async def test_kit(check: kit.Check) -> None:
    await check(StaticSubject())


async def test_tuples_stand_for_targets() -> None:
    discovery = StaticDiscovery({"s": [("10.0.0.1", 1), ("10.0.0.2", 2, 7)]})
    assert isinstance(discovery, Discovery)
    watch = discovery.watch("s")
    assert await anext(watch) == (Target("10.0.0.1", 1), Target("10.0.0.2", 2, 7))
    await watch.aclose()


async def test_replace_forgets_other_services_and_update_does_not() -> None:
    one = [Target("10.0.0.1", 1)]
    discovery = StaticDiscovery({"a": one, "b": one})
    a, b = discovery.watch("a"), discovery.watch("b")
    assert await anext(a) == await anext(b) == tuple(one)
    discovery.update({"a": []})
    assert await anext(a) == ()
    discovery.replace({"a": one})
    assert await anext(a) == tuple(one)
    assert await anext(b) == ()
    await a.aclose()
    await b.aclose()


async def test_another_thread_may_replace() -> None:
    discovery = StaticDiscovery({})
    watch = discovery.watch("s")
    assert await anext(watch) == ()
    waiting = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    mapping = {"s": [Target("10.0.0.1", 1)]}
    thread = threading.Thread(target=discovery.replace, args=(mapping,))
    thread.start()
    async with asyncio.timeout(30):
        assert await waiting == (Target("10.0.0.1", 1),)
    thread.join()
    await watch.aclose()


def test_a_loop_that_is_closed_hinders_nobody() -> None:
    discovery = StaticDiscovery({})
    loop = asyncio.new_event_loop()
    watch = discovery.watch("s")
    loop.run_until_complete(anext(watch))
    loop.run_until_complete(watch.aclose())
    loop.close()
    discovery.replace({})


@pytest.mark.parametrize(
    "mapping",
    [
        None,
        [("s", [])],
        {"a b": []},
        {3: []},
        {"s": "10.0.0.1:15000"},
        {"s": Target("10.0.0.1", 1)},
        {"s": 5},
        {"s": ["10.0.0.1"]},
        {"s": [("10.0.0.1", 0)]},
    ],
)
def test_bad_mappings_change_nothing(mapping: object) -> None:
    discovery = StaticDiscovery({"s": [("10.0.0.1", 1)]})
    with pytest.raises(ConfigError):
        StaticDiscovery(mapping)  # type: ignore[arg-type]
    with pytest.raises(ConfigError):
        discovery.replace(mapping)  # type: ignore[arg-type]
    with pytest.raises(ConfigError):
        discovery.update(mapping)  # type: ignore[arg-type]
    assert repr(discovery) == "<StaticDiscovery: 1 services>"
