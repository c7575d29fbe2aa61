"""Somebody else's TLS at both ends of a node: `openssl s_client` and `s_server`."""

from __future__ import annotations

import asyncio
import logging
import re
import shutil
import subprocess
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from fastnode import (
    CertificateRequired,
    HandshakeError,
    HandshakeTimeout,
    Node,
    ProtocolError,
    Route,
    Side,
    UnknownAuthority,
)
from fastnode.names import NodeName
from helpers import frames
from helpers.nodes import WAIT_SECONDS, A, B, running, until
from helpers.pki import authority, manager

OPENSSL = shutil.which("openssl")


def why_not() -> str:
    """Why these tests cannot run here; "" if they can."""
    if OPENSSL is None:
        return "this machine has no openssl program"
    version = subprocess.run(
        [OPENSSL, "version"],
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        check=False,
    ).stdout
    # LibreSSL's, on macOS, has other options and other words.
    return "" if version.startswith("OpenSSL ") else f"openssl here is {version!r}"


pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())

OTHER = "Other CA"


def files(folder: Path, name: str, ca: str = "test CA") -> list[str]:
    """The options that give openssl a certificate."""
    cert, key = folder / f"{name}.pem", folder / f"{name}-key.pem"
    authority(ca).issue(NodeName.parse(name)).save(cert, key)
    return ["-cert", str(cert), "-key", str(key)]


def trusting(folder: Path, ca: str = "test CA") -> list[str]:
    """The options that have openssl verify the other side."""
    path = folder / "trusted.pem"
    path.write_bytes(authority(ca).cert_pem)
    return ["-CAfile", str(path), "-verify_return_error"]


@asynccontextmanager
async def openssl(*arguments: str) -> AsyncIterator[Process]:
    """A running openssl; killed afterwards if it has not ended by itself."""
    assert OPENSSL is not None
    process = await asyncio.create_subprocess_exec(
        OPENSSL, *arguments, stdin=PIPE, stdout=PIPE, stderr=PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        # It also reads the pipes to their ends, so that their transports close.
        async with asyncio.timeout(WAIT_SECONDS):
            await process.communicate()


def s_client(node: Node, *arguments: str) -> Any:
    """A client that writes to the node what comes on its input, and nothing else."""
    host, port = node.acceptors[0].address
    return openssl("s_client", "-connect", f"{host}:{port}", "-quiet", *arguments)


@asynccontextmanager
async def s_server(*arguments: str) -> AsyncIterator[tuple[Process, Route]]:
    """A server, and the way to it as beta."""
    async with openssl(
        "s_server", "-accept", "127.0.0.1:0", "-naccept", "1", *arguments
    ) as process:
        said = await read_until(process, b"ACCEPT ", b"\n")
        found = re.search(rb"ACCEPT [\d.]+:(\d+)", said)
        assert found, said
        yield process, Route(f"^{B}$", "127.0.0.1", int(found[1]))


async def read_until(process: Process, *marks: bytes) -> bytes:
    """What it writes to its standard output, until the marks were there in turn."""
    assert process.stdout is not None
    read = b""
    async with asyncio.timeout(WAIT_SECONDS):
        at = 0
        for mark in marks:
            while (found := read.find(mark, at)) < 0:
                part = await process.stdout.read(65536)
                assert part, f"no {mark!r} in {read!r}"
                read += part
            at = found + len(mark)
    return read


async def end_of(process: Process) -> tuple[int | None, str]:
    """Its exit status, when it ends by itself, and what it said of it."""
    assert process.stdout is not None
    assert process.stderr is not None
    async with asyncio.timeout(WAIT_SECONDS):
        await process.stdout.read()
        said = await process.stderr.read()
        return await process.wait(), said.decode(errors="replace")


def logged(caplog: pytest.LogCaptureFixture, name: str) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == name]


# --- s_client ------------------------------------------------------------------------


