"""Instructions for each message, counted by callgrind: a guard that noise cannot move.

    python bench/instructions.py             count, and compare with instructions.json
    python bench/instructions.py --update    write what was counted there

Each work is done N and then 2 N times between marks, calls of getppid(2) before which
callgrind writes its counters; the difference is N without what happens once. The
collector of garbage rests, hashes are not random, and links pass their bytes through
memory, without TLS. Counts depend on the interpreter, the compilers and the machine:
where instructions.json does not know these, nothing is judged.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from link_pair import LinkPair

KNOWN = Path(__file__).with_suffix(".json")
#: More than this share above what is known fails.
TOLERANCE = 0.05
BATCH = 100
#: The name of a work, how many messages, and how large they are.
CODEC = {"64 B": (64, 2000), "16 KiB": (16 << 10, 200)}
LINK_MESSAGES = 2000
CALLS = 500
TOO_LONG_SECONDS = 600

Run = Callable[[int], object]


# --- what is counted ----------------------------------------------------------------


def encode(size: int) -> Run:
    """Queue messages, and take out their frames."""
    from fastnode.buffers.pool import BufferPool
    from fastnode.wire.encoder import Encoder

    encoder, payload = Encoder(BufferPool()), bytes(size)

    def run(count: int) -> None:
        for _ in range(count // BATCH):
            for _ in range(BATCH):
                encoder.add_message("endpoint", payload)
            encoder.take()

    return run


def decode(size: int) -> Run:
    """Feed frames, and take their payloads."""
    from fastnode.buffers.pool import BufferPool
    from fastnode.wire.decoder import Decoder
    from fastnode.wire.encoder import Encoder

    pool = BufferPool()
    encoder, decoder = Encoder(pool), Decoder(pool)
    for _ in range(BATCH):
        encoder.add_message("endpoint", bytes(size))
    # The endpoint is announced once; what the second round gives is all frames.
    decoder.feed(encoder.take())
    for _ in range(BATCH):
        encoder.add_message("endpoint", bytes(size))
    data = encoder.take()

    def run(count: int) -> None:
        for _ in range(count // BATCH):
            decoder.feed(data)

    return run


def plain(_: object) -> None:
    """A handler."""


async def asynchronous(_: object) -> None:
    """A handler that runs as a task."""


def dispatch(
    loop: asyncio.AbstractEventLoop, handler: Callable[[object], object]
) -> Run:
    """`link.send` to the handler's return, both sides."""
    pair = loop.run_until_complete(new_pair())
    pair.registry.add("sink", handler)
    link, payload = loop.run_until_complete(pair.connected()), bytes(64)

    async def send(count: int) -> None:
        for _ in range(count // BATCH):
            for _ in range(BATCH):
                link.send("sink", payload)
            await asyncio.sleep(0)
            await link.drain()
        await link.send_confirmed("sink", payload)

    return lambda count: loop.run_until_complete(send(count))


def call(loop: asyncio.AbstractEventLoop) -> Run:
    """`link.call` to its reply, one at a time, both sides."""
    pair = loop.run_until_complete(new_pair())
    pair.registry.add("echo", lambda message: message.payload)
    link, payload = loop.run_until_complete(pair.connected()), bytes(64)

    async def calls(count: int) -> None:
        for _ in range(count):
            await link.call("echo", payload)

    return lambda count: loop.run_until_complete(calls(count))


async def new_pair() -> LinkPair:
    """Made where a loop runs."""
    from link_pair import LinkPair

    return LinkPair()


def works(loop: asyncio.AbstractEventLoop) -> Iterator[tuple[str, int, Run]]:
    """All of them: name, N, and what does it N times."""
    for name, (size, count) in CODEC.items():
        yield f"encode, {name}", count, encode(size)
    for name, (size, count) in CODEC.items():
        yield f"decode, {name}", count, decode(size)
    yield "dispatch, 64 B", LINK_MESSAGES, dispatch(loop, plain)
    yield "dispatch, async", LINK_MESSAGES, dispatch(loop, asynchronous)
    yield "call, 64 B", CALLS, call(loop)


def work_through() -> None:
    """Run under callgrind: three marks for each work."""
    gc.disable()
    loop = asyncio.new_event_loop()
    for name, count, run in works(loop):
        run(count)
        os.getppid()
        run(count)
        os.getppid()
        run(2 * count)
        os.getppid()
        print(f"{count} {name}", flush=True)
    # What lives still has nothing to say.
    os._exit(0)


# --- counting -----------------------------------------------------------------------


def counted() -> dict[str, float]:
    """Instructions for each message, by work.

    Raises:
        SystemExit: callgrind did not do it.
    """
    with tempfile.TemporaryDirectory() as text:
        out = Path(text) / "out"
        done = subprocess.run(
            [
                "valgrind", "--tool=callgrind", "--dump-before=getppid",
                f"--callgrind-out-file={out}", sys.executable, __file__, "--inside",
            ],
            env={**os.environ, "PYTHONHASHSEED": "0"},
            capture_output=True,
            text=True,
            check=False,
            timeout=TOO_LONG_SECONDS,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(done.stderr)
        parts = sorted(out.parent.glob("out.*"), key=lambda part: int(part.suffix[1:]))
        totals = [total(part) for part in parts]
    counts = {}
    for number, line in enumerate(done.stdout.splitlines()):
        count, _, name = line.partition(" ")
        once, twice = totals[3 * number + 1 : 3 * number + 3]
        counts[name] = (twice - once) / int(count)
    return counts


def total(part: Path) -> int:
    """Instructions in one of callgrind's files."""
    found = re.search(r"^summary: (\d+)", part.read_text(), re.MULTILINE)
    if found is None:
        raise SystemExit(f"{part.name} of callgrind has no summary")
    return int(found[1])


def surroundings() -> str:
    """What counts depend on besides the code."""
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC"))
    asked = subprocess.run(
        [*compiler, "-dumpversion"], capture_output=True, text=True, check=False
    )
    flags = sysconfig.get_config_var("CONFIG_ARGS") or ""
    return ", ".join(
        [
            f"{platform.python_implementation()} {platform.python_version()}",
            "optimized" if "--enable-optimizations" in flags else "plain",
            platform.machine(),
            f"{Path(compiler[0]).name} {asked.stdout.strip().partition('.')[0]}",
            " ".join(platform.libc_ver()),
        ]
    )


def compare(counts: dict[str, float], known: dict[str, float] | None) -> int:
    """Print them; 1 if any is too high."""
    too_high = 0
    for name, count in counts.items():
        line = f"{name:<20}{count:>12,.1f}"
        if known and name in known:
            change = count / known[name] - 1
            line += f"  {change:+7.1%} of {known[name]:,.1f}"
            if change > TOLERANCE:
                too_high, line = 1, f"{line}: too many"
            elif change < -TOLERANCE:
                line += ": fewer; --update makes that the measure"
        print(line)
    return too_high


def main() -> int:
    """Count, compare."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--update", action="store_true", help="they are right as is")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        work_through()
    if shutil.which("valgrind") is None:
        print("there is no valgrind: nothing is counted")
        return 0
    everything: dict[str, dict[str, float]] = json.loads(KNOWN.read_text())
    here = surroundings()
    print(f"instructions for each message; {here}")
    counts = counted()
    if options.update:
        compare(counts, everything.get(here))
        everything[here] = {name: round(count, 1) for name, count in counts.items()}
        KNOWN.write_text(json.dumps(everything, indent=1, sort_keys=True) + "\n")
        return 0
    result = compare(counts, everything.get(here))
    if here not in everything:
        print(f"{KNOWN.name} does not know these surroundings: nothing is judged")
    return result


if __name__ == "__main__":
    sys.exit(main())
