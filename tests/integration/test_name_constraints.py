"""Name constraints bind node names and server names, on both sides of a link."""

from __future__ import annotations

import asyncio
import logging
import shutil
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from fastnode import (
    AcceptorOptions,
    CertAuthManager,
    Certificate,
    ClientAuth,
    HandshakeError,
    HostnameMismatch,
    Link,
    PeerNameMismatch,
    Refusal,
    Route,
    Side,
    SpiffeRule,
    UnknownAuthority,
)
from fastnode.certs import context
from fastnode.certs.authority import Authority
from fastnode.names import NodeName
from fastnode.openssl import constrained as chains
from fastnode.openssl.verification import why_unavailable
from helpers.constraints import constrained, openssl_reads_hosts
from helpers.nodes import WAIT_SECONDS, running, until
from helpers.pki import authority, certificate

PAY = "pay@pay.team-b.internal"
SHOP = "shop@shop.internal"
URI = f"fastnode://{PAY}"
A_ONLY = "permitted;DNS:team-a.internal"
NO_PAY = "excluded;URI:pay.team-b.internal"
#: From pay to shop, or from shop to pay: who judges pay differs.
ROLES = ["acceptor judges", "dialer judges"]


@pytest.fixture(params=["hooked", "hidden"])
def hooked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the OpenSSL of this interpreter can be reached; both ways are tested."""
    if request.param == "hidden":
        monkeypatch.setattr(context, "why_unavailable", lambda: "it is hidden")
    elif why_unavailable() is not None:
        pytest.skip(str(why_unavailable()))
    return bool(request.param == "hooked")


def root() -> Authority:
    return authority()


def under(*constraints: str, parent: Authority | None = None) -> Authority:
    """An authority with these constraints, below the one that everybody trusts."""
    return constrained(*constraints, parent=parent or root())


def manager(
    shown: Certificate, trusts: Authority | None = None, **options: Any
) -> CertAuthManager:
    """One that trusts the common root, and another one."""
    pool = root().pool()
    if trusts is not None:
        pool.add(trusts.cert_pem)
    return CertAuthManager(
        shown,
        client_cas=pool,
        client_auth=ClientAuth.REQUIRE_AND_VERIFY_CLIENT_CERT,
        root_cas=pool,
        **options,
    )


@dataclass
class Meeting:
    """One dial between shop, which has a good certificate, and another node.

    Attributes:
        link: what came of it, or None.
        error: what `connect` raised, or None.
        refused, failed: what the acceptor counted, by the name of the error.
        refusals: what its `on_refused` was told.
    """

    link: Link | None = None
    error: HandshakeError | None = None
    refused: dict[str, int] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)
    refusals: list[Refusal] = field(default_factory=list)


async def meet(
    role: str,
    name: str,
    shown: Certificate,
    *,
    trusts: Authority | None = None,
    server_name: str | None = None,
    verify_server_name: bool = False,
    **network: Any,
) -> Meeting:
    """Let a node with this name and certificate meet shop.

    Args:
        role: whether that node dials ("acceptor judges") or accepts.
        trusts: a root that both trust, besides the common one.
        server_name, verify_server_name: of the dialer.
        network: `NetworkOptions` of shop.
    """
    naming: dict[str, Any] = {
        "server_name": server_name,
        "verify_server_name": verify_server_name,
    }
    shop = manager(certificate(SHOP), trusts, **naming)
    other = manager(shown, trusts, **naming)
    meeting = Meeting()
    accepting: dict[str, Any] = {
        "on_refused": meeting.refusals.append,
        "acceptors": (AcceptorOptions(host="127.0.0.1", port=0),),
    }
    sides: dict[str, Any] = {
        SHOP: {"manager": shop, **network},
        name: {"manager": other},
    }
    dialer, acceptor = (name, SHOP) if role == "acceptor judges" else (SHOP, name)
    async with AsyncExitStack() as stack:
        b = await stack.enter_async_context(
            running(acceptor, **sides[acceptor], **accepting)
        )
        a = await stack.enter_async_context(
            running(dialer, listens=False, **sides[dialer])
        )
        a.add_route(Route(".", *b.acceptors[0].address))
        try:
            meeting.link = await a.connect(acceptor)
        except HandshakeError as error:
            meeting.error = error
        else:
            await until(lambda: b.links)
        stats = b.acceptors[0].stats
        if meeting.error is not None:
            await until(lambda: stats.refused.total() + stats.failed.total() == 1)
            assert a.links == b.links == ()
        meeting.refused, meeting.failed = dict(stats.refused), dict(stats.failed)
    return meeting


def check_refused(
    meeting: Meeting, role: str, expected: type[HandshakeError], *words: str
) -> None:
    """Both sides say the same: the error, the constraint, and whose it is."""
    error = meeting.error
    assert type(error) is expected, error
    judged_here = role == "dialer judges"
    assert error.side is (Side.LOCAL if judged_here else Side.REMOTE)
    assert error.hint
    for word in words:
        assert word in str(error), error
    counts = meeting.failed if judged_here else meeting.refused
    assert counts == {expected.__name__: 1}
    (refusal,) = meeting.refusals
    assert type(refusal.error) is expected
    assert refusal.side is (Side.REMOTE if judged_here else Side.LOCAL)
    for word in words:
        assert word in str(refusal), refusal


# --- node names -------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    "constraint",
    [A_ONLY, "excluded;DNS:team-b.internal", "excluded;DNS:", NO_PAY],
)
async def test_guarantee_4_name_constraints_bind_node_uris(
    role: str, constraint: str, hooked: bool
) -> None:
    shown = under(constraint).issue(None, dns=[URI]).certificate()
    meeting = await meet(role, PAY, shown)
    if constraint == NO_PAY and openssl_reads_hosts():
        # TLS refuses it already.
        assert meeting.link is None
        assert isinstance(meeting.error, HandshakeError)
        (refusal,) = meeting.refusals
        local = meeting.error if role == "dialer judges" else refusal.error
        assert type(local) is UnknownAuthority
        assert "name constraints" in str(local)
        return
    check_refused(
        meeting, role, PeerNameMismatch, constraint, "CN=team CA", "pay.team-b.internal"
    )
    assert meeting.error is not None
    assert "whose name constraints allow" in str(meeting.error.hint)


@pytest.mark.parametrize("role", ROLES)
async def test_guarantee_4_names_that_the_constraints_allow(
    role: str, hooked: bool
) -> None:
    name = "pay@pay.team-a.internal"
    issuer = under(A_ONLY, "excluded;DNS:x.team-a.internal", NO_PAY)
    for sans in (
        [f"fastnode://{name}"],
        ["pay.team-a.internal"],
        ["*.team-a.internal"],
    ):
        meeting = await meet(role, name, issuer.issue(None, dns=sans).certificate())
        assert meeting.link is not None, meeting.error
        assert meeting.link.peer.verified


@pytest.mark.parametrize("role", ROLES)
async def test_guarantee_4_addresses_in_node_uris(role: str, hooked: bool) -> None:
    inside = under("permitted;IP:10.0.0.0/8", "permitted;IP:fd00::/8")
    for name, allowed in (
        ("pay@10.1.2.3", True),
        ("pay@fd00::5", True),
        ("pay@192.0.2.1", False),
        ("pay@::1", False),
    ):
        shown = inside.issue(None, dns=[f"fastnode://{name}"]).certificate()
        meeting = await meet(role, name, shown)
        if allowed:
            assert meeting.link is not None, meeting.error
        else:
            check_refused(meeting, role, PeerNameMismatch, "permitted;IP:10.0.0.0/8")


@pytest.mark.parametrize("role", ROLES)
async def test_guarantee_4_wildcards_cover_no_excluded_host(
    role: str, hooked: bool
) -> None:
    """The certificate stays good for all other hosts."""
    issuer = under("excluded;DNS:a.team-b.internal")
    shown = issuer.issue(None, dns=["*.team-b.internal"]).certificate()
    meeting = await meet(role, "pay@b.team-b.internal", shown)
    assert meeting.link is not None, meeting.error
    meeting = await meet(role, "pay@A.team-b.internal", shown)
    check_refused(
        meeting, role, PeerNameMismatch, "excluded;DNS:a.team-b.internal", "CN=team CA"
    )


@pytest.mark.parametrize("role", ROLES)
async def test_guarantee_4_every_intermediate_applies(role: str, hooked: bool) -> None:
    upper = constrained("permitted;DNS:team-b.internal", parent=root(), name="upper")
    lower = constrained("excluded;DNS:pay.team-b.internal", parent=upper, name="lower")
    other = "pay@other.team-b.internal"
    shown = lower.issue(None, dns=[f"fastnode://{other}"]).certificate()
    assert (await meet(role, other, shown)).link is not None
    shown = lower.issue(None, dns=[URI]).certificate()
    check_refused(await meet(role, PAY, shown), role, PeerNameMismatch, "CN=lower")
    outside = "pay@team-a.internal"
    shown = lower.issue(None, dns=[f"fastnode://{outside}"]).certificate()
    check_refused(await meet(role, outside, shown), role, PeerNameMismatch, "CN=upper")


@pytest.mark.parametrize("role", ROLES)
async def test_guarantee_4_the_trust_anchor_applies(role: str, hooked: bool) -> None:
    anchor = constrained(A_ONLY, name="anchor")
    shown = anchor.issue(None, dns=[URI]).certificate()
    meeting = await meet(role, PAY, shown, trusts=anchor)
    check_refused(meeting, role, PeerNameMismatch, A_ONLY, "CN=anchor")
    allowed = "pay@pay.team-a.internal"
    shown = anchor.issue(None, dns=[f"fastnode://{allowed}"]).certificate()
    assert (await meet(role, allowed, shown, trusts=anchor)).link is not None


@pytest.mark.parametrize("role", ROLES)
async def test_constraints_that_cannot_be_used_are_named(
    role: str, hooked: bool
) -> None:
    shown = under("excluded;DNS:*.team-c.internal").issue(None, dns=[URI])
    meeting = await meet(role, PAY, shown.certificate())
    check_refused(
        meeting, role, PeerNameMismatch, "*.team-c.internal, which is malformed"
    )


async def test_verify_peer_name_turns_it_off(hooked: bool) -> None:
    shown = under(A_ONLY).issue(None, dns=[URI]).certificate()
    for role in ROLES:
        options: dict[str, Any] = {
            "verify_peer_name": False,
            # Somebody has to judge: these dialers verify no server name.
            "authorize": lambda peer: True,
        }
        meeting = await meet(role, PAY, shown, **options)
        assert meeting.link is not None, meeting.error


@pytest.mark.parametrize("role", ROLES)
async def test_guarantee_4_a_chain_that_cannot_be_seen_covers_nothing(
    role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(context, "why_unavailable", lambda: "it is hidden")
    monkeypatch.setattr(chains, "_verified_chain", lambda tls: None)
    shown = root().issue(NodeName.parse(PAY)).certificate()
    meeting = await meet(role, PAY, shown)
    error = meeting.error
    assert type(error) is HandshakeError
    assert "cannot be seen" in error.message
    assert error.hint
    assert meeting.link is None


# --- server names -----------------------------------------------------------------


async def test_guarantee_4_name_constraints_bind_server_names(hooked: bool) -> None:
    """A wildcard is no way to an excluded host, even where node names do not count."""
    issuer = under("excluded;DNS:a.team-b.internal")
    shown = issuer.issue(None, dns=["*.team-b.internal", URI]).certificate()
    for server_name, good in (
        ("b.team-b.internal", True),
        ("a.team-b.internal", False),
    ):
        meeting = await meet(
            "dialer judges",
            PAY,
            shown,
            server_name=server_name,
            verify_server_name=True,
            verify_peer_name=False,
        )
        if good:
            assert meeting.link is not None, meeting.error
            continue
        check_refused(
            meeting,
            "dialer judges",
            HostnameMismatch,
            "excluded;DNS:a.team-b.internal",
            "CN=team CA",
        )


# --- what TLS refuses -------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    ("constraint", "sans"),
    [
        (A_ONLY, ["pay.team-b.internal"]),
        ("excluded;DNS:pay.team-b.internal", ["pay.team-b.internal", URI]),
        ("permitted;IP:10.0.0.0/8", ["192.0.2.1"]),
        ("permitted;URI:pay.team-b.internal", [URI]),
        ("excluded;URI:prod.example", [URI, "spiffe://prod.example/pay"]),
    ],
)
async def test_guarantee_4_what_tls_refuses_names_the_constraint(
    role: str, constraint: str, sans: list[str]
) -> None:
    if why_unavailable() is not None:
        pytest.skip(str(why_unavailable()))
    shown = under(constraint).issue(None, dns=sans).certificate()
    meeting = await meet(role, PAY, shown)
    if constraint == "permitted;URI:pay.team-b.internal" and openssl_reads_hosts():
        # OpenSSL 3.0 refuses what this constraint permits.
        assert meeting.link is not None, meeting.error
        return
    check_refused(meeting, role, UnknownAuthority, constraint, "CN=team CA")


@pytest.mark.parametrize("role", ROLES)
async def test_what_tls_refuses_where_openssl_cannot_be_reached(
    role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The refusing side knows the class; the other side is told to read its log."""
    monkeypatch.setattr(context, "why_unavailable", lambda: "it is hidden")
    shown = under(A_ONLY).issue(None, dns=["pay.team-b.internal"]).certificate()
    meeting = await meet(role, PAY, shown)
    assert isinstance(meeting.error, HandshakeError)
    (refusal,) = meeting.refusals
    local = meeting.error if role == "dialer judges" else refusal.error
    assert type(local) is UnknownAuthority
    assert "permitted subtree violation" in str(local)