async def test_a_client_with_the_right_certificate_gets_a_link(tmp_path: Path) -> None:
    async with running(B) as b:
        b.handler("echo")(lambda m: m.sender.name.encode() + b" said " + m.payload)
        async with s_client(
            b, "-alpn", "fastnode/1", "-verify_ip", "127.0.0.1",
            *files(tmp_path, A), *trusting(tmp_path),
        ) as client:  # fmt: skip
            assert client.stdin is not None
            client.stdin.write(frames.hello(A))
            # beta's HELLO: its magic, then its name at the end.
            await read_until(client, b"fastnode", B.encode())
            client.stdin.write(
                frames.frame(frames.ACCEPT)
                + frames.frame(frames.ENDPOINT, b"echo")
                + frames.call(0, 1, b"hello")
            )
            await read_until(client, frames.reply(1, f"{A} said hello".encode()))
            (link,) = b.links
            assert (link.peer.name, link.peer.verified) == (A, True)
            assert link.peer.tls_version == "TLSv1.3"
        # It was killed: the link is lost, the node lives.
        await until(lambda: not b.links)
        assert b.acceptors[0].stats.links == 1
        assert not b.acceptors[0].stats.refused


@pytest.mark.parametrize(
    ("shows", "error", "alert"),
    [
        (None, CertificateRequired, "alert certificate required"),
        (OTHER, UnknownAuthority, "alert unknown ca"),
    ],
    ids=["no certificate", "another CA's"],
)
async def test_guarantee_2_a_client_of_openssl_reads_the_alert(
    shows: str | None,
    error: type[HandshakeError],
    alert: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    shown = files(tmp_path, A, shows) if shows else []
    async with running(B) as b:
        with caplog.at_level(logging.INFO):
            async with s_client(
                b, "-alpn", "fastnode/1", *shown, *trusting(tmp_path)
            ) as client:
                # TLS 1.3: it believes the handshake complete, and writes, before the
                # node has looked at its certificate; then it reads the alert. What it
                # writes meanwhile must not turn the alert into a reset.
                assert client.stdin is not None
                client.stdin.write(frames.hello(A) + bytes(1 << 20))
                status, said = await end_of(client)
            assert status == 1
            assert alert in said
            stats = b.acceptors[0].stats
            await until(lambda: stats.refused)
        assert dict(stats.refused) == {error.__name__: 1}
        assert not stats.failed
        (line,) = [x for x in logged(caplog, "fastnode.acceptor") if "refused" in x]
        assert error.__name__ in line
        assert b.links == ()


async def test_a_client_without_alpn_is_refused(tmp_path: Path) -> None:
    async with running(B) as b:
        async with s_client(b, *files(tmp_path, A), *trusting(tmp_path)) as client:
            await end_of(client)
        stats = b.acceptors[0].stats
        await until(lambda: stats.refused)
        assert dict(stats.refused) == {"HandshakeError": 1}


async def test_a_client_that_speaks_another_protocol_is_refused(tmp_path: Path) -> None:
    async with running(B) as b:
        async with s_client(
            b, "-alpn", "fastnode/1", *files(tmp_path, A), *trusting(tmp_path)
        ) as client:
            assert client.stdin is not None
            client.stdin.write(b"GET / HTTP/1.1\r\nHost: beta\r\n\r\n")
            status, _ = await end_of(client)
        assert status == 0  # an orderly end of TLS: the GOODBYE says the rest
        stats = b.acceptors[0].stats
        await until(lambda: stats.refused or stats.failed)
        assert dict(stats.refused + stats.failed) == {"ProtocolError": 1}
        assert b.links == ()


# --- s_server ------------------------------------------------------------------------


async def test_a_server_that_says_nothing_is_given_up(tmp_path: Path) -> None:
    async with (
        s_server(
            "-alpn", "fastnode/1", *files(tmp_path, B), *trusting(tmp_path),
            "-Verify", "1",
        ) as (server, route),
        running(A, listens=False, routes=[route], handshake_timeout=2.0) as a,
    ):  # fmt: skip
        connecting = asyncio.ensure_future(a.connect(B))
        # TLS is complete, and alpha's HELLO goes to a peer that it verified.
        said = await read_until(server, b"fastnode", A.encode())
        assert b"ALPN protocols selected: fastnode/1" in said
        assert b"CIPHER is TLS_" in said  # those of TLS 1.3 are called so
        with pytest.raises(HandshakeTimeout) as caught:
            async with asyncio.timeout(WAIT_SECONDS):
                await connecting
        assert caught.value.hint
        assert a.links == ()
        stats = a.dial_stats
        assert dict(stats.refused + stats.failed) == {"HandshakeTimeout": 1}


async def test_a_server_that_speaks_another_protocol_is_refused(tmp_path: Path) -> None:
    async with (
        s_server("-alpn", "fastnode/1", *files(tmp_path, B)) as (server, route),
        running(A, listens=False, routes=[route]) as a,
    ):
        connecting = asyncio.ensure_future(a.connect(B))
        await read_until(server, b"fastnode", A.encode())
        assert server.stdin is not None
        server.stdin.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        with pytest.raises(ProtocolError) as caught:
            async with asyncio.timeout(WAIT_SECONDS):
                await connecting
        assert caught.value.hint
        assert a.links == ()


async def test_a_server_without_alpn_is_refused(tmp_path: Path) -> None:
    async with (
        s_server(*files(tmp_path, B)) as (server, route),
        running(A, listens=False, routes=[route]) as a,
    ):
        with pytest.raises(HandshakeError, match="ALPN") as caught:
            async with asyncio.timeout(WAIT_SECONDS):
                await a.connect(B)
        assert caught.value.side is Side.LOCAL
        status, _ = await end_of(server)
        assert status is not None


async def test_guarantee_2_a_server_of_openssl_requires_a_certificate(
    tmp_path: Path,
) -> None:
    async with (
        s_server(
            "-alpn", "fastnode/1", *files(tmp_path, B), *trusting(tmp_path),
            "-Verify", "1",
        ) as (server, route),
        running(
            A, listens=False, routes=[route], manager=manager(A, anonymous=True)
        ) as a,
    ):  # fmt: skip
        with pytest.raises(CertificateRequired) as caught:
            async with asyncio.timeout(WAIT_SECONDS):
                await a.connect(B)
        assert caught.value.side is Side.REMOTE
        assert "did not return a certificate" in (await end_of(server))[1]
        assert dict(a.dial_stats.failed) == {"CertificateRequired": 1}
        assert not a.dial_stats.refused


async def test_a_server_of_openssl_does_not_know_our_authority(tmp_path: Path) -> None:
    async with (
        s_server(
            "-alpn", "fastnode/1", *files(tmp_path, B), *trusting(tmp_path, OTHER),
            "-Verify", "1",
        ) as (_server, route),
        running(A, listens=False, routes=[route]) as a,
    ):  # fmt: skip
        with pytest.raises(UnknownAuthority) as caught:
            async with asyncio.timeout(WAIT_SECONDS):
                await a.connect(B)
        assert caught.value.side is Side.REMOTE
        assert dict(a.dial_stats.failed) == {"UnknownAuthority": 1}


async def test_guarantee_3_a_server_of_another_authority(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        s_server("-alpn", "fastnode/1", *files(tmp_path, B, OTHER)) as (server, route),
        running(A, listens=False, routes=[route]) as a,
    ):
        with caplog.at_level(logging.INFO), pytest.raises(UnknownAuthority) as caught:
            async with asyncio.timeout(WAIT_SECONDS):
                await a.connect(B)
        assert caught.value.side is Side.LOCAL
        # The server is told why.
        assert "alert unknown ca" in (await end_of(server))[1]
        assert dict(a.dial_stats.refused) == {"UnknownAuthority": 1}
        assert any(
            "UnknownAuthority" in record.getMessage() for record in caplog.records
        )
