"""Bad days: no descriptors, no disk for logs, handlers that raise or never return."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import subprocess
import sys

import pytest

from fastnode import AcceptorOptions, ConfigError, Message, RemoteError
from helpers.nodes import WAIT_SECONDS, A, B, introduce, pair, running, start, until


@pytest.mark.skipif(sys.platform != "linux", reason="counts descriptors as Linux does")
async def test_out_of_file_descriptors() -> None:
    loop = type(asyncio.get_running_loop()).__module__.partition(".")[0]
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "helpers.exhausted_main", loop],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sys.path))},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["replies"], found
    assert not found["closed"], found
    assert found["late"] == "late", found
    assert "Too many open files" in found["dialed"], found
    assert found["first"].startswith("OutOfResources: "), found
    assert "Too many open files" in found["first"], found
    # It is tried again soon: no setting has to be changed.
    assert found["ceiling"] < 5, found
    assert any("accepting pauses" in line for line in found["heard"]), found
    assert any("file descriptors are short" in line for line in found["heard"]), found


async def test_an_address_in_use() -> None:
    async with running(B) as b:
        port = b.acceptors[0].address[1]
        with pytest.raises(ConfigError, match=f"port {port} is in use") as caught:
            await start(A, acceptors=[AcceptorOptions(port=port, port_range=1)])
        assert caught.value.hint


class FullDisk(logging.Handler):
    """As a handler of somebody's own, on a full disk."""

    def __init__(self) -> None:
        super().__init__()
        self.lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.lost += 1
        raise OSError(errno.ENOSPC, "No space left on device")


async def test_a_full_disk_for_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    full = FullDisk()
    loggers = [logging.getLogger(f"fastnode.{n}") for n in ("acceptor", "node", "link")]
    levels = [log.level for log in loggers]
    for log in loggers:
        log.addHandler(full)
        log.setLevel(logging.DEBUG)
    try:
        async with pair() as (a, b):

            @b.handler("fails")
            def fails(message: Message) -> None:
                raise RuntimeError("broken")

            b.handler("echo")(lambda m: m.payload)
            link = await a.connect(B)
            for _ in range(3):
                link.send("fails", b"")
                link.send("nobody", b"")
            assert await link.call("echo", b"x", timeout=WAIT_SECONDS) == b"x"
            _, writer = await asyncio.open_connection(*b.acceptors[0].address)
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            await until(lambda: b.acceptors[0].stats.failed["ProtocolError"] == 1)
            writer.transport.abort()
            assert await link.call("echo", b"y", timeout=WAIT_SECONDS) == b"y"
        assert full.lost > 5
    finally:
        for log, level in zip(loggers, levels, strict=True):
            log.removeHandler(full)
            log.setLevel(level)


async def test_handlers_that_raise_end_nothing() -> None:
    async with pair() as (a, b):

        @b.handler("fails")
        def fails(message: Message) -> None:
            raise RuntimeError("broken")

        @b.handler("fails later")
        async def fails_later(message: Message) -> None:
            await asyncio.sleep(0)
            raise RuntimeError("broken")

        link = await a.connect(B)
        for name in ("fails", "fails later"):
            for _ in range(5):
                link.send(name, b"")
                with pytest.raises(RemoteError, match="broken"):
                    await link.call(name, b"", timeout=WAIT_SECONDS)
        await until(lambda: b.links[0].stats.handler_errors == 20)
        assert not link.closed


async def test_stop_is_bounded_whatever_a_handler_does(
    caplog: pytest.LogCaptureFixture,
) -> None:
    free = asyncio.Event()
    began = asyncio.Event()
    tasks: list[asyncio.Task[None] | None] = []
    loop = asyncio.get_running_loop()
    async with running(A, listens=False) as a:
        b = await start(B, shutdown_timeout=0.3)

        @b.handler("stubborn")
        async def stubborn(message: Message) -> None:
            tasks.append(asyncio.current_task())
            began.set()
            while not free.is_set():
                try:
                    await free.wait()
                except asyncio.CancelledError:
                    continue

        introduce(a, b)
        await a.send(B, "stubborn", b"")
        await began.wait()
        before = loop.time()
        await b.stop()
        assert loop.time() - before < WAIT_SECONDS
        assert "go on though they were cancelled" in caplog.text
        free.set()
        await until(lambda: tasks[0] is not None and tasks[0].done())
