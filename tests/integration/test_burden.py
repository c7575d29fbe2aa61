"""Certificates that would cost more than a handshake: refused by both roles, told."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from fastnode import (
    ClientAuth,
    HandshakeError,
    Node,
    ProtocolError,
    Refusal,
    Route,
    UnknownAuthority,
    limits,
)
from fastnode.certs.context import make_server_context
from fastnode.errors import FastnodeError, Side
from fastnode.names import NodeName
from fastnode.openssl.verification import why_unavailable
from helpers import frames, heavy
from helpers.forge import HANDSHAKE, KEY_UPDATE, Forger, Traffic, traffic_secret
from helpers.impostor import RSA_PSS, ImpostorClient, ImpostorServer
from helpers.nodes import WAIT_SECONDS, A, B, running, until
from helpers.pki import authority, certificate, manager
from helpers.strangers import records

pytestmark = pytest.mark.skipif(
    why_unavailable() is not None, reason=f"OpenSSL: {why_unavailable()}"
)

#: Chains, and what is said of them.
CHAINS: dict[str, tuple[Callable[[], list[bytes]], str]] = {
    "explicit curve": (
        lambda: [heavy.certificate(heavy.explicit_curve())],
        "a curve that is written out",
    ),
    "explicit curve of an issuer": (
        lambda: [heavy.certificate(), heavy.certificate(heavy.explicit_curve())],
        "a curve that is written out",
    ),
    "RSA 16384": (
        lambda: [heavy.certificate(heavy.rsa(16384))],
        "16384 bits, more than 8192",
    ),
    "long exponent": (
        lambda: [heavy.certificate(heavy.rsa(3072, (1 << 3064) - 1))],
        "has 3064 bits, more than 32",
    ),
    "long chain": (lambda: [heavy.certificate()] * 11, "more than 10 certificates"),
    "many names": (
        lambda: [heavy.certificate(extensions=[heavy.sans(1001)])],
        "1001 alternative names",
    ),
    "many constraints": (
        lambda: [
            heavy.certificate(extensions=[heavy.sans(300)]),
            heavy.certificate(extensions=[heavy.constraints(300)]),
        ],
        "90000 comparisons",
    ),
    "BER": (lambda: [heavy.ber()], "not encoded as RFC 5280 says"),
}


def check(error: FastnodeError, words: str) -> None:
    assert type(error) is HandshakeError
    assert error.side is Side.LOCAL
    assert words in error.message
    assert "refused before it was read" in error.message
    assert error.hint


async def impress(node: Node, folder: Path, chain: list[bytes]) -> str:
    """Show a chain to an acceptor; the reason of its alert."""
    impostor = ImpostorClient(folder)
    reader, writer = await asyncio.open_connection(*node.acceptors[0].address)
    try:
        writer.write(impostor.hello())
        async with asyncio.timeout(WAIT_SECONDS):
            while not impostor.ready(await reader.read(1 << 16)):
                pass
            writer.write(impostor.show(chain, algorithm=RSA_PSS, size=256))
            impostor.ready(await reader.read())
        return impostor.told()
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


@pytest.mark.parametrize("kind", CHAINS)
@pytest.mark.parametrize(
    "mode",
    [ClientAuth.REQUIRE_AND_VERIFY_CLIENT_CERT, ClientAuth.REQUIRE_ANY_CLIENT_CERT],
    ids=lambda mode: mode.name,
)
async def test_guarantee_9_an_acceptor_does_not_read_what_costs_too_much(
    kind: str, mode: ClientAuth, tmp_path: Path
) -> None:
    make, words = CHAINS[kind]
    refusals: list[Refusal] = []
    door = manager(B, client_auth=mode)
    async with running(B, manager=door, on_refused=refusals.append) as b:
        # The other side is told in the words of TLS.
        assert await impress(b, tmp_path, make()) == "TLSV1_ALERT_DECODE_ERROR"
        await until(lambda: refusals)
        check(refusals[0].error, words)
        assert b.acceptors[0].stats.refused == {"HandshakeError": 1}
        # Nothing of it is remembered: the next one is judged by what it shows.
        alert = await impress(b, tmp_path, [heavy.certificate()])
        assert alert != "TLSV1_ALERT_DECODE_ERROR"


@asynccontextmanager
async def served(
    folder: Path, chain: list[bytes], request: bytes | None
) -> AsyncIterator[tuple[Route, asyncio.Future[bytes]]]:
    """A server that shows a chain, and what the dialer says then."""
    file = folder / "server.pem"
    issued = authority().issue(NodeName.parse(B))
    file.write_bytes(issued.cert_pem + issued.key_pem)
    said: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readexactly(5)
            hello = head + await reader.readexactly(int.from_bytes(head[3:]))
            impostor = ImpostorServer(folder, file)
            writer.write(impostor.show(hello, chain, request=request))
            said.set_result(await reader.read())
        finally:
            writer.close()
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield Route(f"^{B}$", *server.sockets[0].getsockname()), said


@pytest.mark.parametrize("kind", CHAINS)
@pytest.mark.parametrize("insecure", [False, True])
async def test_guarantee_9_a_dialer_does_not_read_what_costs_too_much(
    kind: str, insecure: bool, tmp_path: Path
) -> None:
    make, words = CHAINS[kind]
    async with (
        served(tmp_path, make(), None) as (route, said),
        running(A, listens=False, routes=[route], insecure_skip_verify=insecure) as a,
    ):
        with pytest.raises(HandshakeError) as caught:
            await a.connect(B)
        check(caught.value, words)
        assert dict(a.dial_stats.refused) == {"HandshakeError": 1}
        async with asyncio.timeout(WAIT_SECONDS):
            # The server hears of it: one alert, sealed.
            assert len([r for r in records(await said) if r[0] in (21, 23)]) == 1


async def test_guarantee_9_a_server_that_names_thousands_of_authorities(
    tmp_path: Path,
) -> None:
    request = heavy.authority_names(2000)
    async with (
        served(tmp_path, [heavy.certificate()], request) as (route, _),
        running(A, listens=False, routes=[route]) as a,
    ):
        with pytest.raises(ProtocolError, match="too large"):
            await a.connect(B)


async def test_guarantee_9_a_server_s_chain_of_many_bytes(tmp_path: Path) -> None:
    subject = heavy.name(b"A" * limits.MAX_SERVER_CHAIN_BYTES)
    chain = [heavy.certificate(subject=subject)]
    async with (
        served(tmp_path, chain, None) as (route, _),
        running(A, listens=False, routes=[route]) as a,
    ):
        with pytest.raises(ProtocolError, match="too large"):
            await a.connect(B)


async def test_what_authorities_issue_is_read(tmp_path: Path) -> None:
    refusals: list[Refusal] = []
    chain = [
        heavy.certificate(heavy.rsa(8192), [heavy.sans(300)]),
        heavy.certificate(heavy.rsa(4096), [heavy.constraints(50)]),
        heavy.certificate(),
    ]
    async with running(B, on_refused=refusals.append) as b:
        assert await impress(b, tmp_path, chain) == "TLSV1_ALERT_UNKNOWN_CA"
        await until(lambda: refusals)
        assert type(refusals[0].error) is UnknownAuthority


def test_no_compressed_certificates_are_asked_for() -> None:
    """They could not be looked at before they are read."""
    made = manager(A)
    for context in (made.client_context(), made.server_context()):
        assert context.options & 1 << 33


# --- between TLS and the link ------------------------------


def bare_client() -> ssl.SSLContext:
    """A context that shows no certificate and verifies none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["fastnode/1"])
    return context


