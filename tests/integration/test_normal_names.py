"""Names are brought to one form before they are dialed, sent and verified."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from cryptography import x509

from fastnode import (
    AcceptorOptions,
    Certificate,
    ConfigError,
    FastnodeError,
    HandshakeError,
    HostnameMismatch,
    PeerNameMismatch,
    Route,
    Side,
)
from fastnode.certs import signing
from helpers.nodes import A, running, until
from helpers.pki import certificate, manager, odd_certificate

LOOPBACK = (AcceptorOptions(host="127.0.0.1", port=0),)


@pytest.mark.parametrize(
    ("written", "dialed", "server_name"),
    [
        ("beta@Localhost.", "beta@LOCALHOST", "LocalHost."),
        (
            "beta@B\u00fccher.example",
            "beta@b\u00fccher.example.",
            "B\u00dcCHER.example",
        ),
        (
            "beta@xn--bcher-kva.example",
            "beta@b\u00fccher.example",
            "b\u00fccher.example.",
        ),
    ],
)
async def test_guarantee_4_names_in_any_form(
    written: str, dialed: str, server_name: str
) -> None:
    async with running(written, manager=manager(written), acceptors=LOOPBACK) as b:
        host = b.name.partition("@")[2]
        assert host in ("localhost", "xn--bcher-kva.example")
        route = Route("beta", *b.acceptors[0].address, server_name=server_name)
        assert route.server_name == host
        async with running(A, listens=False, routes=[route]) as a:
            link = await a.connect(dialed)
            assert link.peer.name == b.name
            assert link.peer.verified
            assert await a.connect(written) is link
        made = manager(A, server_name=server_name)
        assert made.server_name == host
        async with running(A, listens=False, manager=made) as a:
            a.add_route(Route("beta", *b.acceptors[0].address))
            assert (await a.connect(dialed)).peer.verified


#: The zone of the loopback interface; its number works for all kinds of addresses.
LO = socket.if_nameindex()[0][0]


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")
@pytest.mark.parametrize("host", ["[::1]", "0:0:0:0:0:0:0:1", f"::1%{LO}"])
async def test_guarantee_4_addresses_in_any_form(host: str) -> None:
    shown = odd_certificate("beta@::1")
    made = manager("beta@::1", shows=shown)
    async with running("beta@[::1]", manager=made) as b:
        assert b.name == "beta@::1"
        port = b.acceptors[0].address[1]
        async with running(A, listens=False, routes=[Route("beta", host, port)]) as a:
            link = await a.connect("beta@[0:0:0:0:0:0:0:1]")
            assert link.peer.verified
            assert link.peer.name == "beta@::1"


def address_as_dns(
    monkeypatch: pytest.MonkeyPatch, *uris: str, name: str = "beta"
) -> Certificate:
    """A certificate with 127.0.0.1 among the DNS SANs."""
    with monkeypatch.context() as patch:
        patch.setattr(signing, "_general_name", general_name_that_errs)
        return odd_certificate(f"{name}@127.0.0.1", uri=False, dns=uris)


def general_name_that_errs(text: str) -> x509.GeneralName:
    if "://" in text:
        return x509.UniformResourceIdentifier(text)
    return x509.DNSName(text)


async def refused(dialer: dict[str, Any], acceptor: dict[str, Any]) -> HandshakeError:
    async with (
        running("beta@127.0.0.1", **acceptor) as b,
        running(A, listens=False, **dialer) as a,
    ):
        a.add_route(Route("beta", *b.acceptors[0].address))
        with pytest.raises(HandshakeError) as caught:
            await a.connect("beta@127.0.0.1")
        stats = b.acceptors[0].stats
        await until(lambda: stats.refused.total() + stats.failed.total() == 1)
    return caught.value


async def test_an_address_as_a_dns_san_is_explained(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    words = "127.0.0.1 is a DNS SAN there, and must be an IP SAN"
    shown = address_as_dns(monkeypatch)
    acceptor = {"manager": manager("beta@127.0.0.1", shows=shown)}
    error = await refused({}, acceptor)
    assert type(error) is HostnameMismatch
    assert words in str(error)
    # Each node with that certificate is warned of at its start.
    assert words in caplog.text
    error = await refused({"manager": manager(A, verify_server_name=False)}, acceptor)
    assert type(error) is PeerNameMismatch
    assert error.side is Side.LOCAL
    assert words in str(error)
    shown = address_as_dns(monkeypatch, name="alpha")
    error = await refused({"manager": manager(A, shows=shown)}, {})
    assert type(error) is PeerNameMismatch
    assert error.side is Side.REMOTE
    assert words in str(error)


async def test_names_that_cannot_be() -> None:
    long = "x" * 64 + ".example"
    for make in (
        lambda: Route(".", long),
        lambda: Route(".", "127.0.0.1", server_name=long),
        lambda: Route(".", "127.0.0.1", server_name="*.example"),
        lambda: Route(".", "127.0.0.1", server_name=""),
        lambda: manager(A, server_name=long),
        lambda: manager(A, server_name="a..b"),
    ):
        with pytest.raises(ConfigError) as caught:
            make()
        assert caught.value.hint
    async with running(A, listens=False, resolver=lambda name: [(long, 1)]) as a:
        with pytest.raises(FastnodeError, match="at most 63"):
            await a.connect("beta@other.example")
        with pytest.raises(ConfigError, match="at most 63"):
            await a.connect(f"beta@{long}")


def test_what_a_route_keeps() -> None:
    # A trailing dot keeps resolvers from appending domains; brackets are for URLs.
    assert Route(".", "host.example.").host == "host.example."
    assert Route(".", "[::1]").host == "::1"
    assert Route(".", "fe80::1%eth0").host == "fe80::1%eth0"
    assert (
        Route(".", "127.0.0.1", server_name="[FE80::1%eth0]").server_name == "fe80::1"
    )
    assert certificate("beta@B.example").sans == (
        "fastnode://beta@b.example",
        "b.example",
    )
