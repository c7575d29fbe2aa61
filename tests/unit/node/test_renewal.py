"""When links are renewed, with a clock that stands still."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Coroutine
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastnode import HandshakeError, Side
from fastnode.limits import (
    RENEWAL_AGE_LEAST,
    RENEWAL_AGE_MOST,
    RENEWAL_PAUSE_SECONDS,
    RENEWAL_SPREAD_SECONDS,
)
from fastnode.link.machine import State
from fastnode.node import renewal
from fastnode.node.renewal import Renewal


class Timer:
    def __init__(self) -> None:
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Task:
    def __init__(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self.coroutine = coroutine

    def cancel(self) -> None:
        self.coroutine.close()


class Loop:
    """Timers, tasks and a clock. Tasks run when `run` is called."""

    def __init__(self) -> None:
        self.now = 0.0
        self._timers: list[tuple[float, int, Timer, Callable[..., None], Any]] = []
        self._count = count()
        self.tasks: list[Task] = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Any, *args: Any) -> Timer:
        timer = Timer()
        entry = (self.now + delay, next(self._count), timer, callback, args)
        heapq.heappush(self._timers, entry)
        return timer

    def call_soon_threadsafe(self, callback: Any, *args: Any) -> None:
        callback(*args)

    def create_task(self, coroutine: Coroutine[Any, Any, None]) -> Task:
        self.tasks.append(Task(coroutine))
        return self.tasks[-1]

    async def run(self, until: float) -> None:
        """Let the time pass."""
        while True:
            for task in self.tasks:
                await task.coroutine
            self.tasks.clear()
            if not self._timers or self._timers[0][0] > until:
                break
            self.now, _, timer, callback, args = heapq.heappop(self._timers)
            if not timer.cancelled:
                callback(*args)
        self.now = until


class Manager:
    """As a `CertManager`."""

    def __init__(self) -> None:
        self.certificate = 0
        self.watchers: list[Callable[[Manager], object]] = []

    def watch_certificate(self, callback: Callable[[Manager], object]) -> None:
        self.watchers.append(callback)

    def unwatch_certificate(self, callback: Callable[[Manager], object]) -> None:
        self.watchers.remove(callback)

    def update(self, certificate: int) -> None:
        self.certificate = certificate
        for callback in tuple(self.watchers):
            callback(self)


class Futurish:
    """A future that is done at once, or never."""

    def __init__(self) -> None:
        self.callbacks: list[Callable[[Any], object]] = []

    def add_done_callback(self, callback: Callable[[Any], object]) -> None:
        self.callbacks.append(callback)

    def cancelled(self) -> bool:
        return False

    def exception(self) -> None:
        return None

    def set(self) -> None:
        for callback in self.callbacks:
            callback(self)


class LinkLike:
    """As a `LinkProtocol`."""

    established: Any

    def __init__(self, **attributes: Any) -> None:
        vars(self).update(attributes)


class Bench:
    """A `Renewal` with links that are renewed at once."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, random: Callable[[], float], **how: Any
    ) -> None:
        self.loop = Loop()
        fake = SimpleNamespace(get_running_loop=lambda: self.loop)
        fake.timeout, fake.TimerHandle = asyncio.timeout, asyncio.TimerHandle
        monkeypatch.setattr(renewal, "asyncio", fake)
        self.manager = Manager()
        self.renewals: list[float] = []
        self.refuse = False
        self._numbers = count(1)
        how = {"certificates": True, "max_age": None, **how}
        self.renewal = Renewal("a@h", self.replace, random=random, **how)

    def link(self) -> Any:
        """A link that has just come up."""
        link = LinkLike(
            state=State.UP,
            extensions=SimpleNamespace(leaving=False),
            succession=SimpleNamespace(successor=None, agreed=True),
            established=Futurish(),
            gone=Futurish(),
            number=next(self._numbers),
            peer=None,
            peer_text=lambda: "b@h",
        )

        self.renewal.follow(link, self.manager, self.manager.certificate)  # type: ignore[arg-type]
        link.established.set()
        return link

    async def replace(self, old: Any) -> Any:
        self.renewals.append(self.loop.now)
        if self.refuse:
            raise HandshakeError("refused", side=Side.REMOTE)
        new = self.link()
        old.succession.successor = new
        old.state = State.CLOSED
        old.gone.set()
        return new


