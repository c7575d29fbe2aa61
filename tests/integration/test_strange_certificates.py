"""Strangers whose certificates OpenSSL can parse and libraries cannot: they are refused
like any other, told why, counted, and leave nothing behind."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from pathlib import Path

import pytest

from fastnode import (
    CertAuthManager,
    ClientAuth,
    HandshakeError,
    Node,
    Refusal,
    Route,
    Side,
    UnknownAuthority,
)
from fastnode.openssl.verification import why_unavailable
from helpers import odd_certificates
from helpers.frames import hello
from helpers.nodes import WAIT_SECONDS, A, B, running, until
from helpers.pki import manager

pytestmark = [
    pytest.mark.skipif(why_unavailable() is not None, reason="needs the hook"),
    # The library that reads certificates warns of some of these.
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

#: What one log line may have at most, whatever a stranger puts into a certificate.
LINE_CHARACTERS = 4096


def stranger(kind: str, folder: Path) -> ssl.SSLContext:
    cert_pem, key_pem, _ = odd_certificates.make(kind)
    file = folder / "stranger.pem"
    file.write_bytes(cert_pem + key_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["fastnode/1"])
    try:
        context.load_cert_chain(file)
    except ssl.SSLError as error:
        pytest.skip(f"OpenSSL does not load it: {error.reason}")
    return context


async def knock(node: Node, context: ssl.SSLContext, first: bytes = b"") -> str:
    """What a stranger hears."""

    def dial() -> str:
        with socket.create_connection(
            node.acceptors[0].address, timeout=WAIT_SECONDS
        ) as raw:
            try:
                with context.wrap_socket(raw) as tls:
                    tls.sendall(first)
                    return "read" if tls.recv(1) else "closed"
            except ssl.SSLError as error:
                return error.reason or str(error)
            except OSError as error:
                return type(error).__name__

    return await asyncio.to_thread(dial)


@pytest.mark.parametrize("kind", odd_certificates.KINDS)
async def test_guarantee_10_strange_certificates_are_refused_like_others(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    refusals: list[Refusal] = []
    context = stranger(kind, tmp_path)
    caplog.set_level(logging.INFO)
    # Stopping would wait for longer than the test does.
    options = {"on_refused": refusals.append, "shutdown_timeout": 600.0}
    async with running(B, **options) as node:
        for _ in range(3):
            assert await knock(node, context) == "TLSV1_ALERT_UNKNOWN_CA"
        await until(lambda: len(refusals) == 3)
        assert node.acceptors[0].stats.refused == {"UnknownAuthority": 3}
        for refusal in refusals:
            assert refusal.side is Side.LOCAL
            assert refusal.hint
            # All of it can be looked at.
            _ = refusal.subject, refusal.issuer, refusal.sans
            _ = refusal.not_valid_before, refusal.not_valid_after
            assert len(str(refusal)) < LINE_CHARACTERS
        # Nothing waits for what is gone.
        await until(lambda: not list(node._links))
        async with asyncio.timeout(WAIT_SECONDS):
            assert await node.stop() == ()
    told = [r for r in caplog.records if r.name == "fastnode.acceptor"]
    # At most one line for a reason and second.
    assert any("UnknownAuthority" in record.getMessage() for record in told)
    for record in caplog.records:
        assert record.levelno < logging.ERROR, record.getMessage()
        assert len(record.getMessage()) < LINE_CHARACTERS
        assert "\n" not in record.getMessage()
        assert "\x1b" not in record.getMessage()


@pytest.mark.parametrize("kind", odd_certificates.KINDS)
async def test_where_anybody_may_come_in_what_cannot_be_read_may_not(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    door = manager(B, client_auth=ClientAuth.REQUIRE_ANY_CLIENT_CERT)
    context = stranger(kind, tmp_path)
    async with running(B, manager=door) as node:
        stats = node.acceptors[0].stats
        await knock(node, context, hello(A))
        await until(lambda: stats.refused.total() + stats.failed.total() == 1)
        assert node.links == ()
    for record in caplog.records:
        assert record.levelno < logging.ERROR, record.getMessage()
        assert len(record.getMessage()) < LINE_CHARACTERS


@pytest.mark.parametrize("kind", odd_certificates.KINDS)
async def test_a_server_with_a_strange_certificate(kind: str, tmp_path: Path) -> None:
    cert_pem, key_pem, _ = odd_certificates.make(kind)
    file = tmp_path / "server.pem"
    file.write_bytes(cert_pem + key_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["fastnode/1"])
    try:
        context.load_cert_chain(file)
    except ssl.SSLError as error:
        pytest.skip(f"OpenSSL does not load it: {error.reason}")

    def serve(listening: socket.socket) -> str:
        raw, _ = listening.accept()
        with raw:
            raw.settimeout(10)
            try:
                with context.wrap_socket(raw, server_side=True) as tls:
                    tls.recv(1)
            except ssl.SSLError as error:
                return error.reason or str(error)
            return "nothing"

    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(10)
        serving = asyncio.ensure_future(asyncio.to_thread(serve, listening))
        dialing = CertAuthManager(manager(A).certificate, root_cas=manager(A).root_cas)
        async with running(A, manager=dialing, listens=False) as node:
            node.add_route(Route(".", *listening.getsockname()))
            with pytest.raises(HandshakeError) as caught:
                await node.connect(B)
        assert type(caught.value) is UnknownAuthority
        assert caught.value.side is Side.LOCAL
        assert len(str(caught.value)) < LINE_CHARACTERS
        assert await serving == "TLSV1_ALERT_UNKNOWN_CA"
