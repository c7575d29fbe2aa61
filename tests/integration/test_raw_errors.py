"""Every public entry point raises documented errors only, before anything is opened."""

from __future__ import annotations

import asyncio
import errno
import functools
import ipaddress
import resource
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fastnode import (
    AcceptorOptions,
    Certificate,
    ConfigError,
    FastnodeError,
    NetworkOptions,
    NodeOptions,
    NoRoute,
    OutOfResources,
    Route,
    start_node,
)
from fastnode.certs.authority import Authority
from fastnode.cli.main import cli
from helpers.nodes import A, B, refusing, running, start
from helpers.pki import manager


async def on_event(*_: Any) -> None:
    raise AssertionError


class Asynchronous:
    async def __call__(self, *_: Any) -> None:
        raise AssertionError


PLAIN_HOOKS = [on_event, functools.partial(on_event, 1), Asynchronous()]


BAD: list[tuple[str, Callable[[], object]]] = [
    ("pattern", lambda: Route(b"..", "127.0.0.1")),  # type: ignore[arg-type]
    ("str", lambda: Route(5, "127.0.0.1")),  # type: ignore[arg-type]
    ("regular", lambda: Route("(", "127.0.0.1")),
    ("weight", lambda: Route("@", "h", weight="9")),  # type: ignore[arg-type]
    ("weight", lambda: Route("@", "h", weight=True)),
    ("CertManager", lambda: Route("@", "h", cert_manager=5)),  # type: ignore[arg-type]
    ("host", lambda: Route("@", "a\0b")),
    ("host", lambda: Route("@", "a..b")),
    ("host", lambda: AcceptorOptions(host=5)),  # type: ignore[arg-type]
    ("listener", lambda: AcceptorOptions(listener=5)),  # type: ignore[arg-type]
    ("organization", lambda: Certificate.self_signed("")),
    ("organization", lambda: Certificate.self_signed("o" * 65)),
    ("organization", lambda: Certificate.self_signed(5)),  # type: ignore[arg-type]
    ("hosts", lambda: Certificate.self_signed("o", hosts="localhost")),
    ("hosts", lambda: Certificate.self_signed("o", hosts=5)),  # type: ignore[arg-type]
    ("hosts", lambda: Certificate.self_signed("o", hosts=[b"h"])),  # type: ignore[list-item]
    ("hosts", lambda: Certificate.self_signed("o", hosts=[])),
    ("subject", lambda: Certificate.self_signed("o", hosts=["b\u00fccher"])),
    ("days", lambda: Certificate.self_signed("o", days=0)),
    ("days", lambda: Certificate.self_signed("o", days=1e9)),
    ("days", lambda: Certificate.self_signed("o", days="9")),  # type: ignore[arg-type]
    ("common name", lambda: Authority.create("")),
    ("days", lambda: Authority.create("ca", days=-1)),
]


@pytest.mark.parametrize("number", range(len(BAD)))
def test_bad_arguments(number: int) -> None:
    words, make = BAD[number]
    with pytest.raises(ConfigError) as caught:
        make()
    assert words in str(caught.value)


def test_long_hosts_in_a_certificate() -> None:
    host = ".".join(["a" * 60] * 3)
    assert Certificate.self_signed("o", hosts=[host]).sans == (host,)


@pytest.mark.parametrize("hook", PLAIN_HOOKS)
async def test_an_async_function_where_a_plain_one_is_expected(hook: Any) -> None:
    for name in ("on_refused", "on_link_up", "on_link_down"):
        with pytest.raises(ConfigError, match=f"{name} is an async"):
            NetworkOptions(**{name: hook})
    with pytest.raises(ConfigError, match="on_refused is an async"):
        AcceptorOptions(on_refused=hook)
    async with running(A, listens=False) as a:
        for register in (a.on_link_up, a.on_link_down):
            with pytest.raises(ConfigError, match="is an async"):
                register(hook)
            with pytest.raises(ConfigError, match="cannot be called"):
                register(5)  # type: ignore[type-var]


def test_ca_init_without_a_name(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["ca", "init", str(tmp_path), "--name", ""])
    assert done.exit_code == 2, done.output
    assert "common name" in done.output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
async def test_a_listener_that_does_not_listen(kind: int) -> None:
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", 0))
        with pytest.raises(ConfigError, match="does not listen"):
            await start(A, acceptors=[AcceptorOptions(listener=sock)])


@pytest.mark.parametrize(
    "name", [None, 5, b"x@h", [], {}, "x", "x@", "x@a\0b", "x@a..b"]
)
async def test_bad_names_of_nodes(name: Any) -> None:
    with pytest.raises(ConfigError):
        await start_node(name, NodeOptions(cert_manager=manager(A)))
    async with running(A, listens=False) as a:
        uses: list[Callable[[], Any]] = [
            lambda: a.connect(name),
            lambda: a.call(name, "e", b""),
            lambda: a.send(name, "e", b""),
            lambda: asyncio.sleep(0, a.keep_connected(name)),
        ]
        for use in uses:
            with pytest.raises(ConfigError):
                await use()


async def test_bad_routes_of_a_node() -> None:
    async with running(A, listens=False) as a:
        for bad in (None, "x", ("@", "h", 1)):
            with pytest.raises(ConfigError):
                a.add_route(bad)  # type: ignore[arg-type]
        names: list[Any] = [None, [], b"x"]
        for name in names:
            with pytest.raises(ConfigError):
                a.routes(name)
            with pytest.raises(ConfigError):
                a.remove_route(name)


async def test_a_resolver_that_returns_address_objects() -> None:
    """They are left out, and the good one after them is tried."""
    async with running(B) as b:
        good = b.acceptors[0].address
        bad = ipaddress.ip_address("127.0.0.1")
        answers: list[Any] = [[(bad, good[1]), good], [bad, good], [("a\0", 1), good]]
        for answer in answers:
            resolver = lambda _name, answer=answer: answer  # noqa: E731
            async with running(A, listens=False, resolver=resolver) as a:
                assert (await a.connect(B)).peer.verified


# --- what the system does not have ---------------------------------------------------


class NoIPv6(socket.socket):
    def __init__(self, family: int = -1, *args: Any, **kwargs: Any) -> None:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported")
        super().__init__(family, *args, **kwargs)


async def test_listening_without_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastnode.node.port.socket.socket", NoIPv6)

    async def both(*_: object, **__: object) -> list[Any]:
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 0, 0, 0)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0)),
        ]

    with monkeypatch.context() as patch:
        patch.setattr(asyncio.get_running_loop(), "getaddrinfo", both, raising=False)
        node = await start("l@localhost")
    async with node:
        socket.create_connection(("127.0.0.1", node.acceptors[0].address[1])).close()
    with pytest.raises(ConfigError, match="cannot listen on ::1"):
        await start("six@::1")


async def test_dialing_without_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    with refusing() as nobody:
        resolver = lambda _name: [("2001:db8::1", 1), nobody]  # noqa: E731
        async with running(A, listens=False, resolver=resolver) as a:
            monkeypatch.setattr("asyncio.base_events.socket.socket", NoIPv6)
            with pytest.raises(NoRoute) as caught:
                await a.connect(B)
            assert "Connection refused" in str(caught.value)
            assert str(caught.value).count(";") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="counts descriptors as Linux does")
async def test_listening_without_descriptors() -> None:
    made = manager(A)
    made.server_context()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as sock:
        lowest = sock.fileno()
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        with pytest.raises(FastnodeError) as caught:
            await start(A, manager=made)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert isinstance(caught.value, OutOfResources)
    assert "Too many open files" in str(caught.value)