numbers = st.floats(0, 1, exclude_max=True)


@given(parts=st.lists(numbers, min_size=1, max_size=400))
def test_all_links_are_renewed_once_within_the_window(parts: list[float]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        bench = Bench(patch, iter(parts).__next__)
        for _ in parts:
            bench.link()
        bench.manager.update(1)
        window = min(len(parts) * RENEWAL_PAUSE_SECONDS, RENEWAL_SPREAD_SECONDS)
        asyncio.run(bench.loop.run(window))
        assert bench.renewals == sorted(window * part for part in parts)
        assert bench.renewal.stats.renewed == len(parts)
        # Nothing is left to do.
        asyncio.run(bench.loop.run(1e9))
        assert len(bench.renewals) == len(parts)
        assert len(bench.renewal._links) == len(parts)


@given(part=numbers, age=st.floats(0.01, 1e6))
def test_a_link_is_renewed_before_it_is_too_old(part: float, age: float) -> None:
    with pytest.MonkeyPatch.context() as patch:
        bench = Bench(patch, lambda: part, max_age=age)
        bench.link()
        asyncio.run(bench.loop.run(10 * age))
        pauses = [b - a for a, b in zip([0.0, *bench.renewals], bench.renewals)]  # noqa: B905
        assert 11 <= len(pauses) <= 14
        for pause in pauses:
            assert RENEWAL_AGE_LEAST * age * 0.999 <= pause
            assert pause <= RENEWAL_AGE_MOST * age * 1.001


def test_the_age_counts_when_the_old_certificate_is_in_use_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(monkeypatch, lambda: 0.5, max_age=100.0)
    bench.link()
    bench.manager.update(1)
    bench.manager.certificate = 0
    asyncio.run(bench.loop.run(80.0))
    assert bench.renewals == []
    asyncio.run(bench.loop.run(85.0))
    assert bench.renewals == [pytest.approx(82.5)]


def test_a_refused_renewal_backs_off(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, lambda: 0.0)
    monkeypatch.setattr("random.random", lambda: 1.0)
    link = bench.link()
    bench.refuse = True
    bench.manager.update(1)
    asyncio.run(bench.loop.run(3600.0))
    assert 2 < len(bench.renewals) < 3600
    assert bench.renewal.stats.failed == len(bench.renewals)
    bench.refuse = False
    asyncio.run(bench.loop.run(3700.0))
    assert link.succession.successor is not None
    assert bench.renewal.stats.renewed == 1


def test_a_peer_of_an_older_version_is_asked_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(monkeypatch, lambda: 0.0)
    bench.link().succession.agreed = False
    bench.refuse = True
    bench.manager.update(1)
    asyncio.run(bench.loop.run(1e6))
    assert len(bench.renewals) == 1


@pytest.mark.parametrize("gone", ["closed", "leaving", "replaced"])
def test_links_that_are_not_in_use_are_left_alone(
    gone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(monkeypatch, lambda: 0.5)
    link = bench.link()
    bench.manager.update(1)
    if gone == "closed":
        link.state = State.CLOSED
    elif gone == "leaving":
        link.extensions.leaving = True
    else:
        link.succession.successor = link
    asyncio.run(bench.loop.run(100.0))
    assert bench.renewals == []


def test_managers_are_watched_as_long_as_they_have_links(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(monkeypatch, lambda: 0.5)
    assert not bench.manager.watchers
    one, other = bench.link(), bench.link()
    assert len(bench.manager.watchers) == 1
    one.gone.set()
    assert len(bench.manager.watchers) == 1
    other.gone.set()
    assert not bench.manager.watchers
    bench.link()
    bench.renewal.stop()
    assert not bench.manager.watchers


def test_a_forked_child_renews_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, lambda: 0.0)
    bench.link()
    monkeypatch.setattr("os.getpid", lambda: -1)
    bench.manager.update(1)
    asyncio.run(bench.loop.run(100.0))
    assert bench.renewals == []
