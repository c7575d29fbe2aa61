"""The targets of a service: many, unreachable, silent, and changing all the time.

The instances are in memory (`helpers.service_network`). What real nodes do is in
test_services.py.
"""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from unittest import mock

import pytest

from fastnode import LinkLost, NoInstance, Service
from fastnode.discovery import Target
from fastnode.errors import Side
from fastnode.limits import EJECT_AFTER_FAILURES, SERVICE_DIALS
from fastnode.service import members
from fastnode.service.balancer import Candidate
from fastnode.service.members import Place
from helpers.nodes import WAIT_SECONDS, until
from helpers.service_network import MemoryNetwork, NamedTargets, targets


@asynccontextmanager
async def served(
    network: MemoryNetwork, discovery: Any, **options: Any
) -> AsyncIterator[Service]:
    """A service of the instances in memory; nothing may be left of it."""
    network.registry.add("who", lambda message: b"x")
    service = Service(network, "shop", discovery, **options)
    async with service:
        yield service
    await until(lambda: not network.tasks)
    assert not network.held
    assert not network.dialing


def up(service: Service) -> set[str]:
    """The hosts of the instances that are linked."""
    return {each.address[0] for each in service.instances if each.name is not None}


@pytest.mark.parametrize("dead", [2, 5, 40])
async def test_an_instance_behind_many_dead_targets_is_found(dead: int) -> None:
    network = MemoryNetwork()
    network.down = {f"host{number}" for number in range(dead)}
    named = NamedTargets(targets(range(dead + 1)))
    async with served(network, named, max_instances=1) as service:
        assert await service.call("who", b"", timeout=WAIT_SECONDS) == b"x"
        assert up(service) == {f"host{dead}"}


async def test_when_all_targets_are_dead_it_is_told_and_they_are_tried_again() -> None:
    network = MemoryNetwork()
    network.down = {f"host{number}" for number in range(10)}
    async with served(
        network, NamedTargets(targets(range(10))), max_instances=2
    ) as service:
        with pytest.raises(NoInstance, match="none of 10 targets"):
            await service.call("who", b"", timeout=WAIT_SECONDS)
        assert set(network.dials) == network.down
        # One that is not dialed all the time is found when it comes back.
        host = min(network.down, key=lambda each: network.dials[each])
        network.down.discard(host)
        await until(lambda: up(service) == {host})


async def test_targets_that_recover_take_their_room_back() -> None:
    network = MemoryNetwork()
    service_targets = targets(range(8))
    async with served(
        network, NamedTargets(service_targets), max_instances=2
    ) as service:
        await service.wait_ready(2, timeout=WAIT_SECONDS)
        first = up(service)
        network.down = set(first)
        for link in list(network.links.values()):
            await link.close(0.1)
        await until(lambda: len(up(service)) == 2 and not up(service) & first)
        network.down = set()
        await until(lambda: up(service) == first)


async def test_silent_targets_do_not_hold_up_others() -> None:
    network = MemoryNetwork()
    network.silent = {f"host{number}" for number in range(SERVICE_DIALS - 1)}
    named = NamedTargets(targets(range(SERVICE_DIALS)))
    with mock.patch.object(members, "SETTLE_SECONDS", 0.05):
        async with served(network, named) as service:
            # A key has to wait for the first dials, but not for a silent target.
            asked = service.call("who", b"", key=b"k", timeout=WAIT_SECONDS)
            assert await asked == b"x"
            results = await service.broadcast("who", b"", timeout=WAIT_SECONDS)
            assert len(results) == SERVICE_DIALS
            assert [each.reply for each in results if each.error is None] == [b"x"]


async def test_dials_that_failed_before_do_not_hold_up_new_targets() -> None:
    network = MemoryNetwork()
    dead = targets(range(SERVICE_DIALS))
    network.down = {each.host for each in dead}
    named = NamedTargets(dead)
    async with served(network, named) as service:
        await until(lambda: service.stats.dials_failed >= SERVICE_DIALS)
        network.silent = set(network.down)
        await until(lambda: network.dialing == SERVICE_DIALS)
        named.name([*dead, *targets([100])])
        await service.wait_ready(1, timeout=WAIT_SECONDS)
        assert network.dialing == SERVICE_DIALS


async def test_a_thousand_changes_leave_nothing() -> None:
    network = MemoryNetwork()
    named = NamedTargets(targets(range(3)))
    with mock.patch.object(members, "FORGET_SECONDS", 0.0):
        async with served(network, named) as service:
            for number in range(1000):
                named.name(targets(range(number, number + 3)))
                await service.call("who", b"", timeout=WAIT_SECONDS)
            await until(lambda: up(service) == {"host999", "host1000", "host1001"})
            await until(lambda: len(network.held) == 3)
            # One for each place, and the one that follows the discovery.
            await until(lambda: len(network.tasks) == 4)
            gc.collect()
            found = [type(each) for each in gc.get_objects()]
            assert found.count(Place) == 3
            # The service may still know those that took the last call.
            assert found.count(Candidate) <= 6
            assert service.stats.calls == 1000
            assert service.stats.failures == 0


