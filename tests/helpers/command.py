"""The command `fastnode`, run in a process or in this one."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from click.testing import CliRunner, Result

from fastnode.cli.main import cli

#: Generous: starting an interpreter and a node takes a fraction of a second.
TIMEOUT_SECONDS = 50.0
ORDERS = "orders@127.0.0.1"
ME = "me@127.0.0.1"
#: What the names of their files begin with.
ORDERS_FILES = "orders_127.0.0.1"
MY_FILES = "me_127.0.0.1"
#: Every command; "" is the program itself.
COMMANDS = [
    "", "ca", "ca init", "ca issue", "listen", "send", "call", "ping", "health",
    "check", "demo",
]  # fmt: skip


def environment() -> dict[str, str]:
    """80 columns, and the package under test wherever this process has it from."""
    path = os.pathsep.join(map(str, sys.path))
    return {**os.environ, "PYTHONPATH": path, "COLUMNS": "80"}


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-W", "error", "-m", "fastnode", *map(str, arguments)]


def fastnode(*arguments: object, stdin: bytes = b"") -> tuple[int, bytes, str]:
    """Run it in a process; its exit code, standard output and standard error."""
    done = subprocess.run(
        command(*arguments),
        input=stdin,
        env=environment(),
        capture_output=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr.decode()


def invoke(*arguments: object) -> Result:
    """Run it here."""
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def check_error(result: Result, code: int, *words: str) -> None:
    """One or two lines of error, in the words of people."""
    check_words(result.exit_code, result.stderr, code, *words)
    assert result.stdout == ""


def check_words(status: int, errors: str, code: int, *words: str) -> None:
    assert status == code, errors
    assert "Traceback" not in errors
    for word in words:
        assert word in errors
    first, *rest = errors.splitlines()
    if first.startswith("Usage: "):  # click's own words
        assert code == 2
        assert rest[-1].startswith("Error: ")
    else:
        assert first.startswith("error: ")
        assert len(rest) <= 1
        assert all(line.startswith("hint: ") for line in rest)


def certificates(folder: Path) -> Path:
    """Make a folder as `fastnode ca` leaves it."""
    assert invoke("ca", "init", folder).exit_code == 0
    for name in (ORDERS, ME):
        assert invoke("ca", "issue", name, "--dir", folder).exit_code == 0
    return folder


@contextmanager
def listening(
    certs: Path, *options: str
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A running `fastnode listen`, and its host and port; killed afterwards if it has
    not ended by itself."""
    with subprocess.Popen(
        command("listen", ORDERS, "--dir", certs, "--port", 0, *options),
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline().decode()
            yield process, address_in(line)
        finally:
            process.kill()


def address_in(line: str) -> str:
    """Return the address in the first line of `fastnode listen`."""
    if line.startswith("{"):
        address = json.loads(line)["address"]
        return f"{address['host']}:{address['port']}"
    found = re.fullmatch(rf"{ORDERS} listening on (127\.0\.0\.1:\d+)\n", line)
    assert found, line
    return found[1]


def ended(
    process: subprocess.Popen[bytes], number: signal.Signals
) -> tuple[int, list[str], str]:
    """Send a signal; exit code, the lines printed since, standard error."""
    process.send_signal(number)
    out, err = process.communicate(timeout=TIMEOUT_SECONDS)
    return process.returncode, out.decode().splitlines(), err.decode()


def me(certs: Path, address: str) -> list[object]:
    return ["--dir", certs, "--as", ME, "--route", address]