async def test_an_exact_uri_constraint_is_explained() -> None:
    """OpenSSL 3.0 compares name@host with it, so nobody satisfies it."""
    if why_unavailable() is not None:
        pytest.skip(str(why_unavailable()))
    issuer = under("permitted;URI:pay.team-b.internal")
    meeting = await meet(
        "dialer judges", PAY, issuer.issue(None, dns=[URI]).certificate()
    )
    if openssl_reads_hosts():
        assert meeting.link is not None, meeting.error
    else:
        assert meeting.error is not None
        assert "leading dot" in str(meeting.error.hint)
    issuer = under("permitted;URI:.team-b.internal")
    meeting = await meet(
        "dialer judges", PAY, issuer.issue(None, dns=[URI]).certificate()
    )
    assert meeting.link is not None, meeting.error


@pytest.mark.parametrize("role", ROLES)
async def test_guarantee_4_trust_domains_obey_uri_constraints(
    role: str, hooked: bool
) -> None:
    rule = SpiffeRule("prod.example", "/ns/shop/sa/{name}")
    options: dict[str, Any] = {"verify_peer_name": False, "authorize": rule}
    for constraint, good in (
        ("permitted;URI:prod.example", True),
        ("permitted;URI:test.example", False),
    ):
        sans = ["spiffe://prod.example/ns/shop/sa/pay"]
        shown = under(constraint).issue(None, dns=sans).certificate()
        meeting = await meet(role, PAY, shown, **options)
        assert (meeting.link is not None) is good, meeting.error


