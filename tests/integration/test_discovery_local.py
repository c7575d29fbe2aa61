"""LocalDiscovery: nodes of one user on one host, in processes that are killed."""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pytest

from fastnode import ConfigError
from fastnode.discovery import (
    AnnouncingDiscovery,
    DiscoveryError,
    LocalDiscovery,
    Target,
    held_file,
    inotify,
    kit,
    local,
)
from fastnode.discovery.kit import FakeNode
from fastnode.discovery.private_directory import default_directory
from fastnode.discovery.watch import Watch
from helpers.announcer import announcer
from helpers.nodes import WAIT_SECONDS, until

ONE, TWO = Target("127.0.0.1", 15001), Target("127.0.0.1", 15002)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "nodes"


async def next_set(watch: Watch) -> tuple[Target, ...]:
    async with asyncio.timeout(WAIT_SECONDS):
        return tuple(await anext(watch))


def files_in(directory: Path) -> list[Path]:
    return sorted(directory.iterdir())


def in_child(function: Callable[[], bool]) -> bool:
    """What a function returns in a forked child."""
    pid = os.fork()
    if pid == 0:
        good = False
        try:
            good = function()
        finally:
            os._exit(0 if good else 1)
    return os.waitpid(pid, 0)[1] == 0


# --- the kit --------------------------------------------------------------------------


@pytest.mark.parametrize("check", kit.CHECKS)
async def test_kit(check: kit.Check, directory: Path) -> None:
    # Two objects, as two processes have.
    discovery, other = LocalDiscovery(directory), LocalDiscovery(directory)
    async with kit.AnnouncingSubject(discovery, other) as subject:
        await check(subject)
    assert not files_in(directory)


@pytest.mark.parametrize("check", kit.ANNOUNCE_CHECKS)
async def test_announcements(check: kit.AnnounceCheck, directory: Path) -> None:
    discovery = LocalDiscovery(directory)
    assert isinstance(discovery, AnnouncingDiscovery)
    await check(discovery)
    assert not files_in(directory)


async def test_changes_are_seen_without_reports_of_the_system(directory: Path) -> None:
    with (
        mock.patch.object(inotify, "_open", return_value=None),
        mock.patch.object(local, "LOOK_SECONDS", 0.02),
    ):
        async with kit.AnnouncingSubject(LocalDiscovery(directory)) as subject:
            await kit.changes_come(subject)


# --- processes ------------------------------------------------------------------------


@pytest.mark.one_loop
async def test_a_killed_process_is_gone_and_its_file_is_removed(
    directory: Path,
) -> None:
    watch = LocalDiscovery(directory).watch("billing")
    assert await next_set(watch) == ()
    async with announcer(directory, "billing", 15001) as process:
        assert await next_set(watch) == (ONE,)
        process.kill()
        await process.wait()
        assert await next_set(watch) == ()
    await until(lambda: not files_in(directory))
    await watch.aclose()


@pytest.mark.one_loop
async def test_a_stopped_process_still_counts_and_an_orderly_end_does_not(
    directory: Path,
) -> None:
    async with announcer(directory, "billing", 15001) as process:
        process.send_signal(signal.SIGSTOP)
        watch = LocalDiscovery(directory).watch("billing")
        assert await next_set(watch) == (ONE,)
        process.send_signal(signal.SIGCONT)
        assert process.stdin is not None
        process.stdin.close()
        assert await next_set(watch) == ()
        assert await process.wait() == 0
        await watch.aclose()


@pytest.mark.one_loop
async def test_a_forked_child_does_not_keep_the_file_of_its_dead_parent(
    directory: Path,
) -> None:
    watch = LocalDiscovery(directory).watch("billing")
    async with announcer(directory, "billing", 15001, "fork") as process:
        while await next_set(watch) != (ONE,):
            pass
        process.kill()
        await process.wait()
        # The child lives until its standard input ends.
        assert await next_set(watch) == ()
    await watch.aclose()


# The suite has threads, and the child does not use them.
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
async def test_a_forked_child_leaves_the_file_to_its_parent(directory: Path) -> None:
    discovery = LocalDiscovery(directory)
    announcement = discovery.announce(FakeNode.at("billing", ONE), ["billing"])
    await announcement.__aenter__()
    [file] = files_in(directory)
    [held] = held_file._held

    def leaves_the_file() -> bool:
        missing = held.keep()
        held.release()
        return not missing and files_in(directory) == [file] and not held_file._held

    assert in_child(leaves_the_file)
    assert files_in(directory) == [file]
    watch = discovery.watch("billing")
    assert await next_set(watch) == (ONE,)
    await announcement.__aexit__(None, None, None)
    assert await next_set(watch) == ()
    await watch.aclose()


# --- files that are not as they should be ---------------------------------------------


