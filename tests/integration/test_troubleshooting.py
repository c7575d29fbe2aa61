"""Every row of the troubleshooting table of docs/tls.md happens as it is written."""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fastnode import (
    CertAuthManager,
    Certificate,
    CertPool,
    FastnodeError,
    Node,
    Route,
    limits,
)
from fastnode.certs.authority import Authority
from fastnode.names import NodeName
from fastnode.node.membership import Membership
from fastnode.openssl.verification import why_unavailable
from helpers.constraints import constrained
from helpers.flawed import FLAWS, flawed
from helpers.nodes import A, B, pair, refusing, running, start, until
from helpers.pki import (
    authority,
    certificate,
    expired_certificate,
    manager,
    odd_certificate,
    pool,
)

pytestmark = pytest.mark.skipif(
    why_unavailable() is not None, reason="less is said without the hook"
)

PAGE = Path(__file__).parents[2] / "docs" / "tls.md"
CODE = re.compile(r"`([^`]+)`")
DAY = timedelta(days=1)

Scenario = Callable[[Path, pytest.LogCaptureFixture], Awaitable[str]]
SCENARIOS: dict[str, Scenario] = {}


def row(words: str) -> Callable[[Scenario], Scenario]:
    """The scenario of the row whose first column holds these words."""

    def register(scenario: Scenario) -> Scenario:
        SCENARIOS[words] = scenario
        return scenario

    return register


def rows() -> list[str]:
    """The first column of the table."""
    table = PAGE.read_text().split("## Troubleshooting")[1]
    cells = [
        line.split("|")[1].strip() for line in table.splitlines() if line[:1] == "|"
    ]
    return cells[2:]


def said(error: BaseException) -> str:
    """What a person reads of an error."""
    return f"connect() start_node {type(error).__name__}: {error}"


async def refused(
    dialer: dict[str, Any] | None = None, acceptor: dict[str, Any] | None = None
) -> str:
    """What alpha reads when it cannot connect to beta."""
    async with pair({"listens": False, **(dialer or {})}, acceptor) as (a, _):
        return await fails(a, B)


async def fails(node: Node, name: str) -> str:
    with pytest.raises(FastnodeError) as caught:
        await node.connect(name)
    return said(caught.value)


# --- the rows -----------------------------------------------------------------------


@row("compare TLS versions, ciphers and key-exchange groups")
async def _(*_: object) -> str:
    return await refused({"groups": ["X25519"]}, {"groups": ["P-256"]})


@row("found its certificates too costly to read")
async def _(*_: object) -> str:
    names = [f"{number}.a" for number in range(limits.MAX_CERTIFICATE_NAMES)]
    issued = authority().issue(NodeName.parse(A), dns=names)
    return await refused({"manager": manager(A, shows=issued.certificate())})


@row("it does not trust the authority of this node's certificate")
async def _(*_: object) -> str:
    return await refused({"manager": manager(A, shows=certificate(A, "other CA"))})


@row("the server's certificate is not signed by an authority that this node trusts")
async def _(*_: object) -> str:
    return await refused({"manager": manager(A, trusts="other CA")})


@row("if it is an intermediate, this node's certificate file must hold it too")
async def _(*_: object) -> str:
    issued = authority().intermediate("middle").issue(NodeName.parse(A))
    end = b"-----END CERTIFICATE-----\n"
    leaf = Certificate.from_pem(issued.cert_pem.partition(end)[0] + end, issued.key_pem)
    return await refused({"manager": manager(A, shows=leaf)})


@row("has the same name")
async def _(*_: object) -> str:
    again = Authority.create("test CA").issue(NodeName.parse(A)).certificate()
    return await refused({"manager": manager(A, shows=again)})


@row("which is an intermediate authority")
async def _(*_: object) -> str:
    below = authority().intermediate("below")
    shown = below.issue(NodeName.parse(B)).certificate()
    dialing = manager(A)
    dialing.root_cas = CertPool.from_pem(below.cert_pem)
    return await refused({"manager": dialing}, {"manager": manager(B, shows=shown)})


