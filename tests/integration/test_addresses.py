"""Guarantee 4: no way leads to a verified server without a name that was checked."""

from __future__ import annotations

import ssl
from typing import Any

import pytest

from fastnode import (
    AcceptorOptions,
    ConfigError,
    HandshakeError,
    HostnameMismatch,
    NetworkOptions,
    NoRoute,
    Route,
    Side,
)
from fastnode.tls.choice import make_engine
from helpers.nodes import A, B, running, until
from helpers.pki import manager, odd_certificate

BAD_HOSTS: list[Any] = [
    None,
    "",
    b"127.0.0.1",
    5,
    "bad host",
    "nul\0host",
    "line\nbreak",
    "[127.0.0.1]",
    "[::1",
    ".leading.dot",
    "two..dots",
    "x" * 64,
]
BAD_PORTS: list[Any] = [None, "15000", 0, -1, 65536, 1.5, True, b"1"]
BAD_ADDRESSES: list[Any] = [
    *((host, 15000) for host in BAD_HOSTS),
    *(("127.0.0.1", port) for port in BAD_PORTS),
    "127.0.0.1",
    ("127.0.0.1",),
    ("127.0.0.1", 1, 2),
    None,
    5,
    {"host": "127.0.0.1"},
]


@pytest.mark.parametrize("address", BAD_ADDRESSES, ids=repr)
@pytest.mark.parametrize("later", [False, True])
async def test_guarantee_4_what_a_resolver_returns_is_validated(
    address: Any, later: bool
) -> None:
    async def resolve_later(name: str) -> Any:
        return [address]

    resolver = resolve_later if later else lambda name: [address]
    async with running(A, resolver=resolver, listens=False) as a:
        with pytest.raises(NoRoute, match="no usable address") as caught:
            await a.connect(B)
        assert caught.value.side is Side.LOCAL
        assert "(host, port)" in str(caught.value.hint)


async def test_guarantee_4_a_resolver_without_a_host_reaches_nobody() -> None:
    """``(None, port)`` once connected to this machine and checked no name."""
    shown = odd_certificate("other@10.99.0.1")
    async with running(B, manager=manager(B, shows=shown)) as b:
        port = b.acceptors[0].address[1]
        async with running(
            A,
            resolver=lambda name: [(None, port)],
            listens=False,
            verify_peer_name=False,
        ) as a:
            with pytest.raises(NoRoute, match="not a host"):
                await a.connect(B)
        async with running(
            A,
            resolver=lambda name: [("127.0.0.1", port)],
            listens=False,
            verify_peer_name=False,
        ) as a:
            with pytest.raises(HostnameMismatch):
                await a.connect(B)
        await until(lambda: b.acceptors[0].stats.failed)
        assert not b.links


async def test_one_bad_address_does_not_hide_the_good_ones(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with running(B) as b:
        good = b.acceptors[0].address

        def resolve(name: str) -> Any:
            return [(None, 1), good, ("127.0.0.1", "80")]

        async with running(A, resolver=resolve, listens=False) as a:
            assert (await a.connect(B)).peer.address == good
    assert "2 of 3 addresses" in caplog.text


@pytest.mark.parametrize("answer", [5, object()], ids=["int", "object"])
async def test_an_answer_that_is_no_sequence(answer: Any) -> None:
    async with running(A, resolver=lambda name: answer, listens=False) as a:
        with pytest.raises(NoRoute, match="the resolver failed"):
            await a.connect(B)


@pytest.mark.parametrize("engine", ["", "memory-bio"])
@pytest.mark.parametrize("name", [None, ""])
def test_guarantee_4_no_engine_verifies_a_server_without_a_name(
    name: str | None, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTNODE_TLS_ENGINE", engine)
    context = manager(A).client_context()
    with pytest.raises(ConfigError, match="no server name"):
        make_engine(context, server_side=False, server_name=name)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with pytest.raises(ConfigError, match="no server name"):
        make_engine(context, server_side=False, server_name=name)


async def test_guarantee_4_one_of_two_names_is_verified() -> None:
    """Neither the server's host nor the node's name: that is not "verified"."""
    loose = manager(A, verify_server_name=False)
    async with running(B) as b:
        route = Route("^beta@", *b.acceptors[0].address)
        async with running(
            A, manager=loose, listens=False, verify_peer_name=False, routes=[route]
        ) as a:
            with pytest.raises(ConfigError, match="no name is"):
                await a.connect(B)
        judged: list[str] = []

        def authorize(peer: Any) -> bool:
            judged.append(peer.name)
            return True

        for options in (
            {},
            {"verify_peer_name": False, "authorize": authorize},
        ):
            async with running(
                A,
                manager=manager(A, verify_server_name=False),
                listens=False,
                routes=[route],
                **options,
            ) as a:
                assert (await a.connect(B)).peer.verified
        assert judged == [B]


@pytest.mark.parametrize("host", BAD_HOSTS, ids=repr)
def test_hosts_are_checked_wherever_they_come_from(host: Any) -> None:
    with pytest.raises(ConfigError, match=r"Route\.host"):
        Route("@", host)
    if host is None:
        return
    with pytest.raises(ConfigError, match=r"AcceptorOptions\.host"):
        AcceptorOptions(host=host)
    with pytest.raises(ConfigError, match=r"Route\.server_name"):
        Route("@", "127.0.0.1", server_name=host)
    with pytest.raises(ConfigError, match="server_name"):
        manager(A, server_name=host)


@pytest.mark.parametrize("value", [None, 0, 1, "no", "false", []], ids=repr)
def test_guarantee_4_no_check_is_switched_off_by_accident(value: Any) -> None:
    for option in ("verify_peer_name", "insecure_skip_verify", "plaintext"):
        with pytest.raises(ConfigError, match=option):
            NetworkOptions(**{option: value})
    with pytest.raises(ConfigError, match="verify_server_name"):
        manager(A, verify_server_name=value)
    if value is None:
        return
    with pytest.raises(ConfigError, match="insecure_skip_verify"):
        AcceptorOptions(insecure_skip_verify=value)
    with pytest.raises(ConfigError, match="insecure_skip_verify"):
        Route("@", "127.0.0.1", insecure_skip_verify=value)


async def test_addresses_of_every_good_kind() -> None:
    for host in ("127.0.0.1", "::1", "fe80::1%eth0", "a_b.internal", "bücher.example"):
        assert Route("@", host).host == host
    async with running(A, resolver=lambda name: [["127.0.0.1", 1]]) as a:
        with pytest.raises((NoRoute, HandshakeError), match="could not be reached"):
            await a.connect(B)
