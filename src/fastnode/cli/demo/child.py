"""The second process of the demo: how the first one starts it and asks it."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from fastnode.errors import FastnodeError

__all__ = ["ChildNode"]

#: Time for an answer, and for the start of an interpreter and a node, seconds.
ANSWER_SECONDS = 30.0
EXIT_SECONDS = 10.0


class ChildNode:
    """Starts ``fastnode.cli.demo.second`` and talks to it in JSON lines."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = directory
        self._name = name
        self._process: asyncio.subprocess.Process | None = None
        self.address: tuple[str, int] = ("", 0)

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "fastnode.cli.demo.second",
            str(self._directory),
            self._name,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            # Ctrl-C in a terminal reaches the first process only, which ends this one.
            start_new_session=True,
        )
        try:
            host, port = (await self._answer())["listening"]
        except BaseException:
            await self._end()
            raise
        self.address = (host, port)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._end()

    async def ask(self, request: str, **details: Any) -> dict[str, Any]:
        """Send a request and return the answer."""
        assert self._process is not None
        assert self._process.stdin is not None
        line = json.dumps({"request": request, **details}) + "\n"
        self._process.stdin.write(line.encode())
        await self._process.stdin.drain()
        return await self._answer()

    async def _answer(self) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                line = await self._process.stdout.readline()
        except TimeoutError:
            raise FastnodeError("the second process of the demo is silent") from None
        if not line:
            raise FastnodeError("the second process of the demo has ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    async def _end(self) -> None:
        """Close its standard input, which stops it. Kill it if it does not stop."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(EXIT_SECONDS):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