async def flawed_server(flaw: str) -> str:
    made = flawed("home CA", **FLAWS[flaw][0])
    dialing = manager(A)
    dialing.root_cas = made.pool()
    shown = made.issue(NodeName.parse(B)).certificate()
    return await refused({"manager": dialing}, {"manager": manager(B, shows=shown)})


@row("Basic Constraints of CA cert not marked critical")
async def _(*_: object) -> str:
    return await flawed_server("easy-rsa of Debian 12")


@row("CA cert does not include key usage extension")
async def _(*_: object) -> str:
    return await flawed_server("openssl req -x509")


@row("no peer can be verified by")
async def _(folder: Path, caplog: pytest.LogCaptureFixture) -> str:
    flawed("home CA", usage=None).pool()
    return caplog.text


@row("it demands a certificate and was shown none")
async def _(*_: object) -> str:
    return await refused({"manager": manager(A, anonymous=True)})


@row("it expired on")
async def _(*_: object) -> str:
    return await refused({"manager": manager(A, shows=expired_certificate(A))})


@row("check both clocks")
async def _(*_: object) -> str:
    now = datetime.now(UTC)
    early = odd_certificate(A, not_before=now + DAY, not_after=now + 2 * DAY)
    return await refused({"manager": manager(A, shows=early)})


@row("set server_name or a SAN")
async def _(*_: object) -> str:
    shown = odd_certificate(B, host=False, dns=["b.example"])
    return await refused(acceptor={"manager": manager(B, shows=shown)})


@row("which its certificate does not cover")
async def _(*_: object) -> str:
    shown = odd_certificate(A, uri=False, host=False, dns=["a.example"])
    return await refused({"manager": manager(A, shows=shown)})


@row("which its certificate may not cover")
async def _(*_: object) -> str:
    issuer = constrained("permitted;IP:10.0.0.0/8", parent=authority())
    shown = issuer.issue(None, dns=[f"fastnode://{A}"]).certificate()
    return await refused({"manager": manager(A, shows=shown)})


@row("the name constraints of")
async def _(*_: object) -> str:
    issuer = constrained("permitted;IP:10.0.0.0/8", parent=authority())
    shown = issuer.issue(NodeName.parse(A)).certificate()
    return await refused({"manager": manager(A, shows=shown)})


@row("was dialed")
async def _(*_: object) -> str:
    async with running(B) as b, running(A, listens=False) as a:
        a.add_route(Route("gamma", *b.acceptors[0].address))
        return await fails(a, "gamma@127.0.0.1")


@row("does not belong to service")
async def _(*_: object) -> str:
    async with running(B) as b, running(A) as a:
        with pytest.raises(FastnodeError) as caught:
            address = b.acceptors[0].address
            await a._instances.connect(address, Membership.of("gamma"))
        return said(caught.value)


@row("which is this node itself")
async def _(*_: object) -> str:
    async with running(A) as a:
        a.add_route(Route("gamma", *a.acceptors[0].address))
        return await fails(a, "gamma@127.0.0.1")


@row("is not authorized")
async def _(*_: object) -> str:
    return await refused(acceptor={"authorize": lambda peer: False})


@row("unfit for its purpose")
async def _(*_: object) -> str:
    shown = odd_certificate(A, client_auth=False)
    return await refused({"manager": manager(A, shows=shown)})


def with_crl(crl: bytes) -> CertPool:
    held = pool()
    held.add_crl(crl)
    return held


@row("has been revoked")
async def _(*_: object) -> str:
    shown = odd_certificate(A)
    accepting = manager(B)
    accepting.client_cas = with_crl(authority().crl([shown.serial_number]))
    return await refused({"manager": manager(A, shows=shown)}, {"manager": accepting})


@row("is out of date")
async def _(*_: object) -> str:
    now = datetime.now(UTC)
    dialing = manager(A)
    old = authority().crl(last_update=now - 9 * DAY, next_update=now - DAY)
    dialing.root_cas = with_crl(old)
    return await refused({"manager": dialing})


