"""`run_node` in real processes: signals, exit codes, and what systemd is told."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from fastnode import (
    ConfigError,
    FastnodeError,
    NetworkOptions,
    Node,
    NodeOptions,
    Route,
    run_node,
    start_node,
)
from helpers import served
from helpers.child import manager_of
from helpers.nodes import WAIT_SECONDS, until
from helpers.pki import authority
from helpers.served import certificates_of_a_group
from helpers.single_main import NAME

ME = "me@127.0.0.1"
#: The processes are what is tested here; they run uvloop.
pytestmark = pytest.mark.one_loop


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("certs")
    for name in (NAME, ME):
        authority().write(found, name)
    return found


class Program:
    """`helpers.single_main` as a process, and the lines that it has said."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []
        self._reading = asyncio.ensure_future(self._read())

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.lines.append(line.decode().rstrip())

    async def said(self, beginning: str) -> str:
        """Wait for a line with this beginning; the rest of it."""
        await until(lambda: self.find(beginning) or self._reading.done())
        found = self.find(beginning)
        assert found, self.lines
        return found[0].removeprefix(beginning)

    def find(self, beginning: str) -> list[str]:
        return [line for line in self.lines if line.startswith(beginning)]

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def ended(self) -> int:
        """Wait for the end; the exit code."""
        async with asyncio.timeout(WAIT_SECONDS):
            await self._reading
            return await self.process.wait()


