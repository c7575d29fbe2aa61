"""A node in a process of its own, to see what strangers cost it."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from helpers.nodes import WAIT_SECONDS
from helpers.strangers import many_descriptors

__all__ = ["Host", "host", "measurable"]

CHILD = """
import asyncio, gc, sys
from pathlib import Path
import uvloop
from fastnode import AcceptorOptions
from fastnode.names import NodeName
from helpers.constraints import constrained
from helpers.nodes import A, B, running, until
from helpers.pki import authority
from helpers.strangers import many_descriptors

def rss():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

async def main():
    count = int(sys.argv[1])
    issuer = authority()
    if limits := [f"excluded;DNS:n{n}.internal" for n in range(int(sys.argv[4]))]:
        issuer = constrained(*limits, parent=issuer)
    alpha = issuer.issue(NodeName.parse(A))
    Path(sys.argv[2]).write_bytes(alpha.cert_pem)
    Path(sys.argv[3]).write_bytes(alpha.key_pem)
    options = [AcceptorOptions(
        port=0, max_handshakes=count, max_handshakes_per_address=count)]
    async with running(B, acceptors=options, handshake_timeout=60.0) as b:
        stats = b.acceptors[0].stats
        gc.collect()
        before = rss()
        print(b.acceptors[0].address[1], flush=True)
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, sys.stdin.readline)
        await until(lambda: stats.connections == count)
        # What was sent before is read by now.
        for _ in range(100):
            await asyncio.sleep(0)
        failed = sum((stats.failed + stats.refused).values())
        print(rss() - before, failed, flush=True)
        await loop.run_in_executor(None, sys.stdin.readline)

with many_descriptors(8192), asyncio.Runner(loop_factory=uvloop.new_event_loop) as r:
    r.run(main())
"""


def measurable(test: object) -> object:
    """Leave a test out where memory cannot be measured."""
    linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
    plain = pytest.mark.skipif(
        "LD_PRELOAD" in os.environ, reason="a sanitizer's memory counts"
    )
    return linux(plain(test))


@dataclass(frozen=True)
class Host:
    """The node, beta.

    Attributes:
        address: of its acceptor.
        certificate, key: files of alpha's, which it would take.
    """

    address: tuple[str, int]
    certificate: Path
    key: Path
    process: asyncio.subprocess.Process
    count: int

    async def cost(self) -> tuple[float, int]:
        """KiB for each of the connections, once all are there; and how many failed."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(b"\n")
        async with asyncio.timeout(WAIT_SECONDS):
            size, failed = (await self.process.stdout.readline()).split()
        return int(size) / 1024 / self.count, int(failed)


@asynccontextmanager
async def host(count: int, folder: Path, constraints: int = 0) -> AsyncIterator[Host]:
    """One that takes `count` handshakes at once.

    Args:
        constraints: how many name constraints the chain of alpha's certificate has.
    """
    certificate, key = folder / "alpha.pem", folder / "alpha.key"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CHILD, str(count), str(certificate), str(key),
        str(constraints),
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            port = int(await process.stdout.readline())
        with many_descriptors(8192):
            yield Host(("127.0.0.1", port), certificate, key, process, count)
        async with asyncio.timeout(WAIT_SECONDS):
            process.stdin.write(b"\n")
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
