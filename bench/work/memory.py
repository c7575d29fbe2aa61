"""Memory of the server process for each idle link.

The links come from client processes that hold 1 000 each. Every link has carried one
call, then nothing. The first few of each process are not counted: with them comes what
a server needs once, and the processes with which it shares pages of libraries.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from cell import Cell, Figures
from contenders import ENTRANTS
from process import server
from work.work import Pace, Work

HOLDER = Path(__file__).parents[1] / "idle.py"
#: Links of each client process that come first and are not counted.
FIRST = 8
#: Links of a client process.
EACH = 1_000
#: How long a server that has just accepted may tidy up.
SETTLE_SECONDS = 1.0
#: Descriptors that a server needs besides its links.
OTHER_DESCRIPTORS = 200


class IdleLinks(Work):
    """It is the same in every round."""

    rounds = 1
    limit_seconds = 1800

    def __init__(self, links: int, pace: Pace) -> None:
        title = f"memory, {links:,} idle links"
        super().__init__(Cell("memory", title, "links", "RSS KiB"), pace)
        self.links = links

    def names(self, chosen: list[str]) -> list[str]:
        # Of those that hold the same, one.
        return [n for n in super().names(chosen) if "memory" in ENTRANTS[n].tags]

    def obstacle(self) -> str | None:
        if sys.platform != "linux":
            return "it is read from /proc/PID/smaps_rollup, which is Linux's"
        allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        if allowed < self.links + OTHER_DESCRIPTORS:
            return f"a process may have {allowed:,} descriptors only (ulimit -Hn)"
        return None

    def turn(self, name: str, folder: Path) -> Figures:
        command = ENTRANTS[name].server_command(folder)
        with server(command) as process, ExitStack() as stack:
            shares = range(0, self.links, EACH)
            holders = [
                stack.enter_context(holder(name, folder, process.port)) for _ in shares
            ]
            for each, first in zip(holders, shares, strict=True):
                each(first, FIRST)
            time.sleep(SETTLE_SECONDS)
            before = process.memory()
            for each, first in zip(holders, shares, strict=True):
                each(first + FIRST, min(EACH, self.links - first) - FIRST)
            time.sleep(SETTLE_SECONDS)
            after = process.memory()
            counted = (self.links - len(holders) * FIRST) * 1024
            return {
                "RSS KiB": (after.rss - before.rss) / counted,
                "PSS KiB": (after.pss - before.pss) / counted,
            }


@contextmanager
def holder(name: str, folder: Path, port: int) -> Iterator[Callable[[int, int], None]]:
    """A client process. What it yields makes it open links, from a client number on.

    They are there until the end.
    """
    with subprocess.Popen(
        [sys.executable, str(HOLDER), name, str(folder), str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:

        def more(first: int, count: int) -> None:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(f"{first} {count}\n")
            process.stdin.flush()
            if not process.stdout.readline():
                raise SystemExit(f"{name}: no {count} idle links; its error is above")

        try:
            yield more
        finally:
            # Nobody waits for ten thousand goodbyes.
            process.kill()


def works(pace: Pace) -> list[Work]:
    """Of a few links and of many."""
    return [IdleLinks(links, pace) for links in pace.idle]
