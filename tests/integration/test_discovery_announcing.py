"""Nodes are announced while they are ready, and no discovery stops a node."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from fastnode import AcceptorOptions, ConfigError, NetworkOptions, Node
from fastnode.backoff import Backoff
from fastnode.discovery import AnnouncedNode, LocalDiscovery, StaticDiscovery, Target
from fastnode.node import announcer as announcer_module
from fastnode.node.departure import Departure
from helpers.nodes import WAIT_SECONDS, A, running, until


class Recorder:
    """A discovery that writes down what is announced, and fails as it is told.

    Attributes:
        here: the targets that are announced.
        entered: how often a node was announced.
        failures: raised by the next announcements, None: not raised.
        leaving: raised by the next end of an announcement.
    """

    def __init__(self, *failures: BaseException | None) -> None:
        self.here: list[tuple[Target, ...]] = []
        self.services: Sequence[str] = ()
        self.entered = 0
        self.failures = list(failures)
        self.leaving: BaseException | None = None
        self.broken = asyncio.Event()

    def watch(self, service: str) -> AsyncIterator[Sequence[Target]]:
        raise AssertionError(service)

    @asynccontextmanager
    async def announce(
        self, node: AnnouncedNode, services: Sequence[str]
    ) -> AsyncIterator[None]:
        self.entered += 1
        failure = self.failures.pop(0) if self.failures else None
        if failure is not None:
            raise failure
        targets = tuple(Target(*each.advertised) for each in node.acceptors)
        self.services = services
        self.here.append(targets)
        try:
            yield
        finally:
            self.here.remove(targets)
            if self.leaving is not None:
                raise self.leaving


class Hanging(Recorder):
    """A discovery that never comes to an end."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where
        self.stubborn = True

    @asynccontextmanager
    async def announce(
        self, node: AnnouncedNode, services: Sequence[str]
    ) -> AsyncIterator[None]:
        self.entered += 1
        if self.where == "entering":
            await asyncio.Event().wait()
        yield
        if self.where == "leaving":
            await asyncio.Event().wait()
        while self.where == "swallowing" and self.stubborn:
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                continue


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses and limits are short."""
    monkeypatch.setattr(
        announcer_module, "Backoff", lambda: Backoff(first=0.001, most=0.01)
    )


def the_announcer(node: Node) -> announcer_module.Announcer:
    announcer = node._announcer
    assert announcer is not None
    return announcer


async def test_a_node_is_announced_from_its_start_to_its_stop() -> None:
    discovery = Recorder()
    async with running("billing@127.0.0.1", discovery=discovery) as node:
        await until(lambda: discovery.here)
        assert discovery.here == [(Target("127.0.0.1", node.acceptors[0].address[1]),)]
        assert list(discovery.services) == ["billing"]
        assert the_announcer(node).announced
    assert not discovery.here
    assert discovery.entered == 1
    assert not the_announcer(node).announced


async def test_a_node_is_withdrawn_before_its_peers_are_told() -> None:
    discovery = Recorder()
    here: list[bool] = []
    leave = Departure.leave

    def recorded(self: Departure, stop_dialing: Any) -> Any:
        here.append(bool(discovery.here))
        return leave(self, stop_dialing)

    with mock.patch.object(Departure, "leave", recorded):
        async with running(A, discovery=discovery):
            await until(lambda: discovery.here)
    assert here == [False]


async def test_readiness_comes_and_goes() -> None:
    discovery = Recorder()
    async with running(A, discovery=discovery) as node:
        announcer = the_announcer(node)
        for n in range(1, 4):
            await until(lambda: discovery.here)
            assert discovery.entered == n
            announcer.ready_changed(ready=False)
            await until(lambda: not discovery.here)
            announcer.ready_changed(ready=True)
        await until(lambda: discovery.here)


@pytest.mark.parametrize(
    "failure",
    [
        OSError("no directory"),
        ConfigError("no"),
        asyncio.CancelledError(),
        BaseExceptionGroup("several", [ValueError(), GeneratorExit()]),
        TimeoutError(),
    ],
    ids=repr,
)
async def test_failures_are_logged_and_tried_again(
    failure: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    discovery = Recorder(failure, failure)
    with caplog.at_level(logging.WARNING, "fastnode.node"):
        async with running(A, discovery=discovery):
            await until(lambda: discovery.here)
    assert discovery.entered == 3
    assert f"{A} cannot be announced by Recorder" in caplog.text


async def test_a_failed_withdrawal_stops_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    discovery = Recorder()
    discovery.leaving = OSError("no directory")
    with caplog.at_level(logging.WARNING, "fastnode.node"):
        async with running(A, discovery=discovery):
            await until(lambda: discovery.here)
    assert not discovery.here
    assert f"{A} cannot be withdrawn by Recorder: OSError: no directory" in caplog.text


async def test_an_announcement_that_fails_by_itself_is_made_again() -> None:
    discovery = Recorder()
    breaks = asyncio.Event()
    announce = discovery.announce

    @asynccontextmanager
    async def with_group(
        node: AnnouncedNode, services: Sequence[str]
    ) -> AsyncIterator[None]:
        async def fail() -> None:
            await breaks.wait()
            raise OSError("the lease is lost")

        async with asyncio.TaskGroup() as group, announce(node, services):
            task = group.create_task(fail())
            yield
            task.cancel()

    with mock.patch.object(discovery, "announce", with_group):
        async with running(A, discovery=discovery):
            await until(lambda: discovery.here)
            breaks.set()
            await until(lambda: discovery.entered > 1)
            breaks.clear()
            await until(lambda: discovery.here)


@pytest.mark.parametrize("where", ["entering", "leaving", "swallowing"])
async def test_a_discovery_that_hangs_does_not_hold_up_the_end(
    where: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(announcer_module, "WITHDRAW_SECONDS", 0.05)
    monkeypatch.setattr(announcer_module, "CANCEL_SECONDS", 0.05)
    discovery = Hanging(where)
    with caplog.at_level(logging.WARNING, "fastnode.node"):
        async with running(A, discovery=discovery) as node:
            await until(lambda: discovery.entered)
            if where != "entering":
                await until(lambda: the_announcer(node).announced)
            async with asyncio.timeout(WAIT_SECONDS):
                await node.stop()
    discovery.stubborn = False
    goes_on = f"{A}: Hanging goes on announcing though it was cancelled"
    assert (goes_on in caplog.text) is (where == "swallowing")


async def test_a_stop_with_little_time_does_not_wait_for_the_discovery(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(announcer_module, "WITHDRAW_SECONDS", 2 * WAIT_SECONDS)
    async with running(A, discovery=Hanging("leaving")) as node:
        await until(lambda: the_announcer(node).announced)
        async with asyncio.timeout(WAIT_SECONDS):
            await node.stop(timeout=0.01)
        assert not the_announcer(node).announced
    assert f"{A} was not withdrawn by Hanging in time" in caplog.text


async def test_an_announcement_that_takes_too_long_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(announcer_module, "ANNOUNCE_SECONDS", 0.02)
    discovery = Hanging("entering")
    async with running(A, discovery=discovery):
        await until(lambda: discovery.entered > 2)


async def test_nodes_that_nobody_can_dial_are_not_announced() -> None:
    discovery = Recorder()
    async with running(A, discovery=discovery, listens=False) as node:
        assert node._announcer is None
    async with running(A, discovery=StaticDiscovery({})) as node:
        assert node._announcer is None


# --- what is announced ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "host", "port"),
    [
        ("a@127.0.0.1", {}, "127.0.0.1", None),
        ("a@localhost", {}, "localhost", None),
        ("a@10.9.8.7", {"host": "0.0.0.0"}, "10.9.8.7", None),
        ("a@pod-7.prod", {"host": "127.0.0.1"}, "127.0.0.1", None),
        ("a@127.0.0.1", {"advertise": ("nat.example", 7000)}, "nat.example", 7000),
        ("a@0.0.0.0", {"advertise": ["203.0.113.7", 0]}, "203.0.113.7", None),
    ],
)
async def test_the_address_that_is_announced(
    name: str, options: dict[str, Any], host: str, port: int | None
) -> None:
    discovery = Recorder()
    acceptors = (AcceptorOptions(port=0, **options),)
    network = {"acceptors": acceptors, "plaintext": True, "discovery": discovery}
    async with running(name, **network) as node:
        await until(lambda: discovery.here)
        own = node.acceptors[0].address[1]
        assert discovery.here == [(Target(host, port or own),)]


async def test_an_address_that_stands_for_all_is_refused_at_the_start() -> None:
    with pytest.raises(ConfigError, match="nobody can connect") as caught:
        async with running("a@0.0.0.0", plaintext=True, discovery=Recorder()):
            pass
    assert "advertise" in str(caught.value.hint)
    async with running("a@0.0.0.0", plaintext=True):
        pass


@pytest.mark.parametrize(
    "advertise", [(), "host", ("h",), ("", 1), ("h", -1), ("h", "1"), (3, 1)]
)
def test_bad_addresses_are_refused(advertise: Any) -> None:
    with pytest.raises(ConfigError):
        AcceptorOptions(advertise=advertise)


@pytest.mark.parametrize("discovery", ["billing", 3, object(), {"billing": []}])
def test_bad_discoveries_are_refused(discovery: Any) -> None:
    with pytest.raises(ConfigError, match=r"has no watch\(\)"):
        NetworkOptions(discovery=discovery)


# --- with a real discovery ------------------------------------------------------------


async def test_nodes_find_each_other_on_one_host(tmp_path: Path) -> None:
    """Three nodes of one name, each with its own port."""
    discovery = LocalDiscovery(tmp_path / "nodes")
    watch = discovery.watch("billing")

    def billing() -> AbstractAsyncContextManager[Node]:
        return running("billing@127.0.0.1", discovery=discovery)

    async with billing() as one, billing() as two, billing() as three:
        ports = sorted(each.acceptors[0].address[1] for each in (one, two, three))
        async with asyncio.timeout(WAIT_SECONDS):
            async for targets in watch:
                if [each.port for each in targets] == ports:
                    break
    async with asyncio.timeout(WAIT_SECONDS):
        async for targets in watch:
            if not targets:
                break
    await watch.aclose()
