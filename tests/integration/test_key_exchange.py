"""Key-exchange groups: which are negotiated, which are refused, and what that costs.

The D(HE)at attack: a stranger sends a recorded key share of ffdhe8192, and its peer
computes for 130 ms. What a node computes is counted by what it sends: a key share of
ffdhe8192 that it has made is in its ServerHello, or in its second ClientHello.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from fastnode import (
    ConfigError,
    HandshakeError,
    Node,
    Peer,
    ProtocolError,
    Refusal,
    Route,
)
from fastnode.certs.groups import available_groups
from fastnode.errors import Side
from fastnode.groups import DEFAULT_GROUPS, KNOWN_GROUPS, described_group
from fastnode.openssl.verification import why_unavailable
from helpers import hellos
from helpers.nodes import WAIT_SECONDS, A, B, pair, running, start, until
from helpers.pki import manager
from helpers.strangers import records

pytestmark = pytest.mark.skipif(
    why_unavailable() is not None, reason=f"OpenSSL: {why_unavailable()}"
)

TLS12 = ssl.TLSVersion.TLSv1_2
BEST = next(name for name in DEFAULT_GROUPS if name in available_groups())
HANDSHAKE, ALERT = 0x16, 0x15
HANDSHAKE_FAILURE, ILLEGAL_PARAMETER = 40, 47
DHE_CIPHERS = (0x009E, 0x009F, 0xCCAA)


def fatal(code: int) -> bytes:
    """A fatal alert, unencrypted."""
    return bytes([ALERT, 3, 3, 0, 2, 2, code])


# --- what is negotiated ------------------------------


@pytest.mark.parametrize(
    ("alpha", "beta", "expected"),
    [
        (None, None, BEST),
        (["X25519"], None, "X25519"),
        (None, ["P-256"], "P-256"),
        (["secp384r1", "prime256v1"], ["P-384"], "P-384"),
        # No key share for it is sent at first: a HelloRetryRequest asks for one.
        (["X25519", "P-521"], ["P-521"], "P-521"),
    ],
)
async def test_guarantee_3_both_sides_say_which_group(
    alpha: list[str] | None, beta: list[str] | None, expected: str
) -> None:
    async with pair({"groups": alpha}, {"groups": beta}) as (a, b):
        link = await a.connect(B)
        await until(lambda: b.links)
        assert link.peer.group == expected
        assert b.links[0].peer.group == expected
        assert link.peer.post_quantum is expected.endswith("MLKEM768")


async def test_tls_1_2_has_a_group_too() -> None:
    # The curve of the certificates has to be among them, which are of P-256.
    chosen = ["P-384", "P-256"]
    made = manager(B, minimum_version=TLS12)
    made.server_context(groups=chosen).maximum_version = TLS12
    old = {"groups": chosen, "manager": manager(A, minimum_version=TLS12)}
    async with pair(old, {"groups": chosen, "manager": made}) as (a, b):
        link = await a.connect(B)
        await until(lambda: b.links)
        assert link.peer.tls_version == "TLSv1.2"
        assert link.peer.group == b.links[0].peer.group == "P-384"


async def test_plaintext_has_none() -> None:
    async with pair({"plaintext": True}, {"plaintext": True}) as (a, _):
        link = await a.connect(B)
        assert (link.peer.tls_version, link.peer.group) == (None, None)
        assert link.peer.post_quantum is None


@pytest.mark.parametrize("name", KNOWN_GROUPS)
def test_hybrids_are_post_quantum_and_curves_are_not(name: str) -> None:
    hybrid = name.startswith(("X25519MLKEM", "SecP"))
    assert Peer("a@b", ("b", 1), group=name).post_quantum is hybrid
    words = "post-quantum" if hybrid else "not post-quantum"
    assert described_group(name) == f"{name} ({words})"


async def test_nodes_that_share_a_manager_may_differ() -> None:
    shared = manager(B)
    async with (
        running(B, manager=shared, groups=["P-384"]) as strict,
        running("gamma@127.0.0.1", manager=shared) as other,
        running(A, listens=False) as a,
    ):
        for node in (strict, other):
            a.add_route(Route(f"^{node.name}$", *node.acceptors[0].address))
        assert (await a.connect(strict.name)).peer.group == "P-384"
        assert (await a.connect(other.name)).peer.group == BEST


@pytest.mark.parametrize("listens", [True, False])
async def test_a_group_that_openssl_lacks_is_refused_at_start(listens: bool) -> None:
    lacking = {"X25519MLKEM768", "SecP256r1MLKEM768"} - set(available_groups())
    if not lacking:
        pytest.skip("this OpenSSL has all of them")
    with pytest.raises(ConfigError, match=min(lacking)) as caught:
        await start(B, groups=["X25519", *sorted(lacking)], listens=listens)
    assert caught.value.side is Side.LOCAL
    assert "X25519" in (caught.value.hint or "")


async def test_guarantee_3_no_group_in_common_is_said_on_both_sides() -> None:
    refusals: list[Refusal] = []
    strict: dict[str, Any] = {"groups": ["P-384"], "on_refused": refusals.append}
    async with pair({"groups": ["X25519"]}, strict) as (a, b):
        with pytest.raises(HandshakeError, match="no acceptable parameters") as caught:
            await a.connect(B)
        assert caught.value.side is Side.REMOTE
        assert "groups" in (caught.value.hint or "")
        await until(lambda: refusals)
        error = refusals[0].error
        assert type(error) is HandshakeError
        assert error.side is Side.LOCAL
        assert "no key-exchange group that this node allows" in error.message
        assert "NetworkOptions.groups" in (error.hint or "")
        assert b.acceptors[0].stats.refused == {"HandshakeError": 1}


# --- D(HE)at: the acceptor ------------------------------


async def answer_to(node: Node, words: bytes) -> bytes:
    """All that an acceptor answers to a stranger."""
    reader, writer = await asyncio.open_connection(*node.acceptors[0].address)
    try:
        writer.write(words)
        async with asyncio.timeout(WAIT_SECONDS):
            return await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()


RECORDED = hellos.client_hello([hellos.FFDHE8192], [hellos.key_share(hellos.FFDHE8192)])


async def test_guarantee_9_a_recorded_ffdhe8192_makes_no_key() -> None:
    refusals: list[Refusal] = []
    async with running(B, on_refused=refusals.append) as b:
        stats = b.acceptors[0].stats
        for _ in range(5):
            # An alert, and no ServerHello: no key was made, nor a secret.
            assert await answer_to(b, RECORDED) == fatal(HANDSHAKE_FAILURE)
        await until(lambda: len(refusals) == 5)
        assert stats.refused == {"HandshakeError": 5}
        for refusal in refusals:
            assert refusal.side is Side.LOCAL
            assert "no key-exchange group" in refusal.error.message
            assert "ffdhe" in (refusal.hint or "")


async def test_guarantee_9_a_curve_is_asked_for_in_the_place_of_ffdhe8192() -> None:
    hello = hellos.client_hello(
        [hellos.FFDHE8192, hellos.GROUPS["X25519"]],
        [hellos.key_share(hellos.FFDHE8192)],
    )
    async with running(B, handshake_timeout=2.0) as b:
        reader, writer = await asyncio.open_connection(*b.acceptors[0].address)
        try:
            writer.write(hello)
            async with asyncio.timeout(WAIT_SECONDS):
                head = await reader.readexactly(5)
                said = await reader.readexactly(int.from_bytes(head[3:]))
        finally:
            writer.transport.abort()
        # A HelloRetryRequest for X25519, which takes no computing.
        assert head[0] == HANDSHAKE
        assert said[6:38] == hellos.RETRY
        assert said.endswith(bytes([0, 51, 0, 2, 0, hellos.GROUPS["X25519"]]))


async def test_guarantee_9_no_dhe_in_tls_1_2_either() -> None:
    hello = hellos.client_hello([hellos.FFDHE8192], ciphers=DHE_CIPHERS, version=0x0303)
    old = manager(B, minimum_version=TLS12)
    refusals: list[Refusal] = []
    async with running(B, manager=old, on_refused=refusals.append) as b:
        assert await answer_to(b, hello) == fatal(HANDSHAKE_FAILURE)
        await until(lambda: refusals)
        assert refusals[0].side is Side.LOCAL
        assert "no cipher or key-exchange group" in refusals[0].error.message


# --- D(HE)at: the dialer ------------------------------


class Asker:
    """A server that answers each ClientHello by `answer`, and keeps what comes then."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer
        self.hellos: list[bytes] = []
        self.rest: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def __call__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            head = await reader.readexactly(5)
            hello = head + await reader.readexactly(int.from_bytes(head[3:]))
            self.hellos.append(hello)
            writer.write(self._answer(hello))
            self.rest.set_result(await reader.read())
        finally:
            writer.close()
            await writer.wait_closed()


