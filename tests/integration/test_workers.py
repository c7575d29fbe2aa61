"""A node in several processes: real ones, with mutual TLS."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fastnode import (
    ConfigError,
    FastnodeError,
    Keeper,
    Link,
    LinkClosed,
    LinkLost,
    Node,
    WorkerFailed,
    WorkerGroup,
)
from fastnode.link.instances import workers_of
from fastnode.node.membership import Membership
from helpers import group as program
from helpers.group import NAME, kept, make_group, make_options, set_up
from helpers.nodes import WAIT_SECONDS, until
from helpers.served import (
    DIALERS,
    Program,
    certificates_of_a_group,
    descriptors,
    dialers,
    lives,
    started,
    whom,
)

#: Of those who send and connect: on few cores they would keep workers from starting.
PACE_SECONDS = 0.005
#: Two processes start, one after the other, while others work.
RESTART_SECONDS = 2 * WAIT_SECONDS


@pytest.fixture(autouse=True)
def no_main(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers need not import pytest, as multiprocessing has them import what runs."""
    main = sys.modules["__main__"]
    monkeypatch.setattr(main, "__spec__", None)
    monkeypatch.delattr(main, "__file__", raising=False)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certificates_of_a_group(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def folder(certificates: Path, tmp_path: Path) -> Path:
    for file in certificates.iterdir():
        (tmp_path / file.name).symlink_to(file)
    return tmp_path


def pids(group: WorkerGroup) -> set[int]:
    return {status.pid for status in group.status()}


async def test_links_spread_and_a_crash_is_nobody_elses(folder: Path) -> None:
    async with make_group(folder) as group:
        async with (
            dialers(folder, group.addresses[0]) as nodes,
            AsyncExitStack() as all_,
        ):
            keepers: list[Keeper] = []
            for node in nodes:
                keeper = node.keep_connected(NAME)
                keepers.append(await all_.enter_async_context(keeper))
            links = [await keeper.connected() for keeper in keepers]
            of = await whom(nodes)
            assert Counter(of) == dict.fromkeys(pids(group), DIALERS // 2)
            await until(lambda: [s.links for s in group.status()] == [4, 4])

            # A service has a link with each worker. It is told how many there are.
            wanted = Membership.of(NAME.partition("@")[0])
            (linked,) = nodes[0]._instances.links_of(wanted)
            assert workers_of(linked.peer_hello) == 2
            address = group.addresses[0]
            other = await nodes[0]._instances.connect(address, wanted, additional=True)
            assert other.link is not None
            assert int(await other.link.call("who", b"")) in pids(group) - {of[0]}
            await other.link.close()
            await until(lambda: [s.links for s in group.status()] == [4, 4])

            victim = of[0]
            os.kill(victim, signal.SIGKILL)
            await until(
                lambda: all(links[i].closed == (of[i] == victim) for i in range(8))
            )
            again = await asyncio.gather(*(keeper.connected() for keeper in keepers))
            for number, worker in enumerate(of):
                assert (again[number] is links[number]) == (worker != victim)
            assert victim not in await whom(nodes)
            await until(lambda: victim not in pids(group))
            await until(lambda: {s.state for s in group.status()} == {"up"})
            assert sorted(s.restarts for s in group.status()) == [0, 1]

            # A worker that somebody ends in order says goodbye, and is replaced too.
            ended = (await whom(nodes))[0]
            link = keepers[0].link
            os.kill(ended, signal.SIGTERM)
            await until(lambda: keepers[0].link is not link)
            assert type(why(link)) is LinkClosed
            await until(lambda: ended not in pids(group))
            assert ended not in await whom(nodes)

            # A worker whose application stops its node would serve nobody.
            reply = await nodes[0].call(NAME, "stop", b"", timeout=WAIT_SECONDS)
            await until(lambda: int(reply) not in pids(group))
            assert int(reply) not in await whom(nodes)


def why(link: Link | None) -> FastnodeError:
    """Why nothing can be sent on a link."""
    assert link is not None
    try:
        link.send("keep", b"")
    except FastnodeError as error:
        return error
    raise AssertionError("it is up")


def has_cleaned(folder: Path) -> set[int]:
    """The workers whose setup has ended."""
    return {int(each.name.partition("-")[2]) for each in folder.glob("cleaned-*")}


@pytest.mark.one_loop
async def test_restart_under_load(folder: Path) -> None:
    """Nobody's connect fails, and what was confirmed was handled."""
    confirmed: list[bytes] = []
    over = asyncio.Event()
    connects = 0

    async def keep_sending(node: Node, number: int) -> None:
        """One message after the other, again where it may be lost."""
        sequence = 0
        async with node.keep_connected(NAME) as keeper:
            while not over.is_set():
                payload = b"%d:%d" % (number, sequence)
                link = await keeper.connected()
                try:
                    await link.send_confirmed("keep", payload, timeout=WAIT_SECONDS)
                except LinkLost:
                    raise
                except LinkClosed:
                    continue
                confirmed.append(payload)
                sequence += 1
                await asyncio.sleep(PACE_SECONDS)

    async def keep_connecting(node: Node) -> None:
        """One link after the other. What connect raises fails the test."""
        nonlocal connects
        while not over.is_set():
            link = await node.connect(NAME)
            connects += 1
            await link.close()
            await asyncio.sleep(PACE_SECONDS)

    async with make_group(folder) as group:
        before = pids(group)
        async with dialers(folder, group.addresses[0], 4) as nodes:
            async with asyncio.timeout(RESTART_SECONDS), asyncio.TaskGroup() as tasks:
                for number, node in enumerate(nodes[:2]):
                    tasks.create_task(keep_sending(node, number))
                for node in nodes[2:]:
                    tasks.create_task(keep_connecting(node))
                await until(lambda: connects > 10 and len(confirmed) > 100)
                await group.restart()
                so_far = connects, len(confirmed)
                await until(
                    lambda: (
                        connects > so_far[0] + 10 and len(confirmed) > so_far[1] + 100
                    )
                )
                over.set()
        assert not before & pids(group)
        assert [status.restarts for status in group.status()] == [1, 1]
    # Once or more: one whose confirmation was lost with the link was sent again.
    assert set(confirmed) <= set(kept(folder))


@pytest.mark.one_loop
async def test_restart_that_fails_changes_nothing(folder: Path) -> None:
    setup = partial(program.fail_if_told, folder)
    async with make_group(folder, setup) as group:
        before = pids(group)
        async with dialers(folder, group.addresses[0], 2) as nodes:
            of = await whom(nodes)
            links = [link for node in nodes for link in node.links]
            (folder / "broken").touch()
            with pytest.raises(WorkerFailed, match="LookupError: no such database"):
                await group.restart()
            assert pids(group) == before
            assert await whom(nodes) == of
            assert [link for node in nodes for link in node.links] == links
            (folder / "broken").unlink()
            (folder / "changed").touch()
            with pytest.raises(WorkerFailed, match="wants to listen on"):
                await group.restart()
            (folder / "changed").unlink()
            assert pids(group) == before
            # Nor does the group give up a worker that cannot come back yet.
            (folder / "broken").touch()
            os.kill(of[0], signal.SIGKILL)
            await until(lambda: "ended" in {s.state for s in group.status()})
            (folder / "broken").unlink()
            await until(lambda: {s.state for s in group.status()} == {"up"})
    with pytest.raises(ConfigError, match="does not run"):
        await group.restart()


@pytest.mark.one_loop
async def test_restarts_that_wait_are_one(folder: Path) -> None:
    async with make_group(folder) as group:
        first = pids(group)
        running = asyncio.ensure_future(group.restart())
        await until(lambda: first - pids(group))
        # These callers may have changed something since the running restart began.
        await asyncio.gather(*(group.restart() for _ in range(40)))
        assert running.done()
        assert [status.restarts for status in group.status()] == [2, 2]


class Shortage:
    """Processes cannot be started, a number of times."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.times = 0
        self._real: Any = subprocess.Popen
        monkeypatch.setattr(subprocess, "Popen", self._start)

    def _start(self, *args: Any, **options: Any) -> Any:
        if self.times:
            self.times -= 1
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        return self._real(*args, **options)


@pytest.mark.one_loop
async def test_a_restart_waits_for_room_for_a_process(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """At a limit of processes `fork` fails with EAGAIN."""
    shortage = Shortage(monkeypatch)
    async with make_group(folder) as group:
        shortage.times = 2
        before = descriptors(os.getpid())
        await group.restart()
        assert [status.restarts for status in group.status()] == [1, 1]
        assert len(descriptors(os.getpid())) == len(before)
    said = [each.getMessage() for each in caplog.records if "waits" in each.msg]
    assert len(said) == 2
    assert "worker 1 of orders@127.0.0.1 cannot be started" in said[0]
    assert "ulimit -u" in said[0]


@pytest.mark.one_loop
async def test_no_room_for_a_process_at_the_start(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Shortage(monkeypatch).times = 1
    group = make_group(folder)
    with pytest.raises(WorkerFailed, match="Resource temporarily") as raised:
        await group.start()
    assert "ulimit -u" in str(raised.value.hint)


def has_failed(folder: Path) -> int:
    """How many workers have begun with a setup that raises."""
    return len(list(folder.glob("failed-*")))


@pytest.mark.one_loop
async def test_a_setup_that_raises(folder: Path) -> None:
    group = make_group(folder, partial(program.fail, folder))
    with pytest.raises(WorkerFailed) as raised:
        await group.start()
    assert "LookupError: no such database" in str(raised.value)
    assert any("in fail" in note for note in raised.value.__notes__)
    # No second attempt of either.
    assert has_failed(folder) <= 2
    with pytest.raises(ConfigError, match="started before"):
        await group.start()


@pytest.mark.one_loop
@pytest.mark.parametrize(
    ("setup", "start_timeout", "said"),
    [
        (program.hang, 0.5, "is not up after 0.5 s"),
        (program.end, WAIT_SECONDS, "ended with exit status 7"),
    ],
)
async def test_workers_that_do_not_come_up(
    folder: Path, setup: Callable[..., object], start_timeout: float, said: str
) -> None:
    group = make_group(
        folder, partial(setup, folder), workers=1, start_timeout=start_timeout
    )
    with pytest.raises(WorkerFailed, match=said):
        await group.start()


@pytest.mark.one_loop
async def test_a_port_that_is_taken(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        group = WorkerGroup(
            NAME,
            partial(make_options, folder, port),
            partial(set_up, folder),
            workers=1,
        )
        with pytest.raises(ConfigError, match=f"port {port} is in use on"):
            await group.start()


# --- as a program -------------------------------------------------------------------


@pytest.fixture
def serving(folder: Path) -> Iterator[Program]:
    with started(folder) as process:
        yield Program(process)


@pytest.mark.one_loop
async def test_signals(folder: Path, serving: Program) -> None:
    async with dialers(folder, serving.address, 2) as nodes:
        # Nobody is served before all are up, so it is one for each.
        old = set(await whom(nodes))
        assert len(old) == 2
        serving.process.send_signal(signal.SIGHUP)
        await until(lambda: not any(map(lives, old)))
        new = set(await whom(nodes))
        assert len(new) == 2
        links = [node.links[0] for node in nodes]
        serving.process.send_signal(signal.SIGTERM)
        await until(lambda: all(link.closed for link in links))
        assert [type(why(link)) for link in links] == [LinkClosed, LinkClosed]
    assert (await serving.end(), serving.said) == (0, "")
    assert not any(map(lives, new))
    # What the application has to do at its end was done, by all four.
    assert has_cleaned(folder) == old | new


@pytest.mark.one_loop
async def test_hang_ups_in_a_row(folder: Path, serving: Program) -> None:
    """They are two restarts: the one that runs, and one more."""
    async with dialers(folder, serving.address, 2) as nodes:
        old = set(await whom(nodes))
        for _ in range(40):
            serving.process.send_signal(signal.SIGHUP)
        await until(lambda: not any(map(lives, old)))
        new = set(await whom(nodes))
        serving.process.send_signal(signal.SIGTERM)
    assert (await serving.end(), serving.said) == (0, "")
    assert old < has_cleaned(folder)
    assert len(has_cleaned(folder) | new) <= 6


@pytest.mark.one_loop
@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs prlimit")
async def test_a_hang_up_at_a_limit_is_tried_again(
    folder: Path, serving: Program
) -> None:
    group = serving.process.pid
    async with dialers(folder, serving.address, 2) as nodes:
        old = set(await whom(nodes))
        limits = resource.prlimit(group, resource.RLIMIT_NOFILE)
        resource.prlimit(
            group, resource.RLIMIT_NOFILE, (len(descriptors(group)), limits[1])
        )
        serving.process.send_signal(signal.SIGHUP)
        assert serving.process.stdout is not None
        async with asyncio.timeout(WAIT_SECONDS):
            said = await asyncio.to_thread(serving.process.stdout.readline)
        assert "the restart waits: worker 1 of" in said
        assert "Too many open files" in said
        assert set(await whom(nodes)) == old
        resource.prlimit(group, resource.RLIMIT_NOFILE, limits)
        await until(lambda: not any(map(lives, old)))
        assert not set(await whom(nodes)) & old
        serving.process.send_signal(signal.SIGTERM)
    assert await serving.end() == 0
    assert all("the restart waits" in line for line in serving.said.splitlines())


@pytest.mark.one_loop
async def test_workers_do_not_outlive_the_group(folder: Path, serving: Program) -> None:
    async with dialers(folder, serving.address, 2) as nodes:
        workers = set(await whom(nodes))
        links = [node.links[0] for node in nodes]
        serving.process.kill()
        # They end in order nevertheless.
        await until(lambda: all(link.closed for link in links))
        assert [type(why(link)) for link in links] == [LinkClosed, LinkClosed]
    await until(lambda: not any(map(lives, workers)))
    assert has_cleaned(folder) == workers
    await serving.end()
    assert serving.said.count("is gone: it stops") == 2


def test_a_program_that_forgets_its_group_ends_and_takes_it_along(folder: Path) -> None:
    with started(folder, "forget") as process:
        said, _ = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 1
    workers, *_ = said.splitlines()
    assert len(workers.split()) == 2
    assert not any(lives(int(pid)) for pid in workers.split())
    assert "LookupError: the program is wrong" in said
