"""The server process of a benchmark: `python bench/server.py CONTENDER FOLDER`.

Prints its port, then "CPU-seconds messages wrong-ones" for each line on standard
input, until that ends.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

from contenders import ENTRANTS, PythonEntrant
from contents import Counter


async def serve(entrant: PythonEntrant, folder: Path) -> None:
    """Serve until standard input ends."""
    counter = Counter()
    contender = entrant.kind()(folder)
    print(await contender.serve(counter), flush=True)
    # A thread that waits for input costs nothing while the loop works.
    while await asyncio.to_thread(sys.stdin.readline):
        print(time.process_time(), counter.messages, counter.wrong, flush=True)
    await contender.close()


def main() -> None:
    """Serve what the arguments say."""
    entrant = ENTRANTS[sys.argv[1]]
    assert isinstance(entrant, PythonEntrant)
    with asyncio.Runner(loop_factory=entrant.new_loop) as runner:
        runner.run(serve(entrant, Path(sys.argv[2])))


if __name__ == "__main__":
    main()
