"""Five modes, ten kinds of certificate, two versions of TLS, three kinds of dialer.

Each cell is judged from both sides. docs/tls.md shows the outcome as a table;
``FASTNODE_WRITE_DOCS=1`` writes it there, otherwise it has to be what is there.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import pytest

from fastnode import (
    AcceptorOptions,
    CertAuthManager,
    CertificateExpired,
    CertificateRequired,
    CertPool,
    ClientAuth,
    FastnodeError,
    HandshakeError,
    Node,
    Peer,
    Refusal,
    Side,
    UnknownAuthority,
)
from fastnode.certs import signing
from fastnode.certs.authority import IssuedCertificate
from fastnode.names import NodeName
from fastnode.openssl.verification import why_unavailable
from helpers import frames
from helpers.frames import hello
from helpers.nodes import WAIT_SECONDS, A, B, all_at_once, introduce, running, until
from helpers.pki import authority, certificate, pool
from helpers.pki import manager as strict

NAME = NodeName.parse(A)
TLS12, TLS13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
DOCS = Path(__file__).parents[2] / "docs" / "tls.md"
BEGIN, END = "<!-- matrix: begin -->", "<!-- matrix: end -->"
ALPN = "fastnode/1"

pytestmark = pytest.mark.skipif(
    why_unavailable() is not None, reason="two of the modes are not available here"
)


# --- what dialers show ------------------------------------------------------------


@cache
def shown() -> dict[str, IssuedCertificate | None]:
    """By kind, in the order of the table's columns."""
    ca, now, day = authority(), datetime.now(UTC), timedelta(days=1)
    below = ca.intermediate("intermediate CA").issue(NAME)
    end = b"-----END CERTIFICATE-----\n"
    leaf_only = below.cert_pem.partition(end)[0] + end
    expired = ca.issue(NAME, not_before=now - 9 * day, not_after=now - day)
    return {
        "none": None,
        "good": ca.issue(NAME),
        "good, with intermediate": below,
        "intermediate missing": IssuedCertificate(leaf_only, below.key_pem),
        "expired": expired,
        "not yet valid": ca.issue(NAME, not_before=now + day, not_after=now + 9 * day),
        "self-signed": self_signed(),
        "other CA": authority("other CA").issue(NAME),
        "CA removed": authority("old CA").issue(NAME),
        "wrong key usage": ca.issue(NAME, client_auth=False),
    }


def self_signed() -> IssuedCertificate:
    # As `Certificate.self_signed` does, but with the key at hand for openssl.
    return IssuedCertificate(
        *signing.self_signed("stranger", ["127.0.0.1"], timedelta(days=1))
    )


# --- what has to come of it -------------------------------------------------------

BAD: dict[str, type[FastnodeError]] = {
    "intermediate missing": UnknownAuthority,
    "expired": CertificateExpired,
    "not yet valid": CertificateExpired,
    "self-signed": UnknownAuthority,
    "other CA": UnknownAuthority,
    "CA removed": UnknownAuthority,
    "wrong key usage": HandshakeError,
}


def expected(mode: ClientAuth, kind: str) -> type[FastnodeError] | bool:
    """The error of a refusal, or `peer.verified`: the table of the contract."""
    if mode is ClientAuth.NO_CLIENT_CERT:
        return False
    if kind == "none":
        required = mode in (
            ClientAuth.REQUIRE_ANY_CLIENT_CERT,
            ClientAuth.REQUIRE_AND_VERIFY_CLIENT_CERT,
        )
        return CertificateRequired if required else False
    if mode in (ClientAuth.REQUEST_CLIENT_CERT, ClientAuth.REQUIRE_ANY_CLIENT_CERT):
        return False
    return BAD.get(kind, True)


# --- the acceptor -----------------------------------------------------------------


Outcome: TypeAlias = type[FastnodeError] | None


class Seen(NamedTuple):
    """What the acceptor's side saw of one dial."""

    refusals: list[Refusal]
    peers: list[Peer]
    node: Node


