"""Servers that refuse and close at once: the reason arrives, whatever the kernel does.

Such a server closes its socket while bytes of the dialer are unread. Its kernel then
answers with a reset, and a write of the dialer fails. The alert came before the reset.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fastnode import HandshakeError, LinkLost, Route
from fastnode.certs.authority import IssuedCertificate
from fastnode.cli.main import cli
from fastnode.errors import CloseReason
from fastnode.names import NodeName
from helpers.nodes import WAIT_SECONDS, A, B, forget, pair, running, until
from helpers.pki import authority

Address = tuple[str, int]
#: Enough to find a fault that shows in every second try.
TRIES = 8
MANY_TRIES = 100
RESET = struct.pack("ii", 1, 0)


def files(folder: Path, name: str, ca: str = "test CA") -> tuple[Path, Path]:
    """Certificate and key of a node, as files."""
    issued: IssuedCertificate = authority(ca).issue(NodeName.parse(name))
    pair = folder / f"{name}.pem", folder / f"{name}-key.pem"
    issued.save(*pair)
    return pair


def write_ca(folder: Path, ca: str) -> Path:
    file = folder / f"{ca}.pem"
    file.write_bytes(authority(ca).cert_pem)
    return file


def recv_some(sock: socket.socket) -> bytes:
    with suppress(OSError):
        return sock.recv(1)
    return b""


@contextmanager
def python_server(folder: Path, *, resets: bool) -> Iterator[Address]:
    """Python's `ssl`, which trusts another authority and closes after its alert.

    Args:
        resets: the socket sends a reset in any case.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files(folder, B))
    context.load_verify_locations(write_ca(folder, "Other CA"))
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(["fastnode/1"])
    listener = socket.create_server(("127.0.0.1", 0), backlog=200)

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connection.settimeout(WAIT_SECONDS)
            tls = context.wrap_socket(
                connection, server_side=True, do_handshake_on_connect=False
            )
            with tls, suppress(OSError):
                try:
                    tls.do_handshake()
                finally:
                    if resets:
                        tls.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()
    finally:
        # It wakes the thread, which `close` does not.
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        thread.join(WAIT_SECONDS)
        listener.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


@contextmanager
def program(command: list[str], port: int) -> Iterator[Address]:
    """A server of another TLS library, as a process."""
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        for _ in range(500):
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", port)).close()
                break
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.02)
        yield "127.0.0.1", port
    finally:
        process.kill()
        process.communicate()


@contextmanager
def openssl_server(folder: Path) -> Iterator[Address]:
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl program here")
    cert, key = files(folder, B)
    port = free_port()
    command = [
        "openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-cert", str(cert),
        "-key", str(key), "-CAfile", str(write_ca(folder, "Other CA")),
        "-Verify", "1", "-verify_return_error", "-alpn", "fastnode/1", "-quiet",
    ]  # fmt: skip
    with program(command, port) as address:
        yield address


@contextmanager
def gnutls_server(folder: Path) -> Iterator[Address]:
    if shutil.which("gnutls-serv") is None:
        pytest.skip("gnutls-serv is not installed (Debian: gnutls-bin)")
    cert, key = files(folder, B)
    port = free_port()
    command = [
        "gnutls-serv", "--port", str(port), "--x509certfile", str(cert),
        "--x509keyfile", str(key), "--x509cafile", str(write_ca(folder, "Other CA")),
        "--require-client-cert", "--verify-client-cert", "--alpn", "fastnode/1",
        "--quiet",
    ]  # fmt: skip
    with program(command, port) as address:
        yield address


GO_SERVER = """
package main

import ("crypto/tls"; "crypto/x509"; "os")

func main() {
    pair, err := tls.LoadX509KeyPair(os.Args[2], os.Args[3])
    if err != nil { panic(err) }
    pem, err := os.ReadFile(os.Args[4])
    if err != nil { panic(err) }
    pool := x509.NewCertPool()
    pool.AppendCertsFromPEM(pem)
    config := &tls.Config{
        Certificates: []tls.Certificate{pair}, ClientCAs: pool,
        ClientAuth: tls.RequireAndVerifyClientCert,
        NextProtos: []string{"fastnode/1"},
    }
    listener, err := tls.Listen("tcp", os.Args[1], config)
    if err != nil { panic(err) }
    for {
        connection, err := listener.Accept()
        if err != nil { panic(err) }
        go func() { connection.(*tls.Conn).Handshake(); connection.Close() }()
    }
}
"""


@contextmanager
def go_server(folder: Path) -> Iterator[Address]:
    if shutil.which("go") is None:
        pytest.skip("Go is not installed (Debian: golang-go)")
    source, built = folder / "server.go", folder / "server"
    source.write_text(GO_SERVER)
    subprocess.run(["go", "build", "-o", built, source], check=True, timeout=300)
    cert, key = files(folder, B)
    port = free_port()
    ca = write_ca(folder, "Other CA")
    command = [str(built), f"127.0.0.1:{port}", str(cert), str(key), str(ca)]
    with program(command, port) as address:
        yield address


def serving(kind: str, folder: Path) -> Any:
    if kind == "Python":
        return python_server(folder, resets=False)
    if kind == "Python, reset":
        return python_server(folder, resets=True)
    servers = {"OpenSSL": openssl_server, "GnuTLS": gnutls_server, "Go": go_server}
    return servers[kind](folder)


