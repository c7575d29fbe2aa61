"""The test kit finds discoveries that do not behave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from fastnode import ConfigError
from fastnode.discovery import AnnouncedNode, StaticDiscovery, Target, kit


class Faulty(StaticDiscovery):
    """A discovery whose sets a fault changes.

    Args:
        fault: takes the iterator of a good discovery, returns that of a bad one.
    """

    def __init__(self, fault: Callable[..., AsyncIterator[Sequence[Target]]]) -> None:
        super().__init__({})
        self._fault = fault

    def watch(self, service: str) -> Any:
        return self._fault(super().watch(service))


class FaultySubject:
    def __init__(self, fault: Callable[..., AsyncIterator[Sequence[Target]]]) -> None:
        self.discovery = Faulty(fault)

    async def set_targets(self, service: str, targets: Sequence[Target]) -> None:
        self.discovery.update({service: targets})


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kit, "CHANGE_SECONDS", 0.1)


async def one_at_a_time(watch: Any) -> AsyncIterator[Sequence[Target]]:
    async for targets in watch:
        for target in targets:
            yield [target]


async def without_empty_sets(watch: Any) -> AsyncIterator[Sequence[Target]]:
    async for targets in watch:
        if targets:
            yield targets


async def only_the_first_set(watch: Any) -> AsyncIterator[Sequence[Target]]:
    yield await anext(watch)
    await asyncio.Event().wait()


async def tuples(watch: Any) -> AsyncIterator[Any]:
    async for targets in watch:
        yield [(target.host, target.port) for target in targets]


async def dies_when_cancelled(watch: Any) -> AsyncIterator[Sequence[Target]]:
    while True:
        yield await anext(watch)


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        (one_at_a_time, kit.first_set_comes),
        (without_empty_sets, kit.unknown_service_is_empty),
        (only_the_first_set, kit.changes_come),
        (only_the_first_set, kit.newest_set_counts),
        (only_the_first_set, kit.services_are_apart),
        (tuples, kit.first_set_comes),
        (dies_when_cancelled, kit.cancelled_reader_goes_on),
        (lambda watch: watch, kit.closed_watch_ends),
    ],
)
async def test_faults_are_found(
    fault: Callable[..., AsyncIterator[Sequence[Target]]], check: kit.Check
) -> None:
    subject = FaultySubject(fault)
    if check is kit.closed_watch_ends:  # a task that nobody ends
        waits = asyncio.Event()
        tasks = []

        def leaks(watch: Any) -> Any:
            tasks.append(asyncio.ensure_future(waits.wait()))
            return watch

        subject = FaultySubject(leaks)
    with pytest.raises((AssertionError, TimeoutError, StopAsyncIteration)):
        await check(subject)
    if check is kit.closed_watch_ends:
        waits.set()
        await asyncio.gather(*tasks)


async def test_names_that_are_not_checked_are_found() -> None:
    class Careless(StaticDiscovery):
        def watch(self, service: str) -> Any:
            return super().watch("billing")

    subject = FaultySubject(lambda watch: watch)
    subject.discovery = Careless({})  # type: ignore[assignment]
    with pytest.raises(AssertionError, match="was taken"):
        await kit.bad_names_are_refused(subject)


class Announces(StaticDiscovery):
    """Announces in memory; a fault says what it does wrong."""

    def __init__(self, fault: str) -> None:
        super().__init__({})
        self._fault = fault
        self._here: dict[str, list[Target]] = {}

    @asynccontextmanager
    async def announce(
        self, node: AnnouncedNode, services: Sequence[str]
    ) -> AsyncIterator[None]:
        if self._fault != "names":
            for service in services:
                self.watch(service)
        found = [Target(*each.advertised) for each in node.acceptors]
        if self._fault == "one acceptor":
            found = found[:1]
        if self._fault == "replaces":
            self._here.clear()
        for service in services[:1] if self._fault == "one service" else services:
            self._here.setdefault(service, []).extend(found)
        self._publish()
        try:
            yield
        except KeyError:
            if self._fault != "swallows":
                raise
        finally:
            if self._fault != "stays":
                for all_ in self._here.values():
                    all_[:] = [each for each in all_ if each not in found]
            self._publish()

    def _publish(self) -> None:
        if self._fault != "names":
            self.replace(self._here)


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        ("one acceptor", kit.announced_node_is_found),
        ("stays", kit.announced_node_is_found),
        ("one service", kit.several_nodes_are_announced),
        ("replaces", kit.several_nodes_are_announced),
        ("stays", kit.failed_body_leaves),
        ("swallows", kit.failed_body_leaves),
        ("names", kit.bad_announcements_are_refused),
    ],
)
async def test_faults_of_announcements_are_found(
    fault: str, check: kit.AnnounceCheck
) -> None:
    with pytest.raises((AssertionError, TimeoutError)):
        await check(Announces(fault))


@pytest.mark.parametrize("check", kit.ANNOUNCE_CHECKS)
async def test_an_announcement_without_fault_passes(check: kit.AnnounceCheck) -> None:
    try:
        await check(Announces("none"))
    except ConfigError as error:
        raise AssertionError("refused") from error