@asynccontextmanager
async def acceptor(
    mode: ClientAuth, version: ssl.TLSVersion, through: str
) -> AsyncIterator[Seen]:
    """beta, whose pool held the old CA until just now.

    Its mode is that of the node's manager, or of the acceptor's own.
    """
    both = CertPool.from_pem(authority().cert_pem + authority("old CA").cert_pem)
    manager = CertAuthManager(
        certificate(B),
        client_cas=both,
        client_auth=mode,
        root_cas=pool(),
        minimum_version=version,
        live_trust=True,
    )
    refusals: list[Refusal] = []
    peers: list[Peer] = []

    def admit(peer: Peer) -> bool:
        peers.append(peer)
        return True

    own = manager if through == "acceptor" else None
    async with running(
        B,
        manager=manager if own is None else strict(B),
        acceptors=[AcceptorOptions(port=0, cert_manager=own)],
        on_refused=refusals.append,
        authorize=admit,
    ) as node:
        manager.client_cas = pool()
        yield Seen(refusals, peers, node)


def restrict(context: ssl.SSLContext, version: ssl.TLSVersion) -> ssl.SSLContext:
    context.minimum_version = context.maximum_version = version
    return context


# --- three kinds of dialer --------------------------------------------------------


class OneVersion(CertAuthManager):
    """Dials with one version of TLS only."""

    version = TLS13

    def client_context(self, **options: Any) -> ssl.SSLContext:
        context = super().client_context(**options)
        return restrict(context, self.version)


async def dial_as_node(
    seen: Seen, issued: IssuedCertificate | None, version: ssl.TLSVersion
) -> Outcome:
    mine = None if issued is None else issued.certificate()
    manager = OneVersion(None, root_cas=pool(), minimum_version=version)
    manager.version = version
    if mine is not None:
        # Not by `update`, nor at the start: both refuse an expired one.
        manager._certificate = None
    async with running(A, manager=manager, listens=False) as node:
        manager._certificate = mine
        introduce(node, seen.node)
        try:
            link = await node.connect(B)
        except FastnodeError as error:
            return type(error) if error.side is Side.REMOTE and error.hint else None
        assert link.peer.verified
        assert link.peer.tls_version == version.name.replace("_", ".")
        return None


async def dial_with_ssl(
    seen: Seen, issued: IssuedCertificate | None, version: ssl.TLSVersion
) -> Outcome:
    context = restrict(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), version)
    context.load_verify_locations(cadata=authority().cert_pem.decode())
    context.set_alpn_protocols([ALPN])
    if issued is not None:
        issued.certificate().load_into(context)
    address = seen.node.acceptors[0].address

    def dial() -> Outcome:
        with socket.create_connection(address, timeout=WAIT_SECONDS) as raw:
            try:
                with context.wrap_socket(raw, server_hostname="127.0.0.1") as tls:
                    tls.sendall(hello(A))
                    assert tls.recv(1) == bytes([frames.HELLO])
                    return None
            except ssl.SSLError as error:
                return by_words(error.reason or "")

    return await asyncio.to_thread(dial)


async def dial_with_openssl(
    seen: Seen, issued: IssuedCertificate | None, version: ssl.TLSVersion, folder: Path
) -> Outcome:
    host, port = seen.node.acceptors[0].address
    command = ["openssl", "s_client", "-connect", f"{host}:{port}", "-alpn", ALPN]
    command += ["-quiet", "-tls1_2" if version is TLS12 else "-tls1_3"]
    if issued is not None:
        cert, key, chain = (folder / name for name in ("cert", "key", "chain"))
        cert.write_bytes(issued.cert_pem)
        chain.write_bytes(issued.cert_pem)
        key.write_bytes(issued.key_pem)
        command += ["-cert", str(cert), "-key", str(key)]
        if len(issued.certificate().chain) > 1:
            command += ["-cert_chain", str(chain)]

    def dial() -> Outcome:
        with subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stderr is not None
            try:
                process.stdin.write(hello(A))
                process.stdin.flush()
                first = process.stdout.read(1)
            except BrokenPipeError:
                first = b""
            process.kill()
            if first:
                assert first == bytes([frames.HELLO])
                return None
            return by_words(process.stderr.read().decode())

    return await asyncio.to_thread(dial)