@asynccontextmanager
async def asking(answer: Any) -> AsyncIterator[tuple[Asker, Route]]:
    asker = Asker(answer)
    server = await asyncio.start_server(asker, "127.0.0.1", 0)
    async with server:
        yield asker, Route(f"^{B}$", *server.sockets[0].getsockname())


async def test_guarantee_9_a_server_that_asks_for_ffdhe8192_makes_no_key() -> None:
    async with (
        asking(lambda hello: hellos.hello_retry_request(hello, hellos.FFDHE8192)) as (
            asker,
            route,
        ),
        running(A, listens=False, routes=[route]) as a,
    ):
        with pytest.raises(ProtocolError, match="did not offer") as caught:
            await a.connect(B)
        assert caught.value.side is Side.REMOTE
        assert caught.value.hint
        async with asyncio.timeout(WAIT_SECONDS):
            said = await asker.rest
        # An alert, and no second ClientHello with the share that was asked for.
        assert [record for record in records(said) if record[0] == HANDSHAKE] == []
        assert said.endswith(fatal(ILLEGAL_PARAMETER))
        assert dict(a.dial_stats.failed) == {"ProtocolError": 1}
        offered = hellos.extensions_of(asker.hellos[0])[hellos.SUPPORTED_GROUPS]
        numbers = {
            int.from_bytes(offered[i : i + 2]) for i in range(2, len(offered), 2)
        }
        assert numbers <= set(hellos.GROUPS.values())
        assert hellos.FFDHE8192 not in numbers


async def test_guarantee_9_a_server_cannot_choose_dhe_in_tls_1_2() -> None:
    old = manager(A, minimum_version=TLS12)
    async with (
        asking(lambda hello: hellos.server_hello_12(hello, DHE_CIPHERS[0])) as (
            asker,
            route,
        ),
        running(A, listens=False, routes=[route], manager=old) as a,
    ):
        with pytest.raises(HandshakeError) as caught:
            await a.connect(B)
        assert caught.value.side is Side.REMOTE
        async with asyncio.timeout(WAIT_SECONDS):
            said = await asker.rest
        assert said.endswith(fatal(ILLEGAL_PARAMETER))
