"""`WorkerGroup.stats`: the totals of a group, whatever happens to its workers."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from fastnode import ConfigError, Node, NodeStats
from helpers.group import NAME, make_group
from helpers.nodes import until
from helpers.served import certificates_of_a_group, dialers

#: Nodes in other processes do not depend on the loop of the group.
pytestmark = pytest.mark.one_loop


@pytest.fixture(autouse=True)
def no_main(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers need not import pytest, as multiprocessing has them import what runs."""
    main = sys.modules["__main__"]
    monkeypatch.setattr(main, "__spec__", None)
    monkeypatch.delattr(main, "__file__", raising=False)


async def call(nodes: list[Node], times: int) -> None:
    """Call the group from each node."""
    for node in nodes:
        for _ in range(times):
            await node.call(NAME, "who", b"", timeout=30.0)


async def test_totals_of_a_group(tmp_path: Path) -> None:
    certificates_of_a_group(tmp_path)
    async with make_group(tmp_path) as group:
        async with dialers(tmp_path, group.addresses[0], 4) as nodes:
            # Workers report by themselves, again and again.
            await call(nodes, 2)
            await until(lambda: group._totals.shown().calls_received == 8)
            await call(nodes, 3)
            await until(lambda: group._totals.shown().calls_received == 20)
            stats = await group.stats()
            assert stats.calls_received == 20
            assert stats.endpoints["who"].calls == 20
            assert (stats.links["up"], stats.links_accepted) == (4, 4)
            assert stats.handshake_seconds.count == 4
            assert stats.certificate_seconds_left is not None

            # New workers begin at zero. The group does not.
            await group.restart()
            assert (await group.stats()).calls_received == 20
            await call(nodes, 5)
            stats = await group.stats()
            assert stats.calls_received == stats.endpoints["who"].calls == 40
            assert stats.links_accepted == 8

            # A worker that is killed has reported: the group has just asked.
            victim = group.status()[0].pid
            os.kill(victim, signal.SIGKILL)
            await until(lambda: victim not in {s.pid for s in group.status()})
            after = await group.stats()
            assert after.calls_received == 40
            assert after.links_accepted >= 8
        with pytest.raises(ConfigError):
            await group.stats(-1.0)
    # The last reports come when the nodes have stopped.
    last = await group.stats()
    assert last.calls_received == 40
    assert last.links_accepted >= after.links_accepted
    assert last.bytes_received >= after.bytes_received
    assert (last.links, last.endpoints["who"].running) == ({}, 0)


async def test_a_group_that_was_not_started(tmp_path: Path) -> None:
    assert await make_group(tmp_path).stats() == NodeStats()
