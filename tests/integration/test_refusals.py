"""Who is refused, seen from both sides."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from fastnode import (
    AcceptorOptions,
    CertAuthManager,
    Certificate,
    CertificateExpired,
    CertificateRequired,
    CertManager,
    CertPool,
    ClientAuth,
    ConfigError,
    HandshakeError,
    HandshakeTimeout,
    HostnameMismatch,
    NetworkOptions,
    Node,
    NodeOptions,
    NotAuthorized,
    Peer,
    PeerNameMismatch,
    ProtocolError,
    Route,
    Side,
    TooManyConnections,
    UnknownAuthority,
    start_node,
)
from helpers.nodes import WAIT_SECONDS, A, B, introduce, pair, running, start, until
from helpers.pki import (
    certificate,
    expired_certificate,
    manager,
    odd_certificate,
)


@asynccontextmanager
async def dialer_and_acceptor(
    dialer: dict[str, Any], acceptor: dict[str, Any]
) -> AsyncIterator[tuple[Node, Node]]:
    """alpha dials beta."""
    async with pair({"listens": False, **dialer}, acceptor) as (a, b):
        yield a, b


async def check_refused(
    a: Node,
    b: Node,
    expected: type[HandshakeError],
    side: Side,
    caplog: pytest.LogCaptureFixture,
) -> HandshakeError:
    """The dial fails with this error, and the acceptor logs and counts the same."""
    with caplog.at_level(logging.INFO), pytest.raises(HandshakeError) as caught:
        async with asyncio.timeout(WAIT_SECONDS):
            await a.connect(B)
    error = caught.value
    assert type(error) is expected, error
    assert error.side is side
    assert error.hint
    assert getattr(error.peer, "name", error.peer) == B
    assert a.links == ()
    stats = b.acceptors[0].stats
    counts = stats.refused if side is Side.REMOTE else stats.failed
    await until(lambda: counts[expected.__name__] == 1)
    assert sum(stats.refused.values()) + sum(stats.failed.values()) == 1
    assert b.links == ()
    assert any(
        expected.__name__ in record.getMessage()
        for record in caplog.records
        if record.name == "fastnode.acceptor"
    )
    return error


OTHER = "Other CA"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"anonymous": True}, CertificateRequired),
        ({"shows": certificate(A, OTHER)}, UnknownAuthority),
        ({"shows": Certificate.self_signed("x", ["127.0.0.1"])}, UnknownAuthority),
        ({"shows": expired_certificate(A)}, CertificateExpired),
    ],
    ids=["none", "other CA", "self-signed", "expired"],
)
@pytest.mark.parametrize("version", ["TLSv1_3", "TLSv1_2"])
async def test_guarantee_2_the_acceptor_refuses_the_certificate(
    options: dict[str, Any],
    expected: type[HandshakeError],
    version: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    both: dict[str, Any] = {"minimum_version": ssl.TLSVersion[version]}
    acceptor = manager(B, **both)
    if version == "TLSv1_2":
        acceptor = OldManager.wrap(acceptor)
    async with dialer_and_acceptor(
        {"manager": manager(A, **options, **both)}, {"manager": acceptor}
    ) as (a, b):
        if version == "TLSv1_2" and expected is CertificateRequired:
            # TLS 1.2 has no alert of its own for a missing certificate.
            await check_old_missing(a, b)
        else:
            await check_refused(a, b, expected, Side.REMOTE, caplog)


class OldManager(CertAuthManager):
    """Serves TLS 1.2 only, so that the dialer cannot choose 1.3."""

    @classmethod
    def wrap(cls, made: CertAuthManager) -> OldManager:
        made.__class__ = cls
        assert isinstance(made, OldManager)
        return made

    def server_context(self, **options: Any) -> ssl.SSLContext:
        context = super().server_context(**options)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        return context


async def check_old_missing(a: Node, b: Node) -> None:
    with pytest.raises(HandshakeError) as caught:
        await a.connect(B)
    assert "certificate" in str(caught.value)
    assert caught.value.side is Side.REMOTE
    await until(lambda: b.acceptors[0].stats.refused["CertificateRequired"] == 1)


async def test_tls_1_2_works_when_both_ask_for_it() -> None:
    both: dict[str, Any] = {"minimum_version": ssl.TLSVersion.TLSv1_2}
    async with dialer_and_acceptor(
        {"manager": manager(A, **both)},
        {"manager": OldManager.wrap(manager(B, **both))},
    ) as (a, b):
        b.handler("e")(lambda m: m.payload)
        link = await a.connect(B)
        assert link.peer.tls_version == "TLSv1.2"
        assert await link.call("e", b"x") == b"x"


async def test_guarantee_3_tls_1_2_is_refused_by_default(
    caplog: pytest.LogCaptureFixture,
) -> None:
    old = OldManager.wrap(manager(B, minimum_version=ssl.TLSVersion.TLSv1_2))
    async with dialer_and_acceptor({}, {"manager": old}) as (a, _b):
        with pytest.raises(HandshakeError, match="TLS") as caught:
            await a.connect(B)
        assert caught.value.hint


@pytest.mark.parametrize(
    ("shown", "trusts", "expected"),
    [
        (certificate(B, OTHER), "test CA", UnknownAuthority),
        (expired_certificate(B), "test CA", CertificateExpired),
        (odd_certificate(B, host=False, dns=["x.example"]), "test CA",
         HostnameMismatch),
        (odd_certificate(B, host=False, uri=False, dns=["x.example"],
                         common_name="127.0.0.1"), "test CA", HostnameMismatch),
    ],
    ids=["other CA", "expired", "hostname", "Common Name"],
)  # fmt: skip
async def test_guarantee_3_the_dialer_refuses_the_server(
    shown: Certificate,
    trusts: str,
    expected: type[HandshakeError],
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with dialer_and_acceptor(
        {"manager": manager(A, trusts=trusts)}, {"manager": manager(B, shows=shown)}
    ) as (a, b):
        with caplog.at_level(logging.INFO), pytest.raises(expected) as caught:
            await a.connect(B)
        assert type(caught.value) is expected
        assert caught.value.side is Side.LOCAL
        assert caught.value.hint
        # The acceptor hears of it by the alert.
        await until(lambda: sum(b.acceptors[0].stats.failed.values()) == 1)
        assert b.acceptors[0].stats.links == 0


async def test_server_name_is_what_is_verified() -> None:
    shown = odd_certificate(B, host=False, dns=["beta.example"])
    async with dialer_and_acceptor(
        {"manager": manager(A, server_name="beta.example")},
        {"manager": manager(B, shows=shown)},
    ) as (a, _b):
        assert (await a.connect(B)).peer.verified
    async with running(B, manager=manager(B, shows=shown)) as b:
        route = Route("beta", *b.acceptors[0].address, server_name="beta.example")
        async with running(A, listens=False, routes=[route]) as a:
            assert (await a.connect(B)).peer.verified


async def test_guarantee_4_a_name_the_certificate_does_not_cover(
    caplog: pytest.LogCaptureFixture,
) -> None:
    shown = odd_certificate(A, uri=False, host=False, dns=["elsewhere.example"])
    async with dialer_and_acceptor({"manager": manager(A, shows=shown)}, {}) as (a, b):
        error = await check_refused(a, b, PeerNameMismatch, Side.REMOTE, caplog)
        assert "elsewhere.example" in str(error)
    async with dialer_and_acceptor(
        {"manager": manager(A, shows=shown)}, {"verify_peer_name": False}
    ) as (a, b):
        assert (await a.connect(B)).peer.name == B


async def test_guarantee_4_the_server_s_name_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # It is reached under the right address, but may not call itself beta@10.9.8.7.
    loopback = [AcceptorOptions(host="127.0.0.1", port=0)]
    async with running("beta@10.9.8.7", manager=manager(B), acceptors=loopback) as b:
        async with running(A, listens=False) as a:
            a.add_route(Route("beta", *b.acceptors[0].address))
            with pytest.raises(PeerNameMismatch) as caught:
                await a.connect("beta@10.9.8.7")
            assert caught.value.side is Side.LOCAL
            await until(lambda: b.acceptors[0].stats.failed["PeerNameMismatch"] == 1)


async def test_another_node_answers() -> None:
    async with running(B) as b, running(A, listens=False) as a:
        a.add_route(Route("gamma", *b.acceptors[0].address))
        with pytest.raises(PeerNameMismatch, match=r"gamma@127\.0\.0\.1 was dialed"):
            await a.connect("gamma@127.0.0.1")


async def test_our_own_name_is_not_for_others() -> None:
    async with running(B) as b:
        async with running(B, listens=False, manager=manager(B)) as twin:
            twin.add_route(Route("gamma", *b.acceptors[0].address))
            with pytest.raises(PeerNameMismatch):
                await twin.connect("gamma@127.0.0.1")


def refuse(peer: Peer) -> bool:
    return False


async def refuse_later(peer: Peer) -> bool:
    await asyncio.sleep(0)
    return False


def fail(peer: Peer) -> bool:
    raise RuntimeError("the hook is broken")


@pytest.mark.parametrize("hook", [refuse, refuse_later, fail])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_authorize_refuses(hook: Any, caplog: pytest.LogCaptureFixture) -> None:
    async with dialer_and_acceptor({}, {"authorize": hook}) as (a, b):
        await check_refused(a, b, NotAuthorized, Side.REMOTE, caplog)
    async with dialer_and_acceptor({"authorize": hook}, {}) as (a, b):
        await check_refused(a, b, NotAuthorized, Side.LOCAL, caplog)


async def test_authorize_sees_the_peer() -> None:
    seen: list[Peer] = []

    async def allow(peer: Peer) -> bool:
        seen.append(peer)
        return True

    async with dialer_and_acceptor({}, {"authorize": allow}) as (a, _b):
        await a.connect(B)
        assert [peer.name for peer in seen] == [A]
        assert seen[0].verified
        assert seen[0].certificate is not None


async def test_authorize_that_never_answers_is_bounded() -> None:
    async def never(peer: Peer) -> bool:
        await asyncio.Event().wait()
        return True

    slow = {"authorize": never, "handshake_timeout": 0.2}
    async with dialer_and_acceptor({}, slow) as (a, b):
        with pytest.raises(HandshakeTimeout, match="had not judged") as caught:
            await a.connect(B)
        assert caught.value.side is Side.REMOTE
        await until(lambda: b.acceptors[0].stats.refused == {"HandshakeTimeout": 1})
    async with dialer_and_acceptor(slow, {}) as (a, b):
        with pytest.raises(HandshakeTimeout, match="authorize") as caught:
            await a.connect(B)
        assert caught.value.side is Side.LOCAL
        assert a.dial_stats.refused == {"HandshakeTimeout": 1}
        await until(lambda: b.acceptors[0].stats.failed == {"HandshakeTimeout": 1})


# --- modes ---------------------------------------------------------------------------


MODES: dict[ClientAuth, dict[str, bool | None]] = {
    ClientAuth.NO_CLIENT_CERT: {
        "none": False, "good": False, "other": False, "expired": False},
    ClientAuth.VERIFY_CLIENT_CERT_IF_GIVEN: {
        "none": False, "good": True, "other": None, "expired": None},
    ClientAuth.REQUIRE_AND_VERIFY_CLIENT_CERT: {
        "none": None, "good": True, "other": None, "expired": None},
}  # fmt: skip


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
@pytest.mark.parametrize("shown", ["none", "good", "other", "expired"])
async def test_client_auth_table(mode: ClientAuth, shown: str) -> None:
    dialers: dict[str, dict[str, Any]] = {
        "none": {"anonymous": True},
        "good": {},
        "other": {"shows": certificate(A, OTHER)},
        "expired": {"shows": expired_certificate(A)},
    }
    dialer = dialers[shown]
    verified = MODES[mode][shown]
    async with dialer_and_acceptor(
        {"manager": manager(A, **dialer)}, {"manager": manager(B, client_auth=mode)}
    ) as (a, b):
        if verified is None:
            with pytest.raises(HandshakeError):
                await a.connect(B)
            return
        await a.connect(B)
        await until(lambda: b.links)
        peer = b.links[0].peer
        assert peer.verified is verified
        assert (peer.certificate is not None) is verified


async def test_cert_manager_alone_asks_for_no_client_certificate() -> None:
    alone = CertManager(certificate(B))
    async with dialer_and_acceptor(
        {"manager": manager(A, anonymous=True)}, {"manager": alone}
    ) as (a, b):
        b.handler("who")(lambda m: str(m.sender.verified).encode())
        assert await a.call(B, "who", b"") == b"False"


async def test_guarantee_4_a_stranger_never_stands_in_for_a_verified_peer() -> None:
    # beta lets anybody in; somebody without a certificate calls itself alpha.
    open_door = manager(B, client_auth=ClientAuth.VERIFY_CLIENT_CERT_IF_GIVEN)
    async with running(B, manager=open_door) as b, running(A) as real:
        stranger = await start(A, manager=manager(A, anonymous=True), listens=False)
        async with stranger:
            introduce(stranger, b)
            introduce(b, real)
            heard: list[bytes] = []
            stranger.handler("secret")(lambda m: heard.append(m.payload))
            real.handler("secret")(lambda m: b"the real one")
            await stranger.connect(B)
            await until(lambda: b.links)
            assert not b.links[0].peer.verified
            assert (
                await b.call(A, "secret", b"for alpha", timeout=WAIT_SECONDS)
                == b"the real one"
            )
            assert heard == []
            # Nor does it push out the link of the real one.
            assert len(b.links) == 2
            again = await start(A, manager=manager(A, anonymous=True), listens=False)
            async with again:
                introduce(again, b)
                await again.connect(B)
                assert (
                    await b.call(A, "secret", b"", timeout=WAIT_SECONDS)
                    == b"the real one"
                )


async def test_guarantee_4_not_even_where_others_are_not_verified() -> None:
    # One acceptor verifies, the other takes anybody.
    acceptors = [
        AcceptorOptions(port=0, insecure_skip_verify=False),
        AcceptorOptions(port=0),
    ]
    open_node: dict[str, Any] = {"insecure_skip_verify": True, "acceptors": acceptors}
    async with running(B, **open_node) as b, running(A) as real:
        introduce(real, b)
        await real.connect(B)
        await until(lambda: b.links)
        assert b.links[0].peer.verified
        real.handler("secret")(lambda m: b"the real one")
        stranger = await start(A, manager=manager(A, anonymous=True), listens=False)
        async with stranger:
            heard: list[bytes] = []
            stranger.handler("secret")(lambda m: heard.append(m.payload))
            stranger.add_route(Route("beta", *b.acceptors[1].address))
            await stranger.connect(B)
            await until(lambda: len(b.links) == 2)
            assert (
                await b.call(A, "secret", b"", timeout=WAIT_SECONDS) == b"the real one"
            )
            assert heard == []


async def test_insecure_skip_verify() -> None:
    shown = Certificate.self_signed("x", ["x.example"])
    async with dialer_and_acceptor(
        {"insecure_skip_verify": True}, {"manager": manager(B, shows=shown)}
    ) as (a, b):
        link = await a.connect(B)
        assert not link.peer.verified
        assert link.peer.certificate == shown.x509
        assert b.links[0].peer.verified if b.links else True
    async with running(B, manager=manager(B, shows=shown)) as b:
        route = Route("beta", *b.acceptors[0].address, insecure_skip_verify=False)
        async with running(A, insecure_skip_verify=True, routes=[route]) as a:
            with pytest.raises(UnknownAuthority):
                await a.connect(B)


async def test_a_route_has_a_manager_of_its_own() -> None:
    async with running(B, manager=manager(B, shows=certificate(B, OTHER),
                                          trusts=OTHER)) as b:  # fmt: skip
        special = CertAuthManager(
            certificate(A, OTHER), root_cas=CertPool.from_pem(pem_of(OTHER))
        )
        async with running(A) as a:
            a.add_route(Route("beta", *b.acceptors[0].address, cert_manager=special))
            assert (await a.connect(B)).peer.verified
            assert special.frozen


def pem_of(name: str) -> bytes:
    from helpers.pki import authority

    return authority(name).cert_pem


# --- starting -------------------------------------------------------------------------


async def test_guarantee_1_a_node_without_a_manager_does_not_start() -> None:
    with pytest.raises(ConfigError, match="cert manager") as caught:
        await start_node(A)
    assert "plaintext" in (caught.value.hint or "")
    with pytest.raises(ConfigError, match="cert manager"):
        await start_node(A, NodeOptions(network=NetworkOptions(acceptors=[])))


@pytest.mark.parametrize("plain", ["dialer", "acceptor"])
async def test_guarantee_1_plaintext_and_tls_do_not_meet(plain: str) -> None:
    long = {"handshake_timeout": WAIT_SECONDS}
    options: tuple[dict[str, Any], dict[str, Any]] = (
        {**long, "plaintext": plain == "dialer"},
        {**long, "plaintext": plain == "acceptor"},
    )
    async with dialer_and_acceptor(*options) as (a, b):
        # Who sent the bytes that are no TLS is told nothing that it could read.
        expected = HandshakeError if plain == "dialer" else ProtocolError
        with pytest.raises((HandshakeError, ProtocolError)) as caught:
            await a.connect(B)
        assert type(caught.value) is expected
        assert a.links == b.links == ()


async def test_an_acceptor_without_a_certificate_does_not_start() -> None:
    with pytest.raises(ConfigError, match="no certificate"):
        await start(A, manager=manager(A, anonymous=True))


async def test_max_links() -> None:
    one = [AcceptorOptions(port=0, max_links=1)]
    async with running(B, acceptors=one) as b:
        async with running(A) as a, running("gamma@127.0.0.1") as c:
            introduce(a, b)
            introduce(c, b)
            await a.connect(B)
            await until(lambda: b.links)
            with pytest.raises(TooManyConnections, match="maximum") as caught:
                await c.connect(B)
            assert caught.value.side is Side.REMOTE
            await a.stop()
            await until(lambda: not b.links)
            assert (await c.connect(B)).peer.name == B