@asynccontextmanager
async def started(
    folder: Path, how: str = "", *, wrapper: tuple[str, ...] = (), **variables: str
) -> AsyncIterator[Program]:
    """A program that runs a node; killed afterwards if it has not ended."""
    process = await asyncio.create_subprocess_exec(
        *wrapper, sys.executable, "-W", "error", "-m", "helpers.single_main",
        str(folder), how,
        env={
            **os.environ, "PYTHONPATH": os.pathsep.join(map(str, sys.path)), **variables
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    program = Program(process)
    try:
        yield program
    finally:
        if process.returncode is None:
            process.kill()
        await program.ended()


@asynccontextmanager
async def client(folder: Path, program: Program) -> AsyncIterator[Node]:
    """A node that knows where the program listens."""
    host, _, port = (await program.said("listens on ")).rpartition(":")
    options = NodeOptions(
        cert_manager=manager_of(folder, ME),
        network=NetworkOptions(
            acceptors=(), routes=[Route("^orders@", host, int(port))]
        ),
        shutdown_timeout=5.0,
    )
    async with await start_node(ME, options) as node:
        yield node


# --- signals and exit codes ----------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_loses_no_accepted_call(
    folder: Path, number: signal.Signals
) -> None:
    """Calls come all the time, from several tasks, when the signal comes."""
    async with started(folder) as program, client(folder, program) as node:
        answered = 0
        failures: list[FastnodeError] = []

        async def ask() -> None:
            nonlocal answered
            while True:
                try:
                    await node.call(NAME, "work", b"x", timeout=WAIT_SECONDS)
                except FastnodeError as error:
                    failures.append(error)
                    return
                answered += 1

        asking = [asyncio.ensure_future(ask()) for _ in range(20)]
        await until(lambda: answered > 100)
        program.signal(number)
        await asyncio.wait(asking)
        assert await program.ended() == 0
    # Each task ends with a call that no handler has seen.
    assert [error.begun for error in failures] == ["no"] * len(asking)
    assert program.find("handled ") == [f"handled {answered}"]
    assert program.lines[-1] == "returned"
    assert "cleans up, stopped, 0 links" in program.lines


async def test_a_second_signal_cuts_the_end_short(folder: Path) -> None:
    async with started(folder) as program, client(folder, program) as node:
        call = asyncio.ensure_future(node.call(NAME, "wait", b""))
        await program.said("waits")
        program.signal(signal.SIGTERM)
        await program.said("log: SIGTERM: orders@127.0.0.1 stops")
        program.signal(signal.SIGINT)
        assert await program.ended() == 128 + signal.SIGINT
        with pytest.raises(FastnodeError):
            await call
    # What setup does at its end is not left out.
    assert "cleans up, stopped, 0 links" in program.lines
    assert "returned" not in program.lines


async def test_a_second_signal_cuts_the_cleanup_short(folder: Path) -> None:
    async with started(folder, "slow end") as program:
        await program.said("ready: True")
        program.signal(signal.SIGTERM)
        await program.said("cleans up")
        program.signal(signal.SIGTERM)
        assert await program.ended() == 128 + signal.SIGTERM


async def test_a_third_signal_ends_the_process_at_once(folder: Path) -> None:
    async with started(folder, "thread that lives on") as program:
        await program.said("ready: True")
        program.signal(signal.SIGTERM)
        await program.said("handled ")
        program.signal(signal.SIGTERM)
        await program.said("log: SIGTERM: the end of")
        program.signal(signal.SIGINT)
        assert await program.ended() == 128 + signal.SIGINT


@pytest.mark.parametrize("how", ["blocked", "thread"])
async def test_a_program_that_does_not_end_in_time(folder: Path, how: str) -> None:
    """Its loop is blocked by a handler, or a thread of it does not end."""
    async with started(folder, how) as program, client(folder, program) as node:
        call = asyncio.ensure_future(node.call(NAME, "wait", b""))
        if how == "blocked":
            call.cancel()
            call = asyncio.ensure_future(node.call(NAME, "block", b""))
            await program.said("blocks")
        else:
            await program.said("waits")
        program.signal(signal.SIGTERM)
        assert await program.ended() == 1
        with pytest.raises(FastnodeError):
            await call
    assert any(line.startswith("Timeout (0:00:0") for line in program.lines)
    if how == "blocked":
        assert any("in block" in line for line in program.lines), program.lines
    else:
        assert "cleans up, stopped, 0 links" in program.lines


async def test_without_uvloop(folder: Path) -> None:
    async with started(folder, "asyncio") as program, client(folder, program) as node:
        assert await node.call(NAME, "work", b"x", timeout=WAIT_SECONDS) == b"x"
        assert program.find("log: the loop of asyncio is used")
        program.signal(signal.SIGTERM)
        assert await program.ended() == 0
    assert program.lines[-1] == "returned"


async def test_a_signal_during_the_start(folder: Path) -> None:
    async with started(folder, "slow start") as program:
        await program.said("listens on ")
        program.signal(signal.SIGTERM)
        assert await program.ended() == 0
    assert program.lines[-1] == "returned"
    assert not program.find("ready")


async def test_nobody_is_served_before_setup_is_done(folder: Path) -> None:
    async with started(folder, "slow start") as program:
        async with client(folder, program) as node:
            with pytest.raises(FastnodeError) as caught:
                await node.call(NAME, "work", b"", timeout=0.2)
            assert caught.value.begun == "no"


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("fails", "LookupError: no such database"),
        ("bad end", "LookupError: the database is gone"),
        ("generator", "setup returned a generator"),
        ("names", "cannot be loaded"),
    ],
)
async def test_errors_end_the_program(folder: Path, how: str, words: str) -> None:
    async with started(folder, how) as program:
        if how == "bad end":
            await program.said("ready: True")
            program.signal(signal.SIGTERM)
        assert await program.ended() == 1
    assert any(words in line for line in program.lines), program.lines
    assert "returned" not in program.lines


async def test_a_handler_that_exits(folder: Path) -> None:
    """The node is stopped in order, and the program has the handler's exit code."""
    async with started(folder) as program, client(folder, program) as node:
        with pytest.raises(FastnodeError):
            await node.call(NAME, "end", b"", timeout=WAIT_SECONDS)
        assert await program.ended() == 7
    assert "cleans up, stopped, 0 links" in program.lines


async def test_a_program_that_stops_its_node(folder: Path) -> None:
    """The program ends with its node. Otherwise it would live on and serve nobody."""
    async with started(folder) as program, client(folder, program) as node:
        assert await node.call(NAME, "stop", b"", timeout=WAIT_SECONDS) == b"stops"
        assert await program.ended() == 0
    assert "cleans up, stopped, 0 links" in program.lines
    assert program.lines[-1] == "returned"


async def test_options_without_a_function(folder: Path) -> None:
    async with started(folder, "options") as program:
        await program.said("listens on ")
        await program.said("log: orders@127.0.0.1 is up")
        program.signal(signal.SIGTERM)
        assert await program.ended() == 0


def child_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text())


@pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0 or shutil.which("unshare") is None,
    reason="needs a PID namespace: root on Linux, and unshare",
)
async def test_as_the_first_process_of_a_container(folder: Path) -> None:
    """The kernel ignores signals to process 1 that have no handler."""
    wrapper = ("unshare", "--pid", "--fork", "--kill-child")
    async with started(folder, wrapper=wrapper) as program:
        await program.said("ready: True")
        os.kill(child_of(program.process.pid), signal.SIGTERM)
        assert await program.ended() == 0
    assert program.lines[-1] == "returned"


# --- SIGHUP --------------------------------------------------------------------------


async def test_sighup_reads_certificate_files_again(folder: Path) -> None:
    async with started(folder, "watch") as program, client(folder, program) as node:
        await program.said("ready: True")
        before = (await node.connect(NAME)).peer.certificate
        authority().write(folder, NAME)
        program.signal(signal.SIGHUP)
        said = await program.said("log: SIGHUP: ")
        assert said == "1 of 1 certificate watches have taken new files"
        await node.reconnect(NAME)
        after = (await node.connect(NAME)).peer.certificate
        assert before is not None
        assert after is not None
        assert after.serial_number != before.serial_number
        program.signal(signal.SIGTERM)
        assert await program.ended() == 0


async def test_sighup_says_again_what_is_wrong_with_files(folder: Path) -> None:
    cert = folder / f"{NAME}.pem"
    good = cert.read_bytes()
    try:
        async with started(folder, "watch") as program:
            await program.said("ready: True")
            cert.write_bytes(b"nonsense")
            for _ in range(2):
                program.signal(signal.SIGHUP)
                await program.said("log: SIGHUP: 0 of 1")
                assert len(program.find(f"log: {cert}")) == 1, program.lines
                program.lines.clear()
            program.signal(signal.SIGTERM)
            assert await program.ended() == 0
    finally:
        cert.write_bytes(good)


# --- systemd -------------------------------------------------------------------------