#: OpenSSL's words for alerts, and what a node makes of the same alert.
WORDS: dict[str, type[FastnodeError]] = {
    "unknown ca": UnknownAuthority,
    "certificate expired": CertificateExpired,
    "certificate required": CertificateRequired,
    "unsupported certificate": HandshakeError,
    # TLS 1.2 has no alert for a missing certificate.
    "handshake failure": CertificateRequired,
}


def by_words(text: str) -> type[FastnodeError]:
    plain = text.lower().replace("_", " ")
    found = [error for words, error in WORDS.items() if words in plain]
    assert len(found) == 1, text
    return found[0]


Dial: TypeAlias = Callable[
    [Seen, IssuedCertificate | None, ssl.TLSVersion], Awaitable[Outcome]
]


# --- the matrix -------------------------------------------------------------------


async def cell(
    seen: Seen,
    mode: ClientAuth,
    kind: str,
    version: ssl.TLSVersion,
    dial: Dial,
) -> str:
    """One dial, from both sides; what the table says of it."""
    issued = shown()[kind]
    stats, want = seen.node.acceptors[0].stats, expected(mode, kind)
    before, up_before = stats.refused.total(), stats.links
    seen.refusals.clear()
    seen.peers.clear()
    presented = None if issued is None else issued.certificate().x509
    got = await dial(seen, issued, version)
    where = (mode.name, kind, version.name, dial)
    if isinstance(want, bool):
        assert got is None, where
        assert stats.refused.total() == before, where
        if dial is dial_as_node:
            await until(lambda: stats.links == up_before + 1)
        await until(lambda: seen.node.links == ())
        (peer,) = seen.peers
        assert peer.verified is want, where
        assert peer.certificate == (presented if mode.asks else None), where
        return "accept, verified" if want else "accept"
    assert got is want, where
    await until(lambda: seen.refusals)
    assert seen.peers == [], where
    (refusal,) = seen.refusals
    assert refusal.reason == want.__name__, where
    assert refusal.side is Side.LOCAL
    assert stats.refused.total() == before + 1
    assert refusal.certificate == presented, where
    assert refusal.hint
    return f"`{want.__name__}`"


def rendered(outcomes: dict[tuple[ClientAuth, str], set[str]]) -> str:
    kinds = list(shown())
    lines = [
        "| what the dialer shows | " + " | ".join(m.name for m in ClientAuth) + " |"
    ]
    lines.append("|---" * (len(ClientAuth) + 1) + "|")
    for kind in kinds:
        cells = [" / ".join(sorted(outcomes[mode, kind])) for mode in ClientAuth]
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("through", ["node", "acceptor"])
async def test_matrix(tmp_path: Path, through: str) -> None:
    outcomes: dict[tuple[ClientAuth, str], set[str]] = {}

    async def dial_all(mode: ClientAuth, version: ssl.TLSVersion) -> None:
        folder = tmp_path / f"{mode.name}-{version.name}"
        folder.mkdir()
        dialers: list[Dial] = [dial_as_node, dial_with_ssl]
        if shutil.which("openssl") and through == "node":
            dialers.append(partial(dial_with_openssl, folder=folder))
        async with acceptor(mode, version, through) as seen:
            for kind in shown():
                for dial in dialers:
                    outcomes.setdefault((mode, kind), set()).add(
                        await cell(seen, mode, kind, version, dial)
                    )

    await all_at_once(dial_all, *product(ClientAuth, (TLS12, TLS13)))
    # Dialers and versions agree.
    assert all(len(found) == 1 for found in outcomes.values()), outcomes
    text = DOCS.read_text()
    begin, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    table = f"\n{rendered(outcomes)}\n"
    if os.environ.get("FASTNODE_WRITE_DOCS"):
        DOCS.write_text(text[:begin] + table + text[end:])
    else:
        assert text[begin:end] == table