def check_flood(error: FastnodeError, words: str) -> None:
    assert type(error) is ProtocolError
    assert error.side is Side.REMOTE
    assert error.hint
    assert "between the end of its TLS handshake" in error.message
    assert words in error.message


async def flood(node: Node, folder: Path, words: Callable[[Forger], bytes]) -> None:
    """Shake hands without a certificate, and send until the connection ends."""
    forger = await Forger.connect(
        node.acceptors[0].address, bare_client(), folder / "flood.keys"
    )
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            with suppress(ConnectionError):
                for _ in range(2000):
                    forger.writer.write(words(forger))
                    await forger.writer.drain()
            while await forger.read():
                pass
    finally:
        forger.close()


def announced(forger: Forger) -> bytes:
    """A byte of a HELLO that is announced, in a record of its own."""
    head = bytes([frames.HELLO, 0, 0, 0]) + (4000).to_bytes(4)
    sent = getattr(forger, "sent", 0)
    forger.sent = sent + 1  # type: ignore[attr-defined]
    return forger.record(head[sent : sent + 1] or b"\0")


@pytest.mark.parametrize("asks", [False, True])
async def test_guarantee_9_few_key_updates_come_before_a_hello(
    asks: bool, tmp_path: Path
) -> None:
    """As many as are allowed, and then a HELLO: the peer is admitted."""
    most = limits.MAX_POST_HANDSHAKE_MESSAGES
    refusals: list[Refusal] = []
    door = manager(B, client_auth=ClientAuth.NO_CLIENT_CERT)
    async with running(B, manager=door, on_refused=refusals.append) as b:
        for count in (most, most + 1):
            forger = await Forger.connect(
                b.acceptors[0].address, bare_client(), tmp_path / f"{count}.keys"
            )
            try:
                updates = [forger.key_update(asks=asks) for _ in range(count)]
                words = b"".join(updates) + forger.record(frames.hello(A))
                forger.writer.write(words)
                if count == most:
                    assert (await forger.read())[:1] == bytes([frames.HELLO])
                else:
                    assert await forger.read() == b""
                    assert forger.alert.endswith("ALERT_ILLEGAL_PARAMETER")
            finally:
                forger.close()
        await until(lambda: refusals)
        check_flood(refusals[0].error, f"more than {most} TLS messages")
        assert b.acceptors[0].stats.failed["ProtocolError"] == 1


