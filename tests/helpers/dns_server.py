"""A real DNS server (dnsmasq) on loopback, whose records the test changes."""

from __future__ import annotations

import asyncio
import shutil
import signal
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, nullcontext, suppress
from pathlib import Path

import pytest

from helpers.nodes import WAIT_SECONDS

__all__ = ["DnsServer", "needs_dnsmasq"]

DNSMASQ = shutil.which("dnsmasq") or shutil.which("dnsmasq", path="/usr/sbin")

needs_dnsmasq = pytest.mark.skipif(
    DNSMASQ is None, reason="needs dnsmasq (Debian: dnsmasq-base)"
)


def free_port() -> int:
    """A port that is free for UDP and TCP; another program may take it meanwhile."""
    while True:
        with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            tcp.bind(("127.0.0.1", 0))
            port: int = tcp.getsockname()[1]
            try:
                udp.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


class DnsServer:
    """dnsmasq, authoritative for the domain ``test``.

    Attributes:
        address: IP address and port.
        records: lines of its configuration, such as ``host-record=a.test,10.0.0.1``.
    """

    def __init__(self, folder: Path, *, ttl: int = 0) -> None:
        self._folder = folder
        self._ttl = ttl
        self._process: asyncio.subprocess.Process | None = None
        self.address = ("127.0.0.1", 0)
        self.records: list[str] = []

    async def start(self) -> None:
        """Start it with the records, at the same port as before."""
        if self.address[1]:
            await self._start()
            return
        for attempt in range(3):
            self.address = ("127.0.0.1", free_port())
            # Another program may have taken the port.
            with suppress(AssertionError) if attempt < 2 else nullcontext():
                await self._start()
                return

    async def _start(self) -> None:
        assert DNSMASQ is not None
        configuration = self._folder / "dnsmasq.conf"
        text = "\n".join(
            [
                "no-resolv", "no-hosts", "no-daemon", "bind-interfaces", "pid-file=",
                "user=", "listen-address=127.0.0.1", "local=/test/", "cache-size=0",
                "log-facility=-", f"port={self.address[1]}", f"local-ttl={self._ttl}",
                *self.records, "",
            ]
        )  # fmt: skip
        await asyncio.to_thread(configuration.write_text, text)
        self._process = await asyncio.create_subprocess_exec(
            DNSMASQ,
            f"--conf-file={configuration}",
            stderr=asyncio.subprocess.PIPE,
        )
        assert self._process.stderr is not None
        async with asyncio.timeout(WAIT_SECONDS):
            said = b""
            while b"started" not in said:
                line = await self._process.stderr.readline()
                if not line:
                    await self.stop()
                    raise AssertionError(f"dnsmasq ended: {said!r}")
                said += line

    async def stop(self) -> None:
        """Kill it."""
        process, self._process = self._process, None
        if process is not None:
            if process.returncode is None:
                process.kill()
            assert process.stderr is not None
            async with asyncio.timeout(WAIT_SECONDS):
                await process.stderr.read()
                await process.wait()

    async def set_records(self, records: Iterable[str]) -> None:
        """Let it have these records, which are lines of its configuration."""
        self.records = list(records)
        await self.stop()
        await self.start()

    @asynccontextmanager
    async def silent(self) -> AsyncIterator[None]:
        """A context in which it does not answer."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    @asynccontextmanager
    async def away(self) -> AsyncIterator[None]:
        """A context in which there is no server at all."""
        await self.stop()
        try:
            yield
        finally:
            await self.start()
