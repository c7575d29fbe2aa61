"""How long an import takes in a new interpreter whose files the system has at hand."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from cell import Cell, Figures
from work.work import Pace, Work

#: fastnode, what it cannot do without, and a few others to compare with.
MODULES = ("fastnode", "ssl, asyncio", "uvloop", "aiofastnet", "grpc", "zmq.asyncio")

PROGRAM = """
import time
wall, cpu = time.perf_counter(), time.process_time()
import {modules}
print(time.perf_counter() - wall, time.process_time() - cpu)
"""


class ImportTime(Work):
    """In turns as everything; entrants are modules."""

    def __init__(self, pace: Pace) -> None:
        super().__init__(Cell("import", "import", "imports", "ms"), pace)
        self.rounds = pace.imports

    def names(self, chosen: list[str]) -> list[str]:
        return [modules for modules in MODULES if self._installed(modules)]

    def turn(self, name: str, folder: Path) -> Figures:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM.format(modules=name)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(done.stderr)
        wall, cpu = map(float, done.stdout.split())
        return {"ms": wall * 1e3, "CPU ms": cpu * 1e3}

    @staticmethod
    def _installed(modules: str) -> bool:
        packages = (name.strip().partition(".")[0] for name in modules.split(","))
        return all(find_spec(package) is not None for package in packages)


def works(pace: Pace) -> list[Work]:
    """The one there is."""
    return [ImportTime(pace)]
