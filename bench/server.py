"""The server process of a benchmark: `python bench/server.py CONTENDER FOLDER`.

Prints its port, then its CPU time, seconds, for each line on standard input, until
that ends.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

from contenders import CONTENDERS


async def serve(name: str, folder: Path) -> None:
    """Serve until standard input ends."""
    contender = CONTENDERS[name](folder)
    print(await contender.serve(), flush=True)
    # A thread that waits for input costs nothing while the loop works.
    while await asyncio.to_thread(sys.stdin.readline):
        print(time.process_time(), flush=True)
    await contender.close()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=CONTENDERS[sys.argv[1]].new_loop) as runner:
        runner.run(serve(sys.argv[1], Path(sys.argv[2])))
