"""The process of a worker: how it begins, and that only its own end counts."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import sys
from functools import partial
from pathlib import Path

import pytest

from fastnode import WorkerFailed
from fastnode.workers import process
from fastnode.workers.application import Application
from fastnode.workers.child import ChildProcess
from fastnode.workers.process import WorkerProcess
from fastnode.workers.totals import GroupTotals
from helpers import group as program
from helpers.group import children, start_child
from helpers.nodes import WAIT_SECONDS, until
from helpers.served import descriptors


@pytest.fixture(autouse=True)
def no_main(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process need not import pytest, as it imports what runs."""
    main = sys.modules["__main__"]
    monkeypatch.setattr(main, "__spec__", None)
    monkeypatch.delattr(main, "__file__", raising=False)


@pytest.fixture(params=["pidfd", "waitpid"])
def notice(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to notice the end of a process."""
    if request.param == "waitpid":
        monkeypatch.delattr(os, "pidfd_open", raising=False)
    elif not hasattr(os, "pidfd_open"):
        pytest.skip("this system has no pidfd")


class Ended:
    """A process, and how often its end was told."""

    def __init__(self, target: object, *args: object) -> None:
        self.count = 0
        self.child = ChildProcess(target, args, "child 5", 5.0, self._tell)  # type: ignore[arg-type]

    def _tell(self) -> None:
        self.count += 1

    async def wait(self) -> int | None:
        """Its exit status."""
        await until(lambda: self.count)
        self.child.control.close()
        return self.child.exitcode


def say(given: list[int], folder: Path, payload: bytes) -> None:
    name = multiprocessing.current_process().name
    shares = [os.get_inheritable(each) for each in given]
    (folder / "said").write_text(f"{name} {len(payload)} {any(shares)} {sys.argv[0]}")
    sys.exit(7)


def leave_children(given: list[int], folder: Path) -> None:
    for descriptor in given:  # as `multiprocessing` left them
        os.set_inheritable(descriptor, True)
    for how in ("system", "popen", "fork"):
        start_child(folder, how)
    (folder / "ready").touch()
    signal.pause()


def sleep(given: list[int]) -> None:
    signal.pause()


@pytest.mark.usefixtures("notice")
async def test_a_function_runs_and_its_end_is_told(tmp_path: Path) -> None:
    # More than a socket holds: it is sent while the process reads.
    ended = Ended(say, tmp_path, bytes(5_000_000))
    assert await ended.wait() == 7
    assert (tmp_path / "said").read_text() == f"child 5 5000000 False {sys.argv[0]}"
    assert ended.count == 1


@pytest.mark.usefixtures("notice")
async def test_descriptors_that_other_programs_hold_do_not_count(
    tmp_path: Path,
) -> None:
    ended = Ended(leave_children, tmp_path)
    try:
        await until((tmp_path / "ready").exists)
        ended.child.kill()
        assert await ended.wait() == -signal.SIGKILL
    finally:
        for pid in children(tmp_path):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.usefixtures("notice")
async def test_a_process_that_reads_nothing_does_not_stop_the_loop() -> None:
    ended = Ended(say, "", bytes(50_000_000))
    ended.child.signal(signal.SIGSTOP)
    for _ in range(10):
        await asyncio.sleep(0)
    ended.child.kill()
    assert await ended.wait() == -signal.SIGKILL


@pytest.mark.usefixtures("notice")
async def test_descriptors_are_closed_at_once() -> None:
    for _ in range(2):  # `multiprocessing` opens something for the first process
        before = descriptors(os.getpid())
        ended = Ended(sleep)
        ended.child.kill()
        await ended.wait()
        ended.child.kill()  # nobody
    assert descriptors(os.getpid()) <= before


@pytest.mark.one_loop
async def test_a_process_that_sigkill_does_not_end_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The kernel may keep it, on a broken disk for example."""
    monkeypatch.setattr(process, "WORKER_GRACE_SECONDS", 0.05)
    application = Application(
        program.NAME,
        partial(program.make_options, tmp_path),
        partial(program.hang, tmp_path),
    )
    worker = WorkerProcess(
        application, 1, bytes(8), 0.0, None, GroupTotals(), lambda *_: None
    )
    pid = worker.pid
    try:
        monkeypatch.setattr(ChildProcess, "kill", lambda child: None)
        os.kill(pid, signal.SIGSTOP)
        worker.stop(0.0)
        async with asyncio.timeout(WAIT_SECONDS):
            await worker.ended
        with pytest.raises(WorkerFailed, match="has not ended before it was up"):
            await worker.up(WAIT_SECONDS)
    finally:
        os.kill(pid, signal.SIGKILL)
        await until(lambda: worker.end_text() == "was killed by SIGKILL")
    said = [each.getMessage() for each in caplog.records if each.levelname == "ERROR"]
    assert "has not ended within 0.1 s: it is killed" in said[0]
    assert "has not ended 0.05 s after SIGKILL" in said[1]
