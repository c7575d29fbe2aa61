"""What comes to an acceptor and is no peer: refused, counted, and cheap."""

from __future__ import annotations

import asyncio
import logging
import math
import ssl
from collections import Counter
from pathlib import Path

import pytest

from fastnode import FastnodeError, HandshakeError, ProtocolError, Refusal, Route
from fastnode.certs.context import make_client_context
from fastnode.errors import Side
from fastnode.limits import KIB, MAX_CLIENT_HELLO_BYTES, STRANGER_BYTES
from fastnode.names import NodeName
from fastnode.node.pending import HANDSHAKE_HEAD, RECORD_HEAD
from fastnode.openssl.verification import why_unavailable
from fastnode.tls.choice import why_not_direct
from helpers import hellos
from helpers.nodes import WAIT_SECONDS, A, B, introduce, running, until
from helpers.pki import authority, certificate, manager, pool
from helpers.proxy import Proxy
from helpers.stranger_memory import host, measurable
from helpers.strangers import Crowd, Impostor, client_hello, records


def old_hello(minor: int) -> bytes:
    """The ClientHello of TLS 1.0 (1) or 1.1 (2)."""
    version = bytes([3, minor])
    body = version + bytes(range(32)) + b"\x00" + b"\x00\x04\xc0\x13\x00\x2f\x01\x00"
    message = b"\x01" + len(body).to_bytes(3) + body
    return b"\x16\x03\x01" + len(message).to_bytes(2) + message


WORDS = {
    "HTTP": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "random": bytes(range(7, 250, 3)),
    "TLS 1.0": old_hello(1),
    "TLS 1.1": old_hello(2),
    "SSL 2": b"\x80\x2e\x01\x03\x00\x00\x15\x00\x00\x00\x10" + bytes(37),
    "plaintext fastnode": b"\x01\x00\x00\x00\x40\x00\x00\x00" + bytes(64),
    "large ClientHello": b"\x16\x03\x01\x40\x00\x01\x01\xff\xf0",
}


