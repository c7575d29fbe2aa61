"""Warnings when a node starts, and errors that name their remedy."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Coroutine
from typing import Any

import pytest

from fastnode import (
    AcceptorOptions,
    CertAuthManager,
    ClientAuth,
    ConfigError,
    LinkClosed,
    MessageTooLarge,
    NetworkOptions,
    NodeOptions,
    PeerNameMismatch,
    RemoteError,
    Route,
    start_node,
)
from fastnode.names import NodeName
from helpers.nodes import A, B, pair, running, until
from helpers.pki import certificate, manager, pool

NOBODY = "client_auth is NO_CLIENT_CERT, which verifies no dialer"


def warnings(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(
        record.getMessage()
        for record in caplog.records
        if record.levelno == logging.WARNING
    )


async def test_client_auth_forgotten(caplog: pytest.LogCaptureFixture) -> None:
    lets_in = CertAuthManager(certificate(A), client_cas=pool(), root_cas=pool())
    async with running(A, manager=lets_in):
        said = warnings(caplog)
    assert NOBODY in said
    assert "REQUIRE_AND_VERIFY_CLIENT_CERT" in said


@pytest.mark.parametrize(
    ("auth", "network"),
    [
        (ClientAuth.REQUIRE_AND_VERIFY_CLIENT_CERT, {}),
        (ClientAuth.VERIFY_CLIENT_CERT_IF_GIVEN, {}),
        (ClientAuth.NO_CLIENT_CERT, {"insecure_skip_verify": True}),
        (ClientAuth.NO_CLIENT_CERT, {"acceptors": ()}),
    ],
)
async def test_nothing_to_say(
    auth: ClientAuth, network: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    made = CertAuthManager(
        certificate(A), client_cas=pool(), client_auth=auth, root_cas=pool()
    )
    async with running(A, manager=made, **network):
        assert warnings(caplog) == ""


async def test_a_name_that_is_not_covered(caplog: pytest.LogCaptureFixture) -> None:
    other = manager("alpha@other.example")
    async with running("beta@127.0.0.2", manager=other):
        pass
    said = warnings(caplog)
    if "does not cover its name" not in said:
        pytest.fail(said)
    assert "fastnode://beta@127.0.0.2" in said
    caplog.clear()
    async with running("beta@127.0.0.2", manager=other, verify_peer_name=False):
        assert "does not cover" not in warnings(caplog)


async def test_a_port_that_is_in_use(caplog: pytest.LogCaptureFixture) -> None:
    async with running(A) as first:
        _, port = first.acceptors[0].address
        wanted = (AcceptorOptions(port=port, port_range=16),)
        async with running(B, acceptors=wanted) as second:
            got = second.acceptors[0].address[1]
        assert got != port
        assert f"port {port} is in use, listening on {got}" in warnings(caplog)
        only = (AcceptorOptions(port=port, port_range=1),)
        with pytest.raises(ConfigError, match=f"port {port} is in use on 127.0.0.1"):
            async with running(B, acceptors=only):
                pass


async def test_a_node_that_dials_itself() -> None:
    async with running(A) as node:
        address = node.acceptors[0].address
        node.add_route(Route("^beta@", *address))
        with pytest.raises(PeerNameMismatch) as caught:
            await node.connect(B)
        said = str(caught.value)
        assert f"{B} was looked for at {address[0]}:{address[1]} " in said
        assert "(by the route '^beta@'), which is this node itself" in said
        assert f"start {B} there, or correct the route '^beta@'" in said


async def test_what_a_called_handler_raises_is_logged_and_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with pair() as (a, b):

        @b.handler("plain")
        def plain(message: object) -> bytes:
            raise KeyError("plain")

        @b.handler("async")
        async def later(message: object) -> bytes:
            raise LookupError("later")

        def text(message: object) -> str:
            return "text"

        b.handler("text")(text)  # type: ignore[type-var]
        for endpoint in ("plain", "async"):
            with pytest.raises(RemoteError):
                await a.call(B, endpoint, b"")
        with pytest.raises(RemoteError, match="the handler returned str; a reply is"):
            await a.call(B, "text", b"")
        await until(lambda: b.links[0].stats.handler_errors == 3)
    for endpoint, error in (("plain", KeyError), ("async", LookupError)):
        (record,) = [
            each
            for each in caplog.records
            if f"the handler of {endpoint!r} raised" in each.getMessage()
        ]
        assert record.exc_info is not None
        assert record.exc_info[0] is error


async def test_another_thread() -> None:
    async with pair() as (a, b):
        link = await a.connect(B)
        loop = asyncio.get_running_loop()
        b.handler("e")(lambda message: message.payload)
        said: list[str] = []

        def work() -> None:
            for misuse in (
                lambda: link.send("e", b""),
                lambda: a.handler("x")(lambda message: None),
                lambda: a.keep_connected(B),
            ):
                try:
                    misuse()
                except ConfigError as error:
                    said.append(str(error))
            future = asyncio.run_coroutine_threadsafe(a.call(B, "e", b"x"), loop)
            said.append(str(future.result(30)))

        thread = threading.Thread(target=work)
        thread.start()
        await until(lambda: not thread.is_alive())
        thread.join()
    assert len(said) == 4
    assert all(
        "asyncio.run_coroutine_threadsafe(node.call" in each for each in said[:3]
    )
    assert said[3] == "b'x'"


async def test_after_the_end() -> None:
    async with pair() as (a, _b):
        link = await a.connect(B)
        await a.stop()
        for use in (lambda: link.send("e", b""), lambda: a.keep_connected(B)):
            with pytest.raises(LinkClosed, match=r"\(start a new node\)"):
                use()


async def test_whose_limit_it_is() -> None:
    small = {"max_message_size": 1000}
    for first, second, whose in (
        ({}, small, "the peer's node"),
        (small, {}, "this node"),
        (small, small, "both nodes"),
    ):
        async with pair(first, second) as (a, _b):
            link = await a.connect(B)
            with pytest.raises(MessageTooLarge, match=f"max_message_size on {whose}"):
                link.send("e", bytes(1001))


async def test_payloads_and_timeouts_that_cannot_be() -> None:
    async with pair() as (a, _b):
        link = await a.connect(B)
        text: Any = "text"
        with pytest.raises(TypeError, match=r"not str: encode it: \.encode\(\)"):
            link.send("e", text)
        waits: list[Coroutine[Any, Any, object]] = [
            link.call("e", b"", timeout=-1),
            link.send_confirmed("e", b"", timeout=-1),
            a.call(B, "e", b"", timeout=-1),
            a.call("gamma@127.0.0.1", "e", b"", timeout=-1),
            a.send(B, "e", b"", timeout=-1),
        ]
        for wait in waits:
            with pytest.raises(ConfigError, match="timeout is -1"):
                await wait


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (NodeOptions, "cert_manager", certificate(A)),
        (AcceptorOptions, "cert_manager", certificate(A)),
        (NodeOptions, "network", manager(A)),
        (NetworkOptions, "acceptors", AcceptorOptions()),
        (NetworkOptions, "acceptors", [manager(A)]),
        (NetworkOptions, "routes", Route("x", "y")),
    ],
)
def test_options_of_the_wrong_kind(kind: Any, name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"{kind.__name__}\.{name} is a") as caught:
        kind(**{name: value})
    assert caught.value.hint


def test_a_port_in_a_name() -> None:
    with pytest.raises(ConfigError, match="the port belongs into a Route"):
        NodeName.parse("shop@127.0.0.1:15000")


async def test_a_manager_in_place_of_options() -> None:
    wrong: Any = manager(A)
    with pytest.raises(ConfigError, match="are a CertAuthManager") as caught:
        await start_node(A, wrong)
    assert caught.value.hint == "pass NodeOptions(cert_manager=..., network=...)"
