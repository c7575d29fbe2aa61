"""A process that has announced a node, as the test sees it."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from helpers.nodes import WAIT_SECONDS

__all__ = ["announcer"]


@asynccontextmanager
async def announcer(
    where: Path | str, service: str, port: int, *more: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run `helpers.announcer_main` until it has announced; kill it in the end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "helpers.announcer_main",
        str(where), service, str(port), *more,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sys.path))},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        for word in ("announced", *(("forked",) if more else ())):
            async with asyncio.timeout(WAIT_SECONDS):
                assert await process.stdout.readline() == f"{word}\n".encode()
        yield process
    finally:
        process.stdin.close()  # which ends a forked child too
        if process.returncode is None:
            process.kill()
        async with asyncio.timeout(WAIT_SECONDS):
            await process.wait()
            await process.stdout.read()