OURS = ["Python", "Python, reset"]
OTHERS = ["OpenSSL", "GnuTLS", "Go"]
#: What their alerts say.
UNKNOWN = "does not trust the authority"
WORDS = {
    "Python": UNKNOWN,
    "Python, reset": UNKNOWN,
    "OpenSSL": UNKNOWN,
    "GnuTLS": "access denied",
    # Older versions say bad_certificate.
    "Go": f"{UNKNOWN}|something wrong with this node's certificate",
}


async def refused_by(address: Address, tries: int, words: str) -> None:
    async with running(A, listens=False) as a:
        a.add_route(Route("^beta@", *address))
        for _ in range(tries):
            with pytest.raises(HandshakeError, match=words):
                await a.connect(B)
        assert a.dial_stats.failed.total() == tries


def refused_check(folder: Path, address: Address, tries: int, words: str) -> None:
    cert, key = files(folder, A)
    ca = write_ca(folder, "test CA")
    host, port = address
    options = ["--cert", cert, "--key", key, "--ca", ca, "--as", A, "--timeout", "5"]
    command = ["check", f"{host}:{port}", *map(str, options)]
    for _ in range(tries):
        done = CliRunner().invoke(cli, command)
        assert done.exit_code == 3, done.output
        assert re.search(words, " ".join(done.output.split())), done.output


@pytest.mark.parametrize("kind", OURS)
async def test_the_reason_of_a_server_that_closes_at_once(
    kind: str, tmp_path: Path
) -> None:
    with serving(kind, tmp_path) as address:
        await refused_by(address, TRIES, WORDS[kind])


@pytest.mark.parametrize("kind", OURS)
def test_check_finds_the_reason_too(kind: str, tmp_path: Path) -> None:
    with serving(kind, tmp_path) as address:
        refused_check(tmp_path, address, TRIES, WORDS[kind])


@pytest.mark.long
@pytest.mark.parametrize("kind", [*OURS, *OTHERS])
async def test_a_hundred_reasons(kind: str, tmp_path: Path) -> None:
    with serving(kind, tmp_path) as address:
        await refused_by(address, MANY_TRIES, WORDS[kind])


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", [*OURS, *OTHERS])
def test_a_hundred_reasons_of_check(kind: str, tmp_path: Path) -> None:
    with serving(kind, tmp_path) as address:
        refused_check(tmp_path, address, MANY_TRIES, WORDS[kind])


# --- a write that fails while something is unread -----------------------------------


class Relay:
    """A proxy in a thread, which the loop of the test cannot hold up.

    It cuts the dialer off with a reset after the next bytes for it.
    """

    def __init__(self, target: Address) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._target = target
        self.address: Address = self._listener.getsockname()
        self.armed = False
        self.cut = threading.Event()
        self._near: socket.socket | None = None
        self._far: socket.socket | None = None
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        self._near, _ = self._listener.accept()
        # A reset throws away what waits to be sent.
        self._near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._far = socket.create_connection(self._target)
        back = threading.Thread(target=self._down, daemon=True)
        back.start()
        self._threads.append(back)
        with suppress(OSError):
            while data := self._near.recv(1 << 16):
                self._far.sendall(data)

    def _down(self) -> None:
        assert self._near is not None
        assert self._far is not None
        with suppress(OSError):
            while data := self._far.recv(1 << 16):
                self._near.sendall(data)
                if self.armed:
                    linger = socket.SOL_SOCKET, socket.SO_LINGER, RESET
                    self._near.setsockopt(*linger)
                    # The other thread holds the socket in `recv`.
                    with suppress(OSError):
                        self._near.shutdown(socket.SHUT_RD)
                    self._threads[0].join(WAIT_SECONDS)
                    self._near.close()
                    self.cut.set()
                    return

    def close(self) -> None:
        for sock in (self._listener, self._near, self._far):
            if sock is not None:
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
                sock.close()
        for thread in self._threads:
            thread.join(WAIT_SECONDS)


@pytest.mark.skipif(sys.platform != "linux", reason="keeps what came before a reset")
async def test_a_goodbye_is_read_although_a_write_fails() -> None:
    """The peer says why it ends the link, and resets the connection. This node writes
    before it reads."""
    async with pair() as (a, b):
        forget(a, B)
        relay = Relay(b.acceptors[0].address)
        try:
            a.add_route(Route("^beta@", *relay.address))
            link = await a.connect(B)
            await until(lambda: b.links)
            # What the two measure of each other is over.
            for each in (link, b.links[0], link):
                await each.ping()
            relay.armed = True
            (ending,) = b._links.in_use()
            reason = CloseReason.KEEPALIVE_TIMEOUT
            ending.terminate(LinkLost("ended"), reason, "for a test")
            # The loop does not run meanwhile.
            assert relay.cut.wait(WAIT_SECONDS)
            link.send("e", b"x" * 200_000)
            await link.wait_closed()
            assert type(link.error) is LinkLost
            told = "the peer ended it: for a test" in str(link.error)
            # uvloop may have read it between the write that failed and the end of the
            # connection, and drops what it reads then. Nobody else sees it.
            on_uvloop = type(asyncio.get_running_loop()).__module__ == "uvloop"
            assert told or (on_uvloop and "the connection broke" in str(link.error))
        finally:
            await asyncio.to_thread(relay.close)
