"""Peers that never become links: raw bytes, silence, and floods of both."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from helpers.nodes import WAIT_SECONDS

__all__ = ["Crowd", "Impostor", "client_hello", "many_descriptors", "records"]

#: Connects under way at once: fewer than an acceptor's backlog.
AT_ONCE = 100


def client_hello(
    alpn: str = "fastnode/1",
    version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
    protocols: int = 1,
) -> bytes:
    """What a TLS client says first; it offers so many application protocols."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = context.maximum_version = version
    others = [f"other/{number}" for number in range(1, protocols)]
    context.set_alpn_protocols([alpn, *others])
    out = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), out, server_hostname="127.0.0.1")
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        return out.read()
    raise AssertionError


@contextmanager
def many_descriptors(count: int) -> Iterator[None]:
    """Allow this process `count` file descriptors meanwhile."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(wanted, soft), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Crowd:
    """Many connections to one address that do nothing of use.

    Args:
        target: host and port.
        count: how many.
        source: the address that connection number n comes from.
        says: what it says once it is there.
        drips: what it says after that, a byte a second, again and again.
    """

    def __init__(
        self,
        target: tuple[str, int],
        count: int,
        *,
        source: Callable[[int], str] = lambda number: "127.0.0.1",
        says: Callable[[int], bytes] = lambda number: b"",
        drips: Callable[[int], bytes] = lambda number: b"",
    ) -> None:
        self._target = target
        self._count = count
        self._source = source
        self._says = says
        self._drips = drips
        self._task: asyncio.Task[None] | None = None
        self.sockets: list[socket.socket] = []

    async def __aenter__(self) -> Self:
        gate = asyncio.Semaphore(AT_ONCE)
        await asyncio.gather(*(self._come(n, gate) for n in range(self._count)))
        self._task = asyncio.ensure_future(self._drip())
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait([self._task])
        for sock in self.sockets:
            sock.close()

    async def _come(self, number: int, gate: asyncio.Semaphore) -> None:
        sock = socket.socket()
        self.sockets.append(sock)
        sock.setblocking(False)
        async with gate:
            sock.bind((self._source(number), 0))
            await asyncio.get_running_loop().sock_connect(sock, self._target)
            if words := self._says(number):
                sock.send(words)

    async def _drip(self) -> None:
        at = 0
        while True:
            for number, sock in enumerate(self.sockets):
                if words := self._drips(number):
                    try:
                        sock.send(words[at : at + 1])
                    except OSError:  # it made room
                        continue
            at += 1
            await asyncio.sleep(1)


class Impostor:
    """A dialer that shows certificates, and never proves that it has the key.

    Args:
        certificates, key: files, PEM. OpenSSL shows nothing without a key: what that
            has signed is held back.
    """

    def __init__(self, certificates: Path, key: Path) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.check_hostname = False
        self._context.verify_mode = ssl.CERT_NONE
        self._context.set_alpn_protocols(["fastnode/1"])
        self._context.load_cert_chain(certificates, key)
        self._writers: list[asyncio.StreamWriter] = []

    async def come(self, address: tuple[str, int], *, then: bytes = b"") -> None:
        """Connect, show them, say something more, and stay."""
        reader, writer = await asyncio.open_connection(*address)
        self._writers.append(writer)
        into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = self._context.wrap_bio(into, out, server_hostname="127.0.0.1")
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                writer.write(out.read())
                into.write(await reader.read(1 << 16))
        # The last two are CertificateVerify and Finished.
        writer.write(b"".join(records(out.read())[:-2]) + then)

    async def come_often(
        self, count: int, address: tuple[str, int], *, then: bytes = b""
    ) -> None:
        """Connect `count` times. Few of the handshakes are under way at once: the node
        is measured by what it holds afterwards, not by its peak."""
        gate = asyncio.Semaphore(20)

        async def come() -> None:
            async with gate:
                await self.come(address, then=then)

        async with asyncio.timeout(WAIT_SECONDS):
            await asyncio.gather(*(come() for _ in range(count)))

    async def leave(self) -> None:
        """Close all connections."""
        for writer in self._writers:
            writer.close()
        for writer in self._writers:
            with contextlib.suppress(OSError):
                await writer.wait_closed()


def records(data: bytes) -> list[bytes]:
    """TLS records, one by one."""
    found = []
    while data:
        size = 5 + int.from_bytes(data[3:5])
        found.append(data[:size])
        data = data[size:]
    return found