@pytest.mark.parametrize("kind", WORDS)
async def test_guarantee_9_a_stranger_is_refused_and_counted(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    refusals: list[Refusal] = []
    loop = asyncio.get_running_loop()
    async with running(B, on_refused=refusals.append) as b:
        began = loop.time()
        stats = b.acceptors[0].stats
        crowd = Crowd(b.acceptors[0].address, 50, says=lambda n: WORDS[kind])
        async with crowd:
            await until(lambda: sum((stats.failed + stats.refused).values()) == 50)
        assert stats.links == 0
        assert len(refusals) == 50
        reasons = Counter(refusal.reason for refusal in refusals)
        assert set(reasons) <= {"ProtocolError", "HandshakeError"}
        assert reasons == stats.failed + stats.refused
        # One line for each reason and second that it took.
        seconds = math.ceil(loop.time() - began)
        assert len(caplog.records) <= len(reasons) * (1 + seconds)


@pytest.mark.one_loop
async def test_the_next_line_says_how_many_were_left_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    async with running(B) as b:
        stats = b.acceptors[0].stats
        address = b.acceptors[0].address
        async with Crowd(address, 5, says=lambda n: WORDS["HTTP"]):
            await until(lambda: sum(stats.failed.values()) == 5)
        # Time is what this is about.
        await asyncio.sleep(1.1)
        async with Crowd(address, 1, says=lambda n: WORDS["HTTP"]):
            await until(lambda: sum(stats.failed.values()) == 6)
        assert "(and 4 more like it before)" in caplog.messages[-1]


ACCEPTOR_LOG = "fastnode.acceptor"
NOT_TLS = "sent something that is not TLS"


@pytest.mark.parametrize(
    ("plain", "raised", "text", "refusal"),
    [
        # The dialer is told nothing that it could read.
        ("dialer", HandshakeError, "connection ended before the handshake", NOT_TLS),
        ("acceptor", ProtocolError, NOT_TLS, "malformed frame"),
    ],
)
async def test_guarantee_1_a_plaintext_node_is_no_peer(
    plain: str,
    raised: type[FastnodeError],
    text: str,
    refusal: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    refusals: list[Refusal] = []
    async with (
        running(B, plaintext=plain == "acceptor", on_refused=refusals.append) as b,
        running(A, plaintext=plain == "dialer", listens=False) as a,
    ):
        introduce(a, b)
        with pytest.raises(raised, match=text) as caught:
            await a.connect(B)
        assert type(caught.value) is raised
        assert caught.value.side is Side.REMOTE
        stats = b.acceptors[0].stats
        await until(lambda: refusals)
        assert [type(each.error) for each in refusals] == [ProtocolError]
        assert refusal in str(refusals[0].error)
        assert (stats.failed, stats.refused) == ({"ProtocolError": 1}, {})
        assert a.dial_stats.failed == {raised.__name__: 1}
        assert stats.links == a.dial_stats.links == 0
        assert a.links == b.links == ()
        (line,) = [r.getMessage() for r in caplog.records if r.name == ACCEPTOR_LOG]
        assert refusal in line


# --- application protocols (ALPN) ---------------------------------------------------

NO_APPLICATION_PROTOCOL = b"\x15\x03\x03\x00\x02\x02\x78"


@pytest.mark.skipif(
    why_unavailable() is not None, reason="Python's ssl ignores what a client offers"
)
@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
async def test_other_application_protocols_get_the_alert(version: str) -> None:
    """RFC 7301, 3.2."""
    both = {"manager": manager(B, minimum_version=ssl.TLSVersion.TLSv1_2)}
    refusals: list[Refusal] = []
    async with running(B, on_refused=refusals.append, **both) as b:
        for number, offered in enumerate(("h2", "fastnode/2", "fastnode/10")):
            hello = client_hello(offered, ssl.TLSVersion[version], protocols=3)
            said = await answer_to(b.acceptors[0].address, hello)
            assert said == NO_APPLICATION_PROTOCOL
            error = refusals[number].error
            assert type(error) is HandshakeError
            assert error.side is Side.LOCAL
            assert "other than 'fastnode/1'" in str(error)
        assert b.acceptors[0].stats.refused == {"HandshakeError": 3}


async def test_one_of_many_application_protocols() -> None:
    async with running(B) as b:
        context = client_context(["h2", "http/1.1", "fastnode/1"])
        _, writer = await asyncio.open_connection(
            *b.acceptors[0].address, ssl=context, server_hostname="127.0.0.1"
        )
        chosen = writer.get_extra_info("ssl_object").selected_alpn_protocol()
        assert chosen == "fastnode/1"
        writer.transport.abort()


async def test_no_application_protocol() -> None:
    """RFC 7301 has no alert for who offers none: the link is refused after TLS."""
    refusals: list[Refusal] = []
    async with running(B, on_refused=refusals.append) as b:
        reader, writer = await asyncio.open_connection(
            *b.acceptors[0].address,
            ssl=client_context([]),
            server_hostname="127.0.0.1",
        )
        async with asyncio.timeout(WAIT_SECONDS):
            assert await reader.read() == b""
        await until(lambda: refusals)
        writer.transport.abort()
        assert "ALPN" in str(refusals[0].error)
        assert b.acceptors[0].stats.refused == {"HandshakeError": 1}


async def test_a_dialer_that_meets_another_application_protocol() -> None:
    other = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate(B).load_into(other)
    other.set_alpn_protocols(["h2"])

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=other)
    async with server, running(A, listens=False) as a:
        a.add_route(Route("^beta@", *server.sockets[0].getsockname()))
        with pytest.raises(HandshakeError, match="ALPN") as caught:
            await a.connect(B)
        assert "host and port" in str(caught.value)


async def test_a_server_of_the_user_s_own_is_not_as_strict() -> None:
    """It may use a context of the manager for HTTP, say."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.close()

    async with running(B):
        server = await asyncio.start_server(
            serve, "127.0.0.1", 0, ssl=manager(B).server_context()
        )
        async with server:
            reader, writer = await asyncio.open_connection(
                *server.sockets[0].getsockname(),
                ssl=client_context(["http/1.1"]),
                server_hostname="127.0.0.1",
            )
            assert await reader.read() == b"hello"
            writer.transport.abort()


def client_context(protocols: list[str]) -> ssl.SSLContext:
    """A context of its own: those of a manager are cached, and never changed."""
    context = make_client_context(
        certificate(A),
        root_cas=pool(),
        minimum_version=ssl.TLSVersion.TLSv1_3,
        insecure_skip_verify=False,
    )
    context.set_alpn_protocols(protocols)
    return context


# --- endless handshakes -------------------------------------------------------------


def fragments(first: bytes) -> bytes:
    """Megabytes of handshake: `first`, then records that go on with it."""
    piece = b"\x16\x03\x03\x04\x00" + bytes(1024)
    return first + piece * 2000


@pytest.mark.parametrize(
    "first",
    [
        b"\x16\x03\x01\x00\x04\x01\x00\x3f\xf0",
        client_hello() + b"\x14\x03\x03\x00\x01\x01" * 5000,
        client_hello() + b"\x17\x03\x03\x40\x00",
    ],
    ids=["ClientHello", "ChangeCipherSpec", "record"],
)
async def test_guarantee_9_endless_handshakes_are_refused(first: bytes) -> None:
    async with running(B) as b:
        stats = b.acceptors[0].stats
        reader, writer = await asyncio.open_connection(*b.acceptors[0].address)
        try:
            writer.write(fragments(first))
            await until(lambda: sum((stats.failed + stats.refused).values()) == 1)
            assert not stats.links
            said = b""
            async with asyncio.timeout(WAIT_SECONDS):
                with pytest.raises(ConnectionError):
                    while part := await reader.read(65536):
                        said += part
                    raise ConnectionError("it was ended")
            # The last record is an alert: plain, or encrypted after a ServerHello.
            last = records(said)[-1]
            assert last[0] == 21 or (last[0] == 23 and len(last) == 5 + 2 + 1 + 16)
        finally:
            writer.transport.abort()
        assert "HandshakeTimeout" not in stats.failed


# --- large ClientHellos -------------------------------------------------------------

ILLEGAL_PARAMETER = b"\x15\x03\x03\x00\x02\x02\x2f"
RECORD_OVERFLOW = b"\x15\x03\x03\x00\x02\x02\x16"
#: The sizes of key shares of X25519MLKEM768, SecP256r1MLKEM768, SecP384r1MLKEM1024.
PQ_SHARES = (1216, 1249, 1665)


def in_records(hello: bytes, size: int) -> bytes:
    """A ClientHello in records of `size` bytes."""
    message = hello[RECORD_HEAD:]
    parts = [message[at : at + size] for at in range(0, len(message), size)]
    return b"".join(hello[:3] + len(part).to_bytes(2) + part for part in parts)


async def answer_to(address: tuple[str, int], *words: bytes) -> bytes:
    """All that an acceptor says, until it sends no more. The second words are said once
    the first were answered."""
    reader, writer = await asyncio.open_connection(*address)
    said = b""
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            for number, each in enumerate(words):
                writer.write(each)
                if number < len(words) - 1:
                    said += await reader.read(65536)
            return said + await reader.read()
    finally:
        writer.transport.abort()


@pytest.mark.parametrize("size", [1 << 14, 3, 1], ids="records_of_{}".format)
async def test_guarantee_9_a_larger_client_hello_gets_an_alert(size: int) -> None:
    refusals: list[Refusal] = []
    hello = largest_hello()
    large = hello[:5] + b"\x01" + (MAX_CLIENT_HELLO_BYTES + 1).to_bytes(3) + hello[9:]
    async with running(B, on_refused=refusals.append) as b:
        said = await answer_to(b.acceptors[0].address, in_records(large, size))
        assert said == ILLEGAL_PARAMETER
        (refused,) = refusals
        assert type(refused.error) is ProtocolError
        assert "ClientHello" in str(refused.error)
        assert b.acceptors[0].stats.failed == {"ProtocolError": 1}


async def test_a_larger_client_hello_in_too_large_a_record() -> None:
    """RFC 8446, section 5.1, says which alert that is. OpenSSL sends the same one."""
    large = b"\x01" + (1 << 14).to_bytes(3) + bytes(1 << 14)
    record = b"\x16\x03\x01" + len(large).to_bytes(2) + large
    async with running(B) as b:
        said = await answer_to(b.acceptors[0].address, record)
        assert said == RECORD_OVERFLOW
        assert b.acceptors[0].stats.failed == {"ProtocolError": 1}


@pytest.mark.parametrize("size", [1 << 14, 100, 3], ids="records_of_{}".format)
async def test_the_largest_client_hello_is_answered(size: int) -> None:
    hello = largest_hello()
    assert len(hello) - RECORD_HEAD - HANDSHAKE_HEAD > MAX_CLIENT_HELLO_BYTES - 20
    async with running(B) as b:
        reader, writer = await asyncio.open_connection(*b.acceptors[0].address)
        writer.write(in_records(hello, size))
        async with asyncio.timeout(WAIT_SECONDS):
            head = await reader.readexactly(6)
        writer.transport.abort()
        assert (head[0], head[5]) == (22, 2)  # a handshake record, a ServerHello


async def test_guarantee_9_nor_may_a_second_client_hello_be_larger() -> None:
    """It answers a HelloRetryRequest."""
    first = hellos.client_hello([hellos.GROUPS["P-256"]])
    second = b"\x16\x03\x03\x00\x04\x01" + (MAX_CLIENT_HELLO_BYTES + 1).to_bytes(3)
    async with running(B) as b:
        for between in (b"", b"\x14\x03\x03\x00\x01\x01"):
            said = await answer_to(b.acceptors[0].address, first, between + second)
            assert hellos.RETRY in said
            assert said.endswith(ILLEGAL_PARAMETER)
        assert b.acceptors[0].stats.failed == {"ProtocolError": 2}


async def test_post_quantum_key_shares_are_no_hindrance() -> None:
    """Three of them, and a good one: 4.3 KiB."""
    shares = [hellos.key_share(0x1000 + n, size) for n, size in enumerate(PQ_SHARES)]
    good = hellos.GROUPS["X25519"]
    hello = hellos.client_hello(
        [*(group for group, _ in shares), good], [*shares, (good, bytes(31) + b"\x09")]
    )
    assert len(hello) > 4300
    async with running(B) as b:
        reader, writer = await asyncio.open_connection(*b.acceptors[0].address)
        writer.write(hello)
        async with asyncio.timeout(WAIT_SECONDS):
            head = await reader.readexactly(6)
        writer.transport.abort()
        assert (head[0], head[5]) == (22, 2)


async def test_a_large_hello_is_refused() -> None:
    """HELLO, after TLS with a good certificate."""
    context = manager(A).client_context()
    async with running(B) as b:
        stats = b.acceptors[0].stats
        _, writer = await asyncio.open_connection(
            *b.acceptors[0].address, ssl=context, server_hostname="127.0.0.1"
        )
        writer.write(b"\x01\x00\x00\x00" + (5000).to_bytes(4) + bytes(5000))
        await until(lambda: sum((stats.failed + stats.refused).values()) == 1)
        writer.transport.abort()
        assert not stats.links


@pytest.mark.parametrize("piece", [0, 1000])
async def test_a_large_certificate_is_waited_for(piece: int) -> None:
    """Its record does not come at once, and is read when all of it is there."""
    issued = authority().issue(
        NodeName.parse(A), dns=[f"name-{number}.test" for number in range(300)]
    )
    shown = manager(A, shows=issued.certificate())
    async with running(B) as b, Proxy() as proxy:
        async with running(A, manager=shown, listens=False) as a:
            await proxy.start(b.acceptors[0].address)
            proxy.piece = piece
            a.add_route(Route("^beta@", *proxy.address))
            assert len(issued.cert_pem) > 5000
            link = await a.connect(B)
            b.handler("echo")(lambda m: m.payload)
            assert await link.call("echo", bytes(100_000)) == bytes(100_000)
            assert await link.call("echo", b"a") == b"a"


# --- memory -------------------------------------------------------------------------

MEASURED = 1000
STRANGER_KIB = STRANGER_BYTES / KIB
#: What a stranger costs more through `ssl.MemoryBIO`: two buffers for its handshake,
#: and its key share, which only the other engine can free.
FALLBACK_KIB = 16
#: Connections that were refused, and whose sockets are not closed yet.
REFUSED_KIB = 32
MOST_KIB = {
    "silent": 4,
    "half": 4,
    "whole": STRANGER_KIB,
    "HTTP": REFUSED_KIB,
    "record": STRANGER_KIB,
    "large": STRANGER_KIB,
}
#: A record that is cut short.
CUT = b"\x17\x03\x03\x40\x00" + bytes(16000)


def more() -> float:
    """What the engine of this test may cost more."""
    return 0 if why_not_direct() is None else FALLBACK_KIB


def largest_hello() -> bytes:
    """The largest ClientHello that an acceptor takes. How much of it the names of
    application protocols may be depends on what else OpenSSL puts into it."""
    for protocols in range(900, 0, -1):
        hello = client_hello(protocols=protocols)
        if len(hello) - RECORD_HEAD - HANDSHAKE_HEAD <= MAX_CLIENT_HELLO_BYTES:
            return hello
    raise AssertionError


@measurable
@pytest.mark.one_loop
@pytest.mark.parametrize("kind", MOST_KIB)
async def test_guarantee_9_a_stranger_costs_little_memory(
    kind: str, tmp_path: Path
) -> None:
    hello = client_hello()
    words = {
        "silent": b"",
        "half": hello[: len(hello) // 2],
        "whole": hello,
        "HTTP": WORDS["HTTP"],
        "record": hello + CUT,
        "large": largest_hello() + CUT,
    }[kind]
    async with (
        host(MEASURED, tmp_path) as b,
        Crowd(b.address, MEASURED, says=lambda n: words),
    ):
        each, failed = await b.cost()
    print(f"{kind}: {each} KiB")
    # All others are waited for.
    assert failed == (MEASURED if kind == "HTTP" else 0)
    assert each < MOST_KIB[kind] + (more() if MOST_KIB[kind] == STRANGER_KIB else 0)


@measurable
@pytest.mark.one_loop
@pytest.mark.parametrize(("others", "constraints"), [(0, 0), (9, 0), (0, 300)])
async def test_guarantee_9_copied_certificates_cost_little_memory(
    others: int, constraints: int, tmp_path: Path
) -> None:
    """Somebody else's certificate, others with it, and no proof of any key."""
    count = 500
    other = authority("another CA").cert_pem
    shown = tmp_path / "shown.pem"
    async with host(count, tmp_path, constraints) as b:
        shown.write_bytes(b.certificate.read_bytes() + other * others)
        impostor = Impostor(shown, b.key)
        try:
            await impostor.come_often(count, b.address, then=b"" if others else CUT)
            each, failed = await b.cost()
        finally:
            await impostor.leave()
    print(f"{others}, {constraints}: {each} KiB")
    assert failed == 0  # all of them are waited for
    assert each < STRANGER_KIB + more()


@measurable
@pytest.mark.one_loop
async def test_guarantee_9_a_refused_certificate_costs_little_memory(
    tmp_path: Path,
) -> None:
    """It is judged, and the connection reads on for a second before it is closed."""
    count = 300
    stranger = authority("another CA").issue(NodeName.parse(A))
    shown, key = tmp_path / "shown.pem", tmp_path / "shown.key"
    stranger.save(shown, key)
    async with host(count, tmp_path) as b:
        impostor = Impostor(shown, key)
        try:
            await impostor.come_often(count, b.address)
            each, failed = await b.cost()
        finally:
            await impostor.leave()
    print(f"refused: {each} KiB")
    assert failed == count
    assert each < REFUSED_KIB