class OldManager(CertAuthManager):
    """Serves TLS 1.2 only."""

    def server_context(self, **options: Any) -> ssl.SSLContext:
        context = super().server_context(**options)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        return context


@row("speaks no version of TLS that this node allows")
async def _(*_: object) -> str:
    old = OldManager(certificate(B), minimum_version=ssl.TLSVersion.TLSv1_2)
    return await refused(acceptor={"manager": old})


@asynccontextmanager
async def another_service(answer: bytes) -> AsyncIterator[Route]:
    """Something that is not fastnode."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(answer)
        while await reader.read(4096):
            pass
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield Route(".", "127.0.0.1", server.sockets[0].getsockname()[1])


@row("something that is not TLS")
async def _(*_: object) -> str:
    async with another_service(b"220 mail.example ESMTP\r\n") as route:
        async with running(A, listens=False, routes=[route]) as a:
            return await fails(a, B)


@row("was not complete within")
async def _(*_: object) -> str:
    async with another_service(b"") as route:
        async with running(
            A, listens=False, routes=[route], handshake_timeout=0.5
        ) as a:
            return await fails(a, B)


@row("could not be reached")
async def _(*_: object) -> str:
    with refusing() as nobody:
        async with running(A, listens=False, routes=[Route(".", *nobody)]) as a:
            return await fails(a, B)


@row("restart the node")
async def _(*_: object) -> str:
    fixed = manager(A)
    async with running(A, manager=fixed):
        with pytest.raises(FastnodeError) as caught:
            fixed.client_cas = pool()
        return said(caught.value)


@row("links that are up keep the old one")
async def _(folder: Path, caplog: pytest.LogCaptureFixture) -> str:
    mine = manager(A)
    async with pair({"manager": mine, "listens": False}) as (a, b):
        await a.connect(B)
        await until(lambda: b.links)
        before = b.links[0].peer.certificate
        with caplog.at_level(logging.INFO, "fastnode.certs"):
            mine.update(odd_certificate(A))
        assert b.links[0].peer.certificate == before
        await a.reconnect()
        await until(lambda: b.links and b.links[0].peer.certificate != before)
        return f"update() {caplog.text}"


@row("is not the key of")
async def _(folder: Path, *_: object) -> str:
    for name in ("one", "two"):
        authority().issue(NodeName.parse(A)).save(
            folder / f"{name}.pem", folder / f"{name}-key.pem"
        )
    with pytest.raises(FastnodeError) as caught:
        Certificate.load(folder / "one.pem", folder / "two-key.pem")
    return said(caught.value)


@row("expired on")
async def _(*_: object) -> str:
    with pytest.raises(FastnodeError) as caught:
        await start(
            A, manager=manager(A, shows=expired_certificate(A)), refuses_expired=True
        )
    return said(caught.value)


@row("not taken")
async def _(folder: Path, caplog: pytest.LogCaptureFixture) -> str:
    cert, key = folder / "cert.pem", folder / "key.pem"
    authority().issue(NodeName.parse(A)).save(cert, key)
    with manager(A).watch(cert, key) as watch:
        key.write_bytes(key.read_bytes()[:40])
        with caplog.at_level(logging.WARNING, "fastnode.certs"):
            watch.check()
            await until(lambda: "not taken" in caplog.text)
    return caplog.text


# --- all of them --------------------------------------------------------------------


def scenario_of(cell: str) -> Scenario:
    """The scenario whose words stand in a row's first cell."""
    fragments = CODE.findall(cell)
    (found,) = [SCENARIOS[words] for words in fragments if words in SCENARIOS]
    return found


def test_every_row_has_a_scenario_and_the_other_way_round() -> None:
    found = [scenario_of(cell) for cell in rows()]
    assert len(set(found)) == len(found) == len(SCENARIOS)


@pytest.mark.parametrize("cell", rows())
async def test_row(cell: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = await scenario_of(cell)(tmp_path, caplog)
    for fragment in CODE.findall(cell):
        assert fragment in text