class Systemd:
    """The socket of a service manager, and what it was told."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._socket.setblocking(False)
        self.told: list[dict[str, str]] = []

    def close(self) -> None:
        self._socket.close()

    def read(self) -> None:
        while True:
            try:
                data = self._socket.recv(4096)
            except BlockingIOError:
                return
            pairs = [line.partition("=") for line in data.decode().split("\n")]
            self.told.append({name: value for name, _, value in pairs})

    def messages(self, name: str) -> list[dict[str, str]]:
        self.read()
        return [each for each in self.told if name in each]

    async def wait(self, name: str, count: int = 1) -> dict[str, str]:
        """Wait until it was told something so often; the last message of it."""
        await until(lambda: len(self.messages(name)) >= count)
        return self.messages(name)[count - 1]


@contextmanager
def systemd(address: str) -> Iterator[Systemd]:
    found = Systemd(address)
    try:
        yield found
    finally:
        found.close()


async def test_systemd_is_told(folder: Path, tmp_path: Path) -> None:
    with systemd(str(tmp_path / "notify")) as manager:
        async with started(folder, "watch", NOTIFY_SOCKET=manager.address) as program:
            ready = await manager.wait("READY")
            assert ready == {"READY": "1", "STATUS": f"{NAME} is ready"}
            program.signal(signal.SIGHUP)
            reloading = await manager.wait("RELOADING")
            assert reloading["RELOADING"] == "1"
            now = time_us()
            assert now - 60_000_000 < int(reloading["MONOTONIC_USEC"]) <= now
            assert (await manager.wait("READY", 2))["READY"] == "1"
            program.signal(signal.SIGTERM)
            assert await program.ended() == 0
        stopping = await manager.wait("STOPPING")
        assert stopping == {"STOPPING": "1", "STATUS": f"{NAME} stops"}
        kinds = [set(each) - {"STATUS", "MONOTONIC_USEC"} for each in manager.told]
        assert [each for each in kinds if each] == [
            {"READY"}, {"RELOADING"}, {"READY"}, {"STOPPING"}
        ]  # fmt: skip


def time_us() -> int:
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


async def test_ready_is_told_when_the_program_says_so(
    folder: Path, tmp_path: Path
) -> None:
    with systemd(str(tmp_path / "notify")) as manager:
        async with (
            started(folder, "unready", NOTIFY_SOCKET=manager.address) as program,
            client(folder, program) as node,
        ):
            await node.call(NAME, "work", b"", timeout=WAIT_SECONDS)
            assert not manager.messages("READY")
            program.signal(signal.SIGHUP)
            await program.said("log: SIGHUP: ")
            await node.call(NAME, "ready", b"yes", timeout=WAIT_SECONDS)
            await manager.wait("READY")
            await node.call(NAME, "ready", b"no", timeout=WAIT_SECONDS)
            await node.call(NAME, "ready", b"yes", timeout=WAIT_SECONDS)
            program.signal(signal.SIGTERM)
            await manager.wait("STOPPING")
        assert len(manager.messages("READY")) == 1
        assert not manager.messages("RELOADING")
        said = [each["STATUS"].removeprefix(f"{NAME} ") for each in manager.told]
        assert said == ["is ready", "is not ready", "is ready", "stops"]


async def test_a_hung_loop_is_not_alive(folder: Path, tmp_path: Path) -> None:
    with systemd(str(tmp_path / "notify")) as manager:
        address = manager.address
        async with (
            started(folder, NOTIFY_SOCKET=address, WATCHDOG_USEC="100000") as program,
            client(folder, program) as node,
        ):
            await manager.wait("WATCHDOG", 3)
            call = asyncio.ensure_future(node.call(NAME, "block", b""))
            await program.said("blocks")
            manager.read()
            manager.told.clear()
            # Several intervals long: nothing is to come.
            await asyncio.sleep(0.3)
            assert not manager.messages("WATCHDOG")
            # What systemd does then.
            program.signal(signal.SIGABRT)
            assert await program.ended() == -signal.SIGABRT
            with pytest.raises(FastnodeError):
                await call
        assert any("in block" in line for line in program.lines), program.lines


async def test_systemd_is_told_by_a_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificates_of_a_group(tmp_path)
    with systemd(str(tmp_path / "notify")) as manager:
        monkeypatch.setenv("NOTIFY_SOCKET", manager.address)
        monkeypatch.setenv("WATCHDOG_USEC", "60000000")
        with served.started(tmp_path) as process:
            ready = await manager.wait("READY")
            assert ready == {"READY": "1", "STATUS": "2 workers are up"}
            process.send_signal(signal.SIGHUP)
            await manager.wait("RELOADING")
            assert (await manager.wait("READY", 2))["STATUS"] == (
                "all workers were replaced"
            )
            process.send_signal(signal.SIGTERM)
            await manager.wait("STOPPING")
            await until(lambda: process.poll() is not None)
        assert manager.messages("WATCHDOG")


async def test_a_service_manager_that_is_gone(folder: Path, tmp_path: Path) -> None:
    address = str(tmp_path / "nobody")
    async with started(folder, NOTIFY_SOCKET=address) as program:
        await program.said("ready: True")
        await program.said("log: the service manager was not told READY=1: ")
        program.signal(signal.SIGTERM)
        assert await program.ended() == 0


# --- arguments -----------------------------------------------------------------------

PLAIN = NodeOptions(network=NetworkOptions(plaintext=True, acceptors=()))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("no name", PLAIN), "node name"),
        ((NAME, None), "options is None"),
        ((NAME, PLAIN, 7), "setup is 7"),
    ],
)
def test_arguments_that_cannot_be(arguments: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        run_node(*arguments)
    assert caught.value.hint


@pytest.mark.parametrize("value", [-1, 100_000, float("nan"), "5", True])
def test_shutdown_timeouts_that_cannot_be(value: Any) -> None:
    with pytest.raises(ConfigError):
        run_node(NAME, PLAIN, shutdown_timeout=value)


def test_another_thread_gets_no_signals() -> None:
    code = """
from concurrent.futures import ThreadPoolExecutor
from fastnode import ConfigError, NetworkOptions, NodeOptions, run_node
options = NodeOptions(network=NetworkOptions(plaintext=True, acceptors=()))
with ThreadPoolExecutor() as pool:
    try:
        pool.submit(run_node, "a@b", options).result()
    except ConfigError as error:
        print(error.message)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sys.path))},
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        check=True,
    )
    assert done.stdout == "run_node was called in a thread that gets no signals\n"
