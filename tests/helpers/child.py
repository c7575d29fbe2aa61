"""A node in a process of its own, as the test sees it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from fastnode import (
    CertAuthManager,
    Certificate,
    CertPool,
    ClientAuth,
    Node,
    Route,
)
from fastnode.testing import authority
from helpers.nodes import WAIT_SECONDS

__all__ = ["Child", "manager_of", "write_certificates"]


def write_certificates(folder: Path, *names: str) -> None:
    """An authority, and a certificate for each node, as files."""
    ca = authority("test CA")
    for name in names:
        ca.write(folder, name)


def manager_of(folder: Path, name: str) -> CertAuthManager:
    """Mutual TLS with the files of `write_certificates`."""
    pool = CertPool.load(folder / "ca.pem")
    return CertAuthManager(
        Certificate.load(folder / f"{name}.pem", folder / f"{name}-key.pem"),
        client_cas=pool,
        client_auth=ClientAuth.REQUIRE_AND_VERIFY_CLIENT_CERT,
        root_cas=pool,
    )


class Child:
    """Runs `helpers.child_main`, and has ended after the ``async with``.

    Attributes:
        address: where its node listens.
        instance: `Node.instance` of its node.
        last: the last line that it said.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = name
        self._process: asyncio.subprocess.Process | None = None
        self.address = ("", 0)
        self.instance = ""
        self.last: dict[str, Any] = {}

    async def __aenter__(self) -> Self:
        loop = type(asyncio.get_running_loop()).__module__.partition(".")[0]
        # Warnings of the child are errors too, and so is a resource that it leaks.
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-W", "error", "-m", "helpers.child_main",
            str(self._folder), self._name, loop,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sys.path))},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            started = await self.said()
        except BaseException:
            await self.kill()
            raise
        host, port = started["listening"]
        self.address = (host, port)
        self.instance = started["instance"]
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._running.returncode is None and exc is None:
            await self.stop()
        elif self._running.returncode is None:
            await self.kill()

    @property
    def _running(self) -> asyncio.subprocess.Process:
        assert self._process is not None
        return self._process

    async def said(self) -> dict[str, Any]:
        """The next line that it says."""
        assert self._running.stdout is not None
        async with asyncio.timeout(WAIT_SECONDS):
            line = await self._running.stdout.readline()
        if not line:
            raise AssertionError(f"the child has ended: {await self._reap()}")
        self.last = json.loads(line)
        return self.last

    async def ask(self, what: str, **details: Any) -> dict[str, Any]:
        """Tell it to do something; returns its answer."""
        self.tell(what, **details)
        return await self.said()

    def tell(self, what: str, **details: Any) -> None:
        """Tell it to do something; `said` has the answer."""
        assert self._running.stdin is not None
        self._running.stdin.write(json.dumps({"do": what, **details}).encode() + b"\n")

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._running.send_signal(number)

    def close_input(self) -> None:
        """End its standard input, which tells it to stop."""
        assert self._running.stdin is not None
        self._running.stdin.close()

    async def stop(self) -> None:
        """Have it stop in order, if it does not already; it must leave nothing."""
        self.close_input()
        while "left" not in self.last:
            await self.said()
        assert self.last == {"left": []}
        assert await self._reap() == (0, "")

    async def kill(self) -> None:
        """SIGKILL, and reap it."""
        self.signal(signal.SIGKILL)
        self.close_input()
        await self._reap()

    async def _reap(self) -> tuple[int, str]:
        """Wait for its end; its exit status and what stood on its standard error."""
        process = self._running
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                errors = await process.stderr.read()
                await process.stdout.read()
                return await process.wait(), errors.decode()
        except TimeoutError:
            process.kill()
            await process.wait()
            raise

    def route(self) -> Route:
        """The way to its node."""
        return Route(f"^{self._name}$", *self.address)

    def introduce_to(self, node: Node) -> None:
        """Tell a node of this process where it is."""
        for old in node.routes(self._name):
            node.remove_route(old.match)
        node.add_route(self.route())