async def test_a_target_that_comes_back_in_time_keeps_its_link() -> None:
    network = MemoryNetwork()
    named = NamedTargets(targets(range(2)))
    async with served(network, named) as service:
        await service.wait_ready(2, timeout=WAIT_SECONDS)
        named.name(targets([0]))
        await until(lambda: up(service) == {"host0"})
        # Other links that change do not shorten the time.
        named.name(targets([0, 2]))
        await service.wait_ready(2, timeout=WAIT_SECONDS)
        named.name(targets([0, 1, 2]))
        await service.wait_ready(3, timeout=WAIT_SECONDS)
        assert network.dials["host1"] == 1


async def test_an_instance_that_moves_keeps_its_link_and_gets_the_new_weight() -> None:
    network = MemoryNetwork()
    network.instance_at["host7"] = "host0"
    named = NamedTargets(targets([0]))
    with mock.patch.object(members, "FORGET_SECONDS", 0.0):
        async with served(network, named) as service:
            await service.wait_ready(timeout=WAIT_SECONDS)
            (link,) = network.links.values()
            named.name([*targets([0]), *targets([7], weight=50)])
            await until(lambda: sum(network.held.values()) == 2)
            named.name(targets([7], weight=50))
            await until(lambda: sum(network.held.values()) == 1)
            assert await service.call("who", b"", timeout=WAIT_SECONDS) == b"x"
            assert list(network.links.values()) == [link]
            (candidate,) = service.members.candidates()
            assert candidate.weight == 0.5


async def test_the_end_of_an_ejection_is_told() -> None:
    network = MemoryNetwork()
    async with served(network, NamedTargets(targets(range(2)))) as service:
        await service.wait_ready(2, timeout=WAIT_SECONDS)
        one = service.members.candidates()[0]
        for _ in range(EJECT_AFTER_FAILURES):
            service.note(one, LinkLost("cut", side=Side.REMOTE))
        assert service.stats.ejections == 1
        await asyncio.wait_for(service.wait_ready(2), WAIT_SECONDS)


async def test_iterators_that_misbehave_harm_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Odd:
        """Never waits; then names nonsense; then cannot be closed."""

        def __init__(self) -> None:
            self.sets = 0

        def watch(self, service: str) -> Any:
            return self

        def __aiter__(self) -> Any:
            return self

        async def __anext__(self) -> Sequence[Target]:
            self.sets += 1
            if self.sets == 1000:
                return [None]  # type: ignore[list-item]
            return targets([self.sets // 100])

        async def aclose(self) -> None:
            await asyncio.get_running_loop().create_future()

    network, odd = MemoryNetwork(), Odd()
    with (
        mock.patch.object(members, "CANCEL_SECONDS", 0.01),
        mock.patch.object(members, "FORGET_SECONDS", 0.0),
    ):
        async with served(network, odd) as service:
            await service.call("who", b"", timeout=WAIT_SECONDS, wait_for_ready=True)
            await until(lambda: odd.sets > 1000)
            await service.call("who", b"", timeout=WAIT_SECONDS, wait_for_ready=True)
    assert "discovery" in caplog.text


async def test_a_discovery_that_ignores_the_end_changes_nothing() -> None:
    class Deaf:
        def __init__(self) -> None:
            self.over = asyncio.Event()

        async def watch(self, service: str) -> AsyncIterator[Sequence[Target]]:
            yield targets([0])
            try:
                await self.over.wait()
            except asyncio.CancelledError:
                yield targets([1, 2])

    network = MemoryNetwork()
    async with served(network, Deaf()) as service:
        await service.wait_ready(timeout=WAIT_SECONDS)
    assert set(network.dials) == {"host0"}


async def test_a_thousand_instances_and_a_hundred_callers() -> None:
    network = MemoryNetwork()
    named = NamedTargets(targets(range(1000)))
    tracemalloc.start()
    try:
        async with served(network, named) as service:

            async def caller() -> None:
                for _ in range(10):
                    await service.call("who", b"", timeout=WAIT_SECONDS)

            await asyncio.gather(*(caller() for _ in range(100)))
            await service.wait_ready(32, timeout=WAIT_SECONDS)
            assert len(network.links) == service.stats.dials == 32
            assert network.most_dialing <= SERVICE_DIALS
            assert all(not each.outstanding for each in service.instances)
            # Places and tasks are those of the 32. The links have one side here.
            assert len(network.tasks) == 33
            used, _ = tracemalloc.get_traced_memory()
            assert used < 16 << 20, used
    finally:
        tracemalloc.stop()
