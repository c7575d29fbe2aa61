"""`NetworkOptions.recheck`: links whose peer would be refused today are closed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from unittest import mock

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from fastnode import (
    CertAuthManager,
    Certificate,
    CertificateExpired,
    CertificateRevoked,
    CertPool,
    ClientAuth,
    ConfigError,
    FastnodeError,
    HandshakeError,
    Link,
    LinkLost,
    NetworkOptions,
    Node,
    NodeOptions,
    PeerNameMismatch,
    Side,
    UnknownAuthority,
)
from fastnode.certs.authority import Authority
from fastnode.link.machine import State
from fastnode.names import NodeName
from fastnode.node import recheck
from fastnode.openssl.again import judge_again
from fastnode.openssl.handle import why_unreachable
from helpers.constraints import constrained
from helpers.nodes import A, B, all_at_once, introduce, pair, running, start, until
from helpers.pki import authority, certificate, manager, odd_certificate, pool

needs_openssl = pytest.mark.skipif(
    why_unreachable() is not None, reason="needs an OpenSSL that can be reached"
)
C = "gamma@127.0.0.1"


def trust(made: CertAuthManager, new: Callable[[], CertPool]) -> None:
    """Give a manager new pools, in both directions."""
    made.replace_trust(new(), new())


def revoking(*shown: Certificate) -> CertPool:
    """The usual authority, and a list with these certificates."""
    made = pool()
    made.add_crl(authority().crl([each.serial_number for each in shown]))
    return made


@asynccontextmanager
async def linked(
    dialer: CertAuthManager,
    acceptor: CertAuthManager,
    **options: Any,
) -> AsyncIterator[tuple[Node, Node, Link, Link]]:
    """Two nodes, and both ends of their link; `options` are those of the acceptor."""
    network = {"recheck": "close"} | options
    async with pair(
        {"manager": dialer, "listens": False, **network},
        {"manager": acceptor, **network},
    ) as (a, b):
        b.handler("echo")(lambda message: message.payload)
        link = await a.connect(B)
        await until(lambda: b.links)
        yield a, b, link, b.links[0]


def refused(ours: Link, theirs: Link, kind: type[HandshakeError], words: str) -> None:
    """Both ends of a link know why it was closed by the first one."""
    here, there = ours.error, theirs.error
    assert type(here) is LinkLost
    assert here.side is Side.LOCAL
    assert "would be refused today" in str(here)
    assert words in str(here)
    assert type(here.__cause__) is kind
    assert type(there) is LinkLost
    assert there.side is Side.REMOTE
    assert words in str(there)


async def until_closed(*links: Link) -> None:
    for link in links:
        async with asyncio.timeout(20):
            await link.wait_closed()


# --- trust changes ------------------------------------------------------------------


@needs_openssl
async def test_a_revoked_peer_loses_its_link_and_others_keep_theirs() -> None:
    bad, good = odd_certificate(A), odd_certificate(C)
    accepting = manager(B, live_trust=True)
    async with linked(manager(A, shows=bad), accepting) as (_a, b, link, far):
        async with running(C, manager=manager(C, shows=good), listens=False) as c:
            introduce(c, b)
            other = await c.connect(B)
            downs: list[FastnodeError] = []
            b.on_link_down(lambda _link, reason: downs.append(reason))
            waiting = asyncio.create_task(link.call("never", b""))
            accepting.client_cas = revoking(bad)
            await until_closed(link, far)
            refused(far, link, CertificateRevoked, "has been revoked")
            with pytest.raises(FastnodeError):
                await waiting
            await until(lambda: downs)
            assert downs == [far.error]
            assert await other.call("echo", b"x", timeout=20) == b"x"
            assert [each.peer.name for each in b.links] == [C]


@needs_openssl
async def test_a_revoked_server_loses_its_link() -> None:
    bad = odd_certificate(B)
    dialing = manager(A, live_trust=True)
    async with linked(dialing, manager(B, shows=bad)) as (_a, _b, link, far):
        # In another thread, as a watch does it.
        await asyncio.to_thread(setattr, dialing, "root_cas", revoking(bad))
        await until_closed(link, far)
        refused(link, far, CertificateRevoked, "has been revoked")


@needs_openssl
async def test_a_revoked_intermediate_takes_its_peers_with_it() -> None:
    below = authority().intermediate("below")
    shown = below.issue(NodeName.parse(A)).certificate()
    accepting = manager(B, live_trust=True)
    async with linked(manager(A, shows=shown), accepting) as (_a, _b, link, far):
        made = pool()
        made.add_crl(authority().crl([below.x509.serial_number]))
        accepting.client_cas = made
        await until_closed(link, far)
        refused(far, link, CertificateRevoked, "has been revoked")
        assert "below" in str(far.error)


@needs_openssl
async def test_guarantee_5_nobody_of_an_authority_that_was_dropped_stays() -> None:
    managers = [manager(name, live_trust=True) for name in (A, B)]
    moved = [certificate(name, "new CA") for name in (A, B)]
    both = CertPool.from_pem(authority().cert_pem + authority("new CA").cert_pem)
    async with linked(*managers) as (a, b, first, _far):
        for made in managers:
            trust(made, lambda: CertPool.from_pem(both.pem))
        # Nothing is refused, so nothing is closed.
        assert await first.call("echo", b"1", timeout=20) == b"1"
        managers[0].update(moved[0])
        await a.reconnect()
        assert await a.call(B, "echo", b"2", timeout=20) == b"2"
        link, far = a.links[0], b.links[0]
        # The acceptor was not moved: the dialer refuses it.
        trust(managers[0], lambda: pool("new CA"))
        await until_closed(link, far)
        refused(link, far, UnknownAuthority, "not signed by an authority")
        with pytest.raises(UnknownAuthority):
            await a.connect(B)


async def test_links_stay_unless_it_is_asked_for() -> None:
    bad = odd_certificate(A)
    accepting = manager(B, live_trust=True)
    async with linked(manager(A, shows=bad), accepting, recheck="keep") as found:
        _a, b, link, _far = found
        accepting.client_cas = revoking(bad)
        for _ in range(5):
            assert await link.call("echo", b"x", timeout=20) == b"x"
        assert b._recheck is None


@needs_openssl
async def test_all_that_a_peer_presented_is_judged_again() -> None:
    shown = authority().intermediate("below").issue(NodeName.parse(A)).certificate()
    made = manager(B)
    async with linked(manager(A, shows=shown), made) as (_a, b, _link, far):
        checking = b._recheck
        assert checking is not None
        (case,) = checking._cases.values()
        assert case.chain == tuple(map(der_of, shown.chain))
        assert list(case.links.values()) == [NodeName.parse(far.peer.name)]


@needs_openssl
async def test_a_name_that_the_new_trust_does_not_allow() -> None:
    """The chain is good, but its authority may not certify the node name."""
    key = Authority.create("limited CA")
    shown = key.issue(None, dns=[f"fastnode://{A}", "a.example"]).certificate()
    limits = constrained("permitted;DNS:a.example", "excluded;IP:0.0.0.0/0.0.0.0")
    made = manager(B, live_trust=True)
    made.client_cas = CertPool.from_pem(key.cert_pem)
    async with linked(manager(A, shows=shown), made) as (_a, _b, link, far):
        # The same authority with another certificate, as it may be made anew.
        again = with_constraints_of(key, limits)
        made.client_cas = CertPool.from_pem(again)
        await until_closed(link, far)
        refused(far, link, PeerNameMismatch, "name constraints")


def with_constraints_of(key: Authority, other: Authority) -> bytes:
    old = key.x509
    builder = (
        x509.CertificateBuilder()
        .subject_name(old.subject)
        .issuer_name(old.issuer)
        .public_key(old.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(old.not_valid_before_utc)
        .not_valid_after(old.not_valid_after_utc)
    )
    for each in old.extensions:
        builder = builder.add_extension(each.value, critical=each.critical)
    limits = other.x509.extensions.get_extension_for_class(x509.NameConstraints)
    builder = builder.add_extension(limits.value, critical=True)
    return builder.sign(key._key, hashes.SHA256()).public_bytes(Encoding.PEM)


@needs_openssl
async def test_peers_that_nobody_verified_are_left_alone() -> None:
    shown = certificate(A, "other CA")
    accepting = manager(B, live_trust=True, client_auth=ClientAuth.REQUEST_CLIENT_CERT)
    async with linked(manager(A, shows=shown), accepting) as (_a, b, link, far):
        assert not far.peer.verified
        accepting.client_cas = pool("third CA")
        assert await link.call("echo", b"x", timeout=20) == b"x"
        assert b.links == (far,)


@needs_openssl
async def test_who_was_verified_before_the_change_and_admitted_after_it() -> None:
    bad = odd_certificate(A)
    accepting = manager(B, live_trust=True)
    asked, go = asyncio.Event(), asyncio.Event()

    async def authorize(_peer: object) -> bool:
        asked.set()
        await go.wait()
        return True

    other = manager(C)
    async with (
        pair(
            {"manager": manager(A, shows=bad), "listens": False},
            {"manager": accepting, "recheck": "close", "authorize": authorize},
        ) as (a, b),
        running(C, manager=other, listens=False) as c,
    ):
        introduce(c, b)
        # One that is up already, so that the node listens to its manager.
        go.set()
        await c.connect(B)
        go.clear()
        asked.clear()
        dial = asyncio.create_task(a.connect(B))
        await asked.wait()
        accepting.client_cas = revoking(bad)
        await asyncio.sleep(0)
        go.set()
        with pytest.raises(FastnodeError):
            link = await dial
            await until_closed(link)
            raise link.error or AssertionError("closed without an error")
        await until(lambda: [each.peer.name for each in b.links] == [C])


@needs_openssl
async def test_the_first_of_all_peers_is_not_overlooked() -> None:
    """As before, where no link was up when trust changed."""
    bad = odd_certificate(A)
    accepting = manager(B, live_trust=True)
    asked, go = asyncio.Event(), asyncio.Event()

    async def authorize(_peer: object) -> bool:
        asked.set()
        await go.wait()
        return True

    async with pair(
        {"manager": manager(A, shows=bad), "listens": False},
        {"manager": accepting, "recheck": "close", "authorize": authorize},
    ) as (a, b):
        dial = asyncio.create_task(a.connect(B))
        await asked.wait()
        accepting.client_cas = revoking(bad)
        go.set()
        with pytest.raises(FastnodeError):
            link = await dial
            await until_closed(link)
            raise link.error or AssertionError("closed without an error")
        await until(lambda: not b.links)


# --- certificates expire --------------------------------------------------------------


def soon(name: str) -> Certificate:
    """A certificate that expires in one to two seconds."""
    end = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=2)
    return odd_certificate(name, not_after=end)


@needs_openssl
async def test_an_expired_peer_loses_its_link() -> None:
    async def expires(whose: str) -> None:
        shown = soon(whose)
        dialing = manager(A, shows=shown if whose == A else None)
        accepting = manager(B, shows=shown if whose == B else None)
        async with linked(dialing, accepting) as (_a, _b, link, far):
            await until_closed(link, far)
            late = time.time() - shown.not_valid_after.timestamp()
            assert 0 <= late < 1.0
            judge, judged = (far, link) if whose == A else (link, far)
            refused(judge, judged, CertificateExpired, "has expired")

    await all_at_once(expires, (A,), (B,))


@needs_openssl
async def test_an_expired_intermediate_takes_its_peers_with_it() -> None:
    below = authority().intermediate("below", days=1.9 / 86400)
    shown = below.issue(NodeName.parse(A)).certificate()
    async with linked(manager(A, shows=shown), manager(B)) as (_a, _b, link, far):
        await until_closed(link, far)
        refused(far, link, CertificateExpired, "has expired")


# --- cost -----------------------------------------------------------------------------


@needs_openssl
async def test_each_certificate_is_judged_once() -> None:
    shared = odd_certificate(A)
    accepting = manager(B, live_trust=True)
    async with running(B, manager=accepting, recheck="close") as b:
        nodes = []
        try:
            for number in range(4):
                name = f"n{number % 2}-{number}@127.0.0.1"
                shown = shared if number % 2 else odd_certificate(name)
                made = manager(name, shows=shown)
                node = await _dial(name, made, b)
                nodes.append(node)
            await until(lambda: len(b.links) == 4)
            chains: list[tuple[bytes, ...]] = []

            def counting(pairs: list[Any]) -> list[Any]:
                chains.extend(chain for _handle, chain in pairs)
                return judge_again(pairs)

            with mock.patch.object(recheck, "judge_again", counting):
                accepting.client_cas = revoking(shared)
                await until(lambda: len(b.links) == 2)
            # Two with a certificate each, and two with the same one.
            assert len(chains) == len(set(chains)) == 3
        finally:
            for node in nodes:
                await node.stop()


async def _dial(name: str, made: CertAuthManager, to: Node) -> Node:
    node = await start(name, manager=made, listens=False)
    introduce(node, to)
    await node.connect(to.name)
    return node


class Presented:
    """What an engine shows of a peer."""

    def __init__(self, chain: tuple[bytes, ...]) -> None:
        self.verdict = mock.Mock(presented=chain)


class FakeLink:
    """A link as far as a `Recheck` knows it; closing takes some time of the loop."""

    def __init__(self, name: str, chain: tuple[bytes, ...], seconds: float) -> None:
        self.presented = Presented(chain)
        self.dialer = False
        self.peer = mock.Mock(verified=True)
        self.peer.name = name
        self.state = State.UP
        self.gone = asyncio.get_running_loop().create_future()
        self.seconds = seconds
        self.spent = 0.0

    def terminate(self, *_: object) -> None:
        began = time.perf_counter()
        while time.perf_counter() - began < self.seconds:
            pass
        self.spent = time.perf_counter() - began
        self.state = State.CLOSED


@needs_openssl
async def test_the_loop_is_left_alone_for_most_of_the_time() -> None:
    made = manager(B, live_trust=True)
    admission = mock.Mock()
    checking = recheck.Recheck(B, admission, {}, 1.0)
    chain = (der_of(certificate(A).x509),)
    links = [FakeLink(f"n{at}@127.0.0.1", chain, 0.001) for at in range(60)]
    for link in links:
        checking.remember(link, link.peer, made)  # type: ignore[arg-type]
    began = time.perf_counter()
    made.client_cas = pool("other CA")
    checking._trust_changed(made)
    await until(lambda: all(each.state is State.CLOSED for each in links))
    took = time.perf_counter() - began
    spent = sum(each.spent for each in links)
    # The last slice is not followed by its rest yet.
    assert took >= 5 * (spent - 2 * recheck.SLICE_SECONDS)
    checking.stop()


def der_of(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


# --- what is left ---------------------------------------------------------------------


def empty(checking: recheck.Recheck) -> bool:
    return not checking._cases


@needs_openssl
async def test_nothing_is_kept_of_links_that_have_ended() -> None:
    managers = manager(A), manager(B)
    async with linked(*managers) as (a, b, link, _far):
        for node, made in ((a, managers[0]), (b, managers[1])):
            assert node._recheck is not None
            assert len(node._recheck._cases) == 1
            assert len(made._trust_watchers) == 1
        await link.close()
        for node, made in ((a, managers[0]), (b, managers[1])):
            checking = node._recheck
            assert checking is not None
            await until(partial(empty, checking))
            assert not checking._watched
            assert not made._trust_watchers
        await a.connect(B)
    for made in managers:
        assert not made._trust_watchers


@needs_openssl
async def test_who_cannot_be_judged_is_not_trusted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    accepting = manager(B, live_trust=True)
    async with linked(manager(A), accepting) as (_a, _b, link, far):
        with mock.patch.object(recheck, "judge_again", side_effect=MemoryError):
            accepting.client_cas = pool()
            await until_closed(link, far)
        refused(far, link, HandshakeError, "cannot be verified again")
        assert "cannot be judged again" in caplog.text


def test_the_option() -> None:
    assert NetworkOptions().recheck == "keep"
    for wrong in ("Close", True, None):
        with pytest.raises(ConfigError, match="recheck"):
            NetworkOptions(recheck=wrong)  # type: ignore[arg-type]


def test_without_an_openssl_that_can_be_reached() -> None:
    options = NodeOptions(
        cert_manager=manager(A), network=NetworkOptions(recheck="close")
    )
    plain = NetworkOptions(recheck="close", plaintext=True)
    with mock.patch.object(recheck, "why_unreachable", return_value="it is elsewhere"):
        with pytest.raises(ConfigError, match="it is elsewhere") as caught:
            Node(A, options)
        assert 'recheck="keep"' in (caught.value.hint or "")
        Node(A, NodeOptions(network=plain))
