"""Workers whose loop is blocked: by a wait, or by code that keeps the GIL."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from fastnode import LinkLost, WorkerGroup
from helpers.group import NAME, children, make_group, set_up_with_children
from helpers.nodes import WAIT_SECONDS, until
from helpers.served import (
    Program,
    certificates_of_a_group,
    dialers,
    lives,
    started,
    whom,
)

pytestmark = pytest.mark.one_loop
HANG_SECONDS = 1.0


@pytest.fixture(autouse=True)
def no_main(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers need not import pytest, as they import what runs."""
    main = sys.modules["__main__"]
    monkeypatch.setattr(main, "__spec__", None)
    monkeypatch.delattr(main, "__file__", raising=False)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield certificates_of_a_group(tmp_path)
    for pid in children(tmp_path):
        if lives(pid):
            os.kill(pid, signal.SIGKILL)


def hanging_group(folder: Path) -> WorkerGroup:
    setup = partial(set_up_with_children, folder)
    return make_group(folder, setup, hang_timeout=HANG_SECONDS)


@pytest.mark.parametrize("how", ["sleep", "regular expression"])
async def test_a_worker_that_hangs_is_replaced_and_its_stack_logged(
    folder: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        hanging_group(folder) as group,
        dialers(folder, group.addresses[0], 2) as nodes,
    ):
        hung, other = await whom(nodes)
        with pytest.raises(LinkLost):
            await nodes[0].call(NAME, "block", how.encode(), timeout=WAIT_SECONDS)
        await until(lambda: [s.state for s in group.status()] == ["up", "up"])
        assert hung not in {status.pid for status in group.status()}
        assert sorted(status.restarts for status in group.status()) == [0, 1]
        assert hung not in await whom(nodes)
        assert other in {status.pid for status in group.status()}
    said = "\n".join(each.getMessage() for each in caplog.records)
    assert f"(pid {hung}) has not answered for 1 s: its loop is blocked" in said
    assert "in block\n" in said
    assert "was killed by SIGKILL; another one takes its place" in said


async def test_a_worker_that_is_stopped_has_no_stack(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with hanging_group(folder) as group:
        hung = group.status()[0].pid
        os.kill(hung, signal.SIGSTOP)
        await until(lambda: group.status()[0].restarts == 1)
        assert not lives(hung)
    assert any("none: it is stopped" in each.getMessage() for each in caplog.records)


async def test_a_group_that_was_blocked_itself_kills_nobody(folder: Path) -> None:
    async with (
        hanging_group(folder) as group,
        dialers(folder, group.addresses[0], 2) as nodes,
    ):
        before = await whom(nodes)
        for _ in range(2):
            time.sleep(2 * HANG_SECONDS)  # noqa: ASYNC251 -- this is what is tested
            await whom(nodes)
        assert await whom(nodes) == before
        assert [status.restarts for status in group.status()] == [0, 0]


@pytest.mark.long
async def test_hung_workers_do_not_outlive_the_group(folder: Path) -> None:
    """They have 5 s for their links and 10 s for everything else."""
    with started(folder, "children") as process:
        program = Program(process)
        async with dialers(folder, program.address, 2) as nodes:
            workers = await whom(nodes)
            for node, how in zip(nodes, (b"sleep", b"regular expression"), strict=True):
                await node.send(NAME, "block", how)
            await until(lambda: len(list(folder.glob("blocked-*"))) == 2)
            process.kill()
            try:
                await until(lambda: not any(map(lives, workers)))
            finally:
                for pid in filter(lives, workers):
                    os.kill(pid, signal.SIGKILL)