async def test_a_file_that_is_removed_is_written_again(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    discovery = LocalDiscovery(directory)
    watch = discovery.watch("billing")
    async with discovery.announce(FakeNode.at("billing", ONE), ["billing"]):
        assert await next_set(watch) == (ONE,)
        (file,) = files_in(directory)
        with caplog.at_level(logging.WARNING, "fastnode.discovery"):
            file.unlink()
            assert await next_set(watch) == ()
            assert await next_set(watch) == (ONE,)
        assert "was missing, and is written again" in caplog.text
    assert await next_set(watch) == ()
    await watch.aclose()


def move_away(directory: Path) -> None:
    directory.rename(directory.with_name("gone"))


async def test_a_directory_that_is_removed_says_nothing(directory: Path) -> None:
    """Nodes write their files into a new directory. Until then the last set stays."""
    discovery = LocalDiscovery(directory)
    watch = discovery.watch("billing")
    async with discovery.announce(FakeNode.at("billing", ONE), ["billing"]):
        assert await next_set(watch) == (ONE,)
        move_away(directory)
        further = asyncio.create_task(next_set(watch))
        await until(lambda: directory.exists() and files_in(directory))
        async with discovery.announce(FakeNode.at("billing", TWO), ["billing"]):
            assert await further == (ONE, TWO)
    await watch.aclose()


@pytest.fixture
def locked(directory: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file that a process holds, among files that are none of ours."""
    LocalDiscovery(directory)
    path = directory / "x.node"
    (directory / "notes.txt").write_text("left alone")
    (directory / "d.node").mkdir()
    with path.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(request.param)
        file.flush()
        yield path


@pytest.mark.parametrize(
    "locked",
    [b"", b"nonsense", b"{}", json.dumps([1] * 50_000).encode()],
    indirect=True,
    ids=["empty", "nonsense", "object", "long"],
)
async def test_a_file_without_an_entry_is_ignored(
    locked: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = files_in(locked.parent)
    discovery = LocalDiscovery(locked.parent)
    watch = discovery.watch("billing")
    with caplog.at_level(logging.WARNING, "fastnode.discovery"):
        assert await next_set(watch) == ()
    assert "x.node" in caplog.text
    async with discovery.announce(FakeNode.at("billing", ONE), ["billing"]):
        assert await next_set(watch) == (ONE,)
    assert files_in(locked.parent) == before
    await watch.aclose()


async def test_files_that_were_never_completed_are_removed_in_time(
    directory: Path,
) -> None:
    discovery = LocalDiscovery(directory)
    old, young = directory / "a.node.new", directory / "b.node.new"
    for path in (old, young):
        path.touch()
    os.utime(old, (0, 0))
    watch = discovery.watch("billing")
    assert await next_set(watch) == ()
    assert files_in(directory) == [young]
    await watch.aclose()


# --- the directory --------------------------------------------------------------------


def test_a_directory_is_made_for_its_user_alone(directory: Path) -> None:
    previous = os.umask(0)
    try:
        assert LocalDiscovery(directory).directory == directory
    finally:
        os.umask(previous)
    assert directory.stat().st_mode & 0o7777 == 0o700
    assert repr(LocalDiscovery(str(directory))) == f"<LocalDiscovery in {directory}>"


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o750, 0o701])
def test_a_directory_that_others_can_enter_is_refused(
    directory: Path, mode: int
) -> None:
    directory.mkdir()
    directory.chmod(mode)
    with pytest.raises(ConfigError, match="other users") as caught:
        LocalDiscovery(directory)
    assert caught.value.hint == f"chmod 700 {directory}"


def test_a_directory_of_another_user_is_refused(directory: Path) -> None:
    directory.mkdir(mode=0o700)
    with mock.patch("os.geteuid", return_value=os.geteuid() + 1):
        with pytest.raises(ConfigError, match="belongs to the user"):
            LocalDiscovery(directory)


def test_links_files_and_missing_parents_are_refused(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(real)
    (tmp_path / "file").touch()
    for name in ("link", "file", "no/where"):
        with pytest.raises(ConfigError, match="cannot be used"):
            LocalDiscovery(tmp_path / name)
    for wrong in ("", "a\0b", b"bytes", 3):
        with pytest.raises(ConfigError, match="give a path"):
            LocalDiscovery(wrong)  # type: ignore[arg-type]


async def test_a_directory_that_becomes_unsafe_gives_no_more_sets(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    discovery, set_mode = LocalDiscovery(directory), directory.chmod
    watch = discovery.watch("billing")
    async with discovery.announce(FakeNode.at("billing", ONE), ["billing"]):
        assert await next_set(watch) == (ONE,)
        with caplog.at_level(logging.WARNING, "fastnode.discovery"):
            set_mode(0o777)
            await until(lambda: "its last targets stay valid" in caplog.text)
            await until(lambda: "cannot be announced" in caplog.text)
        with pytest.raises(ConfigError):
            await discovery.announce(FakeNode.at("billing", TWO), ["b"]).__aenter__()
        set_mode(0o700)
        async with discovery.announce(FakeNode.at("billing", TWO), ["billing"]):
            assert await next_set(watch) == (ONE, TWO)
    await watch.aclose()


async def test_a_file_that_cannot_be_written_leaves_nothing(directory: Path) -> None:
    discovery = LocalDiscovery(directory)
    with mock.patch("os.write", side_effect=OSError("full")):
        with pytest.raises(DiscoveryError, match="full"):
            await discovery.announce(FakeNode.at("b", ONE), ["b"]).__aenter__()
    assert not files_in(directory)
    assert not held_file._held


def test_the_default_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert LocalDiscovery().directory == tmp_path / "fastnode"


@pytest.mark.parametrize("given", ["", "relative", "/no/where", "file", "another"])
def test_a_default_directory_that_cannot_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    user = os.geteuid()
    if given == "file":
        (tmp_path / "file").touch()
        given = str(tmp_path / "file")
    if given == "another":  # as after `sudo`
        given = str(tmp_path)
        user += 1
        monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setenv("XDG_RUNTIME_DIR", given)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: "/temporary")
    runtime = Path(f"/run/user/{user}")
    expected = Path(f"/temporary/fastnode-{user}")
    if runtime.is_dir() and runtime.stat().st_uid == user:
        expected = runtime / "fastnode"
    assert default_directory() == expected
