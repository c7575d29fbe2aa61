"""What a process holds, and a process that serves and tells it: for the soak runs."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import os
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastnode import Node

__all__ = ["Server", "footprint", "served", "tell"]


def footprint() -> dict[str, int]:
    """Memory, descriptors and TLS contexts of this process."""
    gc.collect()
    # What the allocator keeps is no leak: give it back where that can be asked for.
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "rss": pages * os.sysconf("SC_PAGE_SIZE"),
        "descriptors": len(list(Path("/proc/self/fd").iterdir())),
        "contexts": sum(isinstance(o, ssl.SSLContext) for o in gc.get_objects()),
    }


async def tell(node: Node, more: Callable[[], dict[str, Any]] = dict) -> None:
    """Be the server: answer each line of standard input with the state, until it ends.

    Args:
        more: what else belongs to the state.
    """
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    (acceptor,) = node.acceptors
    print(json.dumps({"address": acceptor.address}), flush=True)
    while await reader.readline():
        stats = acceptor.stats
        state = {
            **footprint(),
            "links up": stats.links,
            "links": len(node.links),
            "refused": stats.refused,
            "failed": stats.failed,
            **more(),
        }
        print(json.dumps(state), flush=True)


@dataclass(slots=True)
class Server:
    """The process that runs `tell`."""

    process: asyncio.subprocess.Process
    address: tuple[str, int]

    async def state(self) -> dict[str, Any]:
        """What `tell` prints."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(b"\n")
        line = await asyncio.wait_for(self.process.stdout.readline(), 60)
        state: dict[str, Any] = json.loads(line)
        return state


@asynccontextmanager
async def served(script: str, folder: Path) -> AsyncIterator[Server]:
    """Start ``script --accept folder``, and end it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        script,
        "--accept",
        str(folder),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,  # a warning for each refusal
    )
    try:
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), 60)
        host, port = json.loads(line)["address"]
        yield Server(process, (host, port))
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await asyncio.wait_for(process.wait(), 60)
