"""The server process, as the client sees it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple


class Progress(NamedTuple):
    """What a server has done so far.

    Attributes:
        cpu: seconds of CPU time, user and system.
        messages: one-way messages that came.
        wrong: those among them whose contents were wrong.
    """

    cpu: float
    messages: int
    wrong: int


@dataclass(frozen=True)
class Memory:
    """Memory of a process, bytes: resident, and its proportional share of that."""

    rss: int
    pss: int


class ServerProcess:
    """A running server: it has printed its port, and answers each line with one."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.port = int(self._line())

    def progress(self) -> Progress:
        """What it has done so far."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        cpu, messages, wrong = self._line().split()
        return Progress(float(cpu), int(messages), int(wrong))

    def memory(self) -> Memory:
        """What it holds; Linux only."""
        sizes = {}
        rollup = Path(f"/proc/{self._process.pid}/smaps_rollup").read_text()
        for line in rollup.splitlines()[1:]:
            name, _, rest = line.partition(":")
            sizes[name] = int(rest.split()[0]) << 10
        return Memory(sizes["Rss"], sizes["Pss"])

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("the server process ended; its error is above")
        return line


@contextmanager
def server(command: list[str]) -> Iterator[ServerProcess]:
    """Run a server; it has ended afterwards."""
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # gRPC writes notes about its start on standard error.
        env={**os.environ, "GRPC_VERBOSITY": "NONE"},
    ) as process:
        try:
            yield ServerProcess(process)
            assert process.stdin is not None
            process.stdin.close()
            process.wait(timeout=30)
        finally:
            process.kill()