@pytest.mark.parametrize("kind", ["tickets", "KeyUpdate"])
async def test_guarantee_9_a_server_sends_few_messages_before_its_hello(
    kind: str, tmp_path: Path
) -> None:
    most = limits.MAX_POST_HANDSHAKE_MESSAGES
    for count in (most, most + 1):
        context = make_server_context(
            certificate(B),
            verify_mode=ssl.CERT_NONE,
            client_cas=None,
            minimum_version=ssl.TLSVersion.TLSv1_3,
        )
        if kind == "tickets":
            context.num_tickets = count
        log = tmp_path / f"{count}.keys"
        context.keylog_filename = str(log)
        said: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        async def serve(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter
        ) -> None:
            into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
            tls = context.wrap_bio(into, out, server_side=True)  # noqa: B023
            try:
                while True:
                    with suppress(ssl.SSLWantReadError):
                        tls.do_handshake()
                        break
                    writer.write(out.read())
                    into.write(await reader.read(1 << 16))
                writer.write(out.read())
                if kind == "KeyUpdate":
                    traffic = Traffic(traffic_secret(log, "SERVER"))  # noqa: B023
                    for _ in range(count):  # noqa: B023
                        update = bytes([KEY_UPDATE, 0, 0, 1, 0])
                        writer.write(traffic.close(update, HANDSHAKE))
                        traffic.renew()
                    writer.write(traffic.close(b"\xff" * 8, 23))
                else:
                    tls.write(b"\xff" * 8)
                    writer.write(out.read())
                while data := await reader.read(1 << 16):
                    into.write(data)
                said.set_result(tell(tls))  # noqa: B023
            finally:
                writer.close()
                with suppress(OSError):
                    await writer.wait_closed()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server, running(A, listens=False) as a:
            a.add_route(Route(f"^{B}$", *server.sockets[0].getsockname()))
            with pytest.raises(ProtocolError) as caught:
                await a.connect(B)
            async with asyncio.timeout(WAIT_SECONDS):
                told = await said
            if count == most:
                # They were read, and what came behind them is no frame.
                assert "malformed" in caught.value.message
                continue
            check_flood(caught.value, f"more than {most} TLS messages")
            assert "ALERT" in told
            assert dict(a.dial_stats.failed) == {"ProtocolError": 1}


def tell(tls: ssl.SSLObject) -> str:
    """The reason of the alert that ended a connection; "" if none came."""
    try:
        while tls.read(1 << 16):
            pass
    except ssl.SSLError as error:
        return error.reason or ""
    return ""


@pytest.mark.parametrize(
    "words",
    [
        lambda forger: forger.key_update(asks=False),
        lambda forger: forger.key_update(asks=True),
        announced,
    ],
    ids=["KeyUpdate", "KeyUpdate that asks for one", "tiny records"],
)
async def test_guarantee_9_a_stranger_says_little_before_its_hello(
    words: Callable[[Forger], bytes], tmp_path: Path
) -> None:
    refusals: list[Refusal] = []
    door = manager(B, client_auth=ClientAuth.NO_CLIENT_CERT)
    async with running(B, manager=door, on_refused=refusals.append) as b:
        await flood(b, tmp_path, words)
        await until(lambda: refusals)
        check_flood(refusals[0].error, "more than")
        assert b.acceptors[0].stats.failed == {"ProtocolError": 1}
