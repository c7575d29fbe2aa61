"""What is read from the environment of a service manager, and what it is told."""

from __future__ import annotations

import logging
import os
import socket
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastnode.workers.systemd import (
    STATUS_CHARACTERS,
    ServiceManager,
    find_socket,
    find_watchdog,
    make_message,
)
from helpers.nodes import until


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("/run/systemd/notify", "/run/systemd/notify"),
        ("@/org/freedesktop/systemd1/notify", "\0/org/freedesktop/systemd1/notify"),
        ("", None),
        ("@", None),
        ("vsock:2:1234", None),
        ("relative/path", None),
    ],
)
def test_addresses(
    address: str, found: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    assert find_socket({"NOTIFY_SOCKET": address}) == found
    assert bool(caplog.records) is (found is None and address != "")


@pytest.mark.parametrize(
    ("usec", "pid", "found"),
    [
        ("30000000", "", 30.0),
        ("30000000", "7", 30.0),
        ("30000000", "8", None),
        ("500000", "7", 0.5),
        ("", "7", None),
        ("0", "", None),
        ("9" * 5000, "", None),
    ],
)
def test_watchdog(usec: str, pid: str, found: float | None) -> None:
    environment = {"WATCHDOG_USEC": usec, "WATCHDOG_PID": pid}
    assert find_watchdog(environment, 7) == found


@given(st.text())
def test_any_environment(text: str) -> None:
    """A program starts although these variables have values without a meaning."""
    assert find_watchdog({"WATCHDOG_USEC": text}, 7) is None or text.isdecimal()
    find_socket({"NOTIFY_SOCKET": text})


@given(st.text(), st.text())
def test_a_value_stays_within_its_line(first: str, second: str) -> None:
    """Nobody who has chosen a part of a status can say that the program is ready."""
    data = make_message({"STATUS": first, "ERRNO": second})
    lines = data.decode().split("\n")
    assert [line.partition("=")[0] for line in lines] == ["STATUS", "ERRNO"]
    assert all(len(line) <= len("STATUS=") + STATUS_CHARACTERS for line in lines)
    assert "".join(lines).isprintable()


def test_text_of_people_stays_as_it_is() -> None:
    data = make_message({"READY": "1", "STATUS": "büro@host is ready"})
    assert data == "READY=1\nSTATUS=büro@host is ready".encode()


async def test_nobody_wants_to_know() -> None:
    manager = ServiceManager({"WATCHDOG_USEC": "1000"})
    manager.start()
    manager.ready("ready")
    manager.reloading("reads")
    manager.reloaded("ready")
    manager.stopping("stops")
    manager.close()


async def test_a_full_queue_does_not_hold_up_the_loop_for_long(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as theirs:
        theirs.bind(address)
        manager = ServiceManager({"NOTIFY_SOCKET": address})
        manager.start()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
            other.setblocking(False)
            with pytest.raises(BlockingIOError):
                while True:
                    other.sendto(b"x", address)
        manager.ready("ready")
        assert "was not told READY=1: timed out" in caplog.text
        manager.close()


@pytest.mark.parametrize("kind", ["path", "abstract"])
async def test_the_loop_is_alive(tmp_path: Path, kind: str) -> None:
    address = str(tmp_path / "notify")
    if kind == "abstract":
        if sys.platform != "linux":
            pytest.skip("abstract sockets are Linux's")
        address = f"@fastnode-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as theirs:
        theirs.bind(address.replace("@", "\0"))
        theirs.setblocking(False)
        manager = ServiceManager(
            {
                "NOTIFY_SOCKET": address,
                "WATCHDOG_USEC": "20000",
                "WATCHDOG_PID": str(os.getpid()),
            }
        )
        manager.start()
        told: list[bytes] = []

        def read() -> bool:
            with suppress(BlockingIOError):
                told.append(theirs.recv(100))
            return len(told) > 3

        await until(read)
        manager.close()
        assert set(told) == {b"WATCHDOG=1"}


async def test_what_was_not_ready_is_not_reloaded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    manager = ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "nobody")})
    manager.start()
    manager.reloading("reads")
    manager.reloaded("ready")
    assert not caplog.records
    manager.stopping("stops")
    assert "was not told STOPPING=1" in caplog.text
    manager.close()
