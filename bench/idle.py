"""Holds idle links: `python bench/idle.py CONTENDER FOLDER PORT`.

For each line "FIRST COUNT" on standard input it opens so many more, and prints a line
when all of them are usable. Ends with standard input.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from contenders import ENTRANTS, Entrant


async def hold(entrant: Entrant, folder: Path, port: int) -> None:
    """Open them, and keep them."""
    clients = entrant.clients(folder)
    # A thread that waits for input: the loop has to answer keepalives.
    while line := await asyncio.to_thread(sys.stdin.readline):
        first, count = map(int, line.split())
        await clients.open(port, count, first)
        print("open", flush=True)
    await clients.close()


if __name__ == "__main__":
    chosen = ENTRANTS[sys.argv[1]]
    with asyncio.Runner(loop_factory=chosen.new_loop) as runner:
        runner.run(hold(chosen, Path(sys.argv[2]), int(sys.argv[3])))