# --- the example of the documents ---------------------------------------------------

PAGE = Path(__file__).parents[2] / "docs" / "tls.md"


def block(kind: str) -> str:
    """The first block of this kind in the section on name constraints."""
    section = PAGE.read_text().split("\n## Name constraints\n")[1]
    return section.split(f"```{kind}\n")[1].split("```")[0]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
@pytest.mark.parametrize("role", ROLES)
async def test_the_example_in_the_documents(role: str, tmp_path: Path) -> None:
    ca = Authority.create("documented CA")
    ca.save(tmp_path)
    (tmp_path / "team-a.cnf").write_text(block("ini"))
    made = await asyncio.create_subprocess_exec(
        "sh", "-ec", block("sh"), cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    async with asyncio.timeout(WAIT_SECONDS):
        output, _ = await made.communicate()
    assert made.returncode == 0, output.decode()
    team = x509.load_pem_x509_certificate((tmp_path / "team-a.pem").read_bytes())
    key = load_pem_private_key((tmp_path / "team-a-key.pem").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    issuer = Authority(team, key, (team,))
    for name, good in (
        ("pay@pay.team-a.internal", True),
        ("pay@pay.team-b.internal", False),
        ("pay@10.0.0.5", False),
    ):
        shown = issuer.issue(None, dns=[f"fastnode://{name}"]).certificate()
        meeting = await meet(role, name, shown, trusts=ca)
        if good:
            assert meeting.link is not None, meeting.error
        else:
            check_refused(meeting, role, PeerNameMismatch, "CN=team A")


# --- advice -----------------------------------------------------------------------


async def test_a_node_warns_of_constraints_that_forbid_its_name(
    caplog: pytest.LogCaptureFixture,
) -> None:
    shown = under(A_ONLY).issue(None, dns=[URI]).certificate()
    async with running(PAY, manager=manager(shown), listens=False):
        pass
    (said,) = [
        record.getMessage()
        for record in caplog.records
        if record.levelno == logging.WARNING
    ]
    assert said.startswith(f"{PAY}: this node's certificate may not cover its name")
    assert f"CN=team CA forbid pay.team-b.internal: {A_ONLY}" in said
    caplog.clear()
    name = "pay@pay.team-a.internal"
    shown = under(A_ONLY).issue(None, dns=[f"fastnode://{name}"]).certificate()
    async with running(name, manager=manager(shown), listens=False):
        pass
    assert not [r for r in caplog.records if r.levelno == logging.WARNING]
