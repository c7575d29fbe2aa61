"""What a worker starts does not decide about the worker, nor about its group."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.group import children
from helpers.nodes import WAIT_SECONDS, all_at_once, until
from helpers.served import (
    Program,
    certificates_of_a_group,
    descriptors,
    dialers,
    inheritable,
    lives,
    started,
    whom,
    workers_of,
)

pytestmark = [
    pytest.mark.one_loop,
    pytest.mark.skipif(not Path("/proc/self/fdinfo").exists(), reason="needs /proc"),
]
NAME = "orders@127.0.0.1"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Whatever the workers of a test have started ends with the test."""
    yield certificates_of_a_group(tmp_path)
    kill_children(tmp_path)


def kill_children(folder: Path) -> None:
    for pid in children(folder):
        if lives(pid):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def serving(folder: Path) -> Iterator[Program]:
    """Each worker starts two programs before it does anything of its own."""
    with started(folder, "children") as process:
        yield Program(process)


@pytest.mark.timeout(120)
async def test_a_group_is_managed_whatever_its_workers_have_started(
    folder: Path,
) -> None:
    folders = [folder_of(folder, how) for how in ("system", "popen", "fork")]
    try:
        await all_at_once(manage, *((each, each.name) for each in folders))
    finally:
        for each in folders:
            kill_children(each)


def folder_of(parent: Path, name: str) -> Path:
    folder = parent / name
    folder.mkdir()
    return certificates_of_a_group(folder)


async def manage(folder: Path, how: str) -> None:
    with started(folder, "children") as process:
        await managed(folder, await asyncio.to_thread(Program, process), how)


async def managed(folder: Path, serving: Program, how: str) -> None:
    group = serving.process.pid
    async with dialers(folder, serving.address, 2) as nodes:
        # Both workers have another child.
        for node in nodes:
            await node.call(NAME, "start", how.encode(), timeout=WAIT_SECONDS)
        first = set(await whom(nodes))
        assert first == workers_of(group)
        assert len(children(folder)) >= 6

        killed = (await whom(nodes))[0]
        os.kill(killed, signal.SIGKILL)
        await until(lambda: len(workers_of(group) - {killed}) == 2)
        second = workers_of(group)
        assert killed not in second

        for node in nodes:
            await node.call(NAME, "start", how.encode(), timeout=WAIT_SECONDS)
        await until(lambda: len(workers_of(group)) == 2)
        serving.process.send_signal(signal.SIGHUP)
        await until(
            lambda: len(workers_of(group)) == 2 and not workers_of(group) & second
        )

        serving.process.send_signal(signal.SIGTERM)
        await until(lambda: serving.process.poll() is not None)
    assert serving.process.returncode == 0
    # They live, and have standard output, for which the group did not wait.
    assert sum(map(lives, children(folder))) >= 8


async def test_no_descriptor_of_a_group_is_inheritable(
    folder: Path, serving: Program
) -> None:
    group = serving.process.pid
    async with dialers(folder, serving.address, 2) as nodes:
        await whom(nodes)
        for pid in (group, *workers_of(group)):
            assert inheritable(pid) == {}
    for pid in children(folder):
        assert descriptors(pid) <= {0, 1, 2}


async def test_a_signal_to_a_fork_of_a_worker_is_not_one_to_the_worker(
    folder: Path, serving: Program
) -> None:
    """`multiprocessing` ends its forked processes with SIGTERM."""
    async with dialers(folder, serving.address, 2) as nodes:
        before = await whom(nodes)
        reply = await nodes[0].call(NAME, "start", b"fork", timeout=WAIT_SECONDS)
        child = int(reply)
        os.kill(child, signal.SIGTERM)
        await until(lambda: not lives(child))
        assert await whom(nodes) == before
        assert workers_of(serving.process.pid) == set(before)


async def test_a_fork_of_the_group_keeps_neither_port_nor_workers(folder: Path) -> None:
    with started(folder, "fork") as process:
        program = Program(process)
        async with dialers(folder, program.address, 2) as nodes:
            workers = set(await whom(nodes))
            (child,) = children(folder)
            process.kill()
            await until(lambda: not any(map(lives, workers)))
        await until(lambda: process.poll() is not None)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(program.address, timeout=WAIT_SECONDS)
        assert lives(child)
