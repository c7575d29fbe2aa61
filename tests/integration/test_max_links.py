"""`max_links`: what counts, and what takes the place of another link."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import pytest

from fastnode import (
    AcceptorOptions,
    Certificate,
    ClientAuth,
    Link,
    Node,
    Peer,
    Route,
    TooManyConnections,
)
from fastnode.errors import CloseReason, Side
from fastnode.names import NodeName
from helpers import frames
from helpers.nodes import A, B, introduce, running, start, until
from helpers.pki import authority, manager
from helpers.proxy import Proxy
from helpers.raw import Raw

HERD = 12


def room_for(count: int) -> list[AcceptorOptions]:
    return [AcceptorOptions(port=0, max_links=count)]


async def test_handshakes_that_are_under_way_count() -> None:
    async with AsyncExitStack() as stack:
        b = await stack.enter_async_context(running(B, acceptors=room_for(2)))
        herd = []
        for number in range(HERD):
            node = running(f"n{number}@127.0.0.1", listens=False)
            herd.append(await stack.enter_async_context(node))
            introduce(herd[-1], b)
        outcomes = await asyncio.gather(
            *(node.connect(B) for node in herd), return_exceptions=True
        )
        refused = [each for each in outcomes if isinstance(each, TooManyConnections)]
        assert len(refused) == HERD - 2
        assert all(each.close_reason is CloseReason.TOO_MANY_LINKS for each in refused)
        await until(lambda: len(b.links) == 2)
        stats = b.acceptors[0].stats
        assert (stats.links, stats.refused["TooManyConnections"]) == (2, HERD - 2)
        # One goes, one comes.
        link = next(each for each in outcomes if isinstance(each, Link))
        await link.close()
        await until(lambda: len(b.links) == 1)
        again = await asyncio.gather(
            *(node.connect(B) for node in herd), return_exceptions=True
        )
        assert sum(isinstance(each, Link) for each in again) == 2
        await until(lambda: len(b.links) == 2)
        assert stats.links == 3


async def test_who_was_admitted_and_never_comes_up_leaves_its_place() -> None:
    async with running(B, acceptors=room_for(1), plaintext=True) as b:
        address = b.acceptors[0].address
        admitted, other = [
            Raw(*await asyncio.open_connection(*address)) for _ in range(2)
        ]
        try:
            admitted.writer.write(frames.hello(A))
            await admitted.hello()
            # It does not say ACCEPT: the place is taken all the same.
            other.writer.write(frames.hello("gamma@127.0.0.1"))
            kind, body = await other.frame()
            assert kind == frames.GOODBYE
            assert int.from_bytes(body[:2]) == CloseReason.TOO_MANY_LINKS
            assert b.links == ()
            admitted.close()
            await until(lambda: b.acceptors[0].stats.failed["HandshakeError"] == 1)
            async with running("delta@127.0.0.1", listens=False, plaintext=True) as d:
                introduce(d, b)
                assert await (await d.connect(B)).ping() < 10
        finally:
            admitted.close()
            other.close()


@asynccontextmanager
async def dead(b: Node) -> AsyncIterator[Link]:
    """The link with an instance of alpha, as after a power cut: nothing comes of it."""
    async with Proxy() as proxy:
        await proxy.start(b.acceptors[0].address)
        first = await start(A, listens=False)
        first.add_route(Route("^beta@", *proxy.address))
        await first.connect(B)
        await until(lambda: b.links)
        proxy.stall(proxy.writers)
        yield b.links[0]
        await first.stop(timeout=0.1)


async def test_a_restarted_peer_takes_its_own_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fastnode.node.links.CHECK_SECONDS", 0.2)
    async with running(B, acceptors=room_for(1)) as b, dead(b) as old:
        async with running(A, listens=False) as second:
            introduce(second, b)
            # The old instance may be alive. The refusal has it looked at.
            with pytest.raises(TooManyConnections, match="maximum"):
                await second.connect(B)
            await until(lambda: old.closed)
            assert not (await second.connect(B)).closed
            await until(lambda: len(b.links) == 1)
            assert b.links[0].peer.instance == second.instance
            async with running("gamma@127.0.0.1", listens=False) as c:
                introduce(c, b)
                with pytest.raises(TooManyConnections, match="maximum"):
                    await c.connect(B)


async def test_whoever_waits_for_a_place_ends_no_link_that_is_alive() -> None:
    async with running(B, acceptors=room_for(1)) as b:
        async with running(A, listens=False) as first, running(A, listens=False) as two:
            for node in (first, two):
                introduce(node, b)
            link = await first.connect(B)
            for _ in range(3):
                with pytest.raises(TooManyConnections):
                    await two.connect(B)
            await link.ping()
            assert len(b.links) == 1
            await link.close()
            await until(lambda: not b.links)
            await two.connect(B)


async def test_a_link_that_only_one_side_has_lost_is_replaced() -> None:
    async with (
        running(B, acceptors=room_for(1)) as b,
        running(A, listens=False) as a,
        Proxy() as proxy,
    ):
        await proxy.start(b.acceptors[0].address)
        a.add_route(Route("^beta@", *proxy.address))
        old = await a.connect(B)
        await until(lambda: b.links)
        (seen,) = b.links
        proxy.reset_one(0)
        await until(lambda: old.closed)
        assert not seen.closed
        assert await (await a.connect(B)).ping() < 10
        await until(lambda: seen.closed)
        assert len(b.links) == 1


async def test_a_hook_that_swallows_its_cancellation_takes_no_place() -> None:
    seen: list[str] = []

    async def stubborn(peer: Peer) -> bool:
        seen.append(peer.name)
        if peer.name == A:
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            seen.append("cancelled")
        return True

    async with running(
        B, acceptors=room_for(1), plaintext=True, authorize=stubborn
    ) as b:
        peer = Raw(*await asyncio.open_connection(*b.acceptors[0].address))
        try:
            peer.writer.write(frames.hello(A))
            await until(lambda: seen == [A])
        finally:
            peer.close()
        await until(lambda: seen == [A, "cancelled"])
        async with running("gamma@127.0.0.1", listens=False, plaintext=True) as c:
            introduce(c, b)
            assert await (await c.connect(B)).ping() < 10
            # Nor does it wait for a link of alpha that never comes up.
            assert not b._links.welcomed(A)


async def test_dials_of_one_instance_at_once_share_one_place() -> None:
    async with running(B, acceptors=room_for(1), plaintext=True) as b:
        address = b.acceptors[0].address
        peers = [Raw(*await asyncio.open_connection(*address)) for _ in range(3)]
        try:
            for peer in peers:
                peer.writer.write(frames.hello(A))
                await peer.hello()
            for peer in peers:
                peer.send(frames.ACCEPT)
            await until(lambda: b.acceptors[0].stats.links == 3)
            await until(lambda: len(b.links) == 1)
            assert b.acceptors[0].stats.refused.total() == 0
        finally:
            for peer in peers:
                peer.close()


# --- one identity ---------------------------------------------------------------------


def issued(uri: str, *, serial: str = "test CA") -> Certificate:
    """A certificate for every node at 127.0.0.1, of one service."""
    return (
        authority(serial)
        .issue(NodeName.parse(f"{uri}@127.0.0.1"), dns=["localhost"])
        .certificate()
    )


async def outcome(stack: AsyncExitStack, b: Node, name: str, shown: Any) -> object:
    """Start a node that dials; its link, or the error."""
    node = running(f"{name}@127.0.0.1", listens=False, manager=shown)
    a = await stack.enter_async_context(node)
    introduce(a, b)
    try:
        return await a.connect(B)
    except TooManyConnections as error:
        return error


async def test_replicas_that_share_a_certificate_lock_out_nobody() -> None:
    shared = manager(A, shows=issued("service"))
    other = manager(A, shows=issued("other"))
    async with AsyncExitStack() as stack:
        # A quarter, rounded up.
        b = await stack.enter_async_context(running(B, acceptors=room_for(6)))
        outcomes = [await outcome(stack, b, f"n{n}", shared) for n in range(4)]
        assert [isinstance(each, Link) for each in outcomes] == [True] * 2 + [False] * 2
        error = outcomes[-1]
        assert isinstance(error, TooManyConnections)
        assert (error.code, error.begun, error.side) == (
            "resource_exhausted", "no", Side.REMOTE,
        )  # fmt: skip
        assert error.close_reason is CloseReason.TOO_MANY_LINKS
        assert error.retry_after > 0
        assert "max_links_per_peer" in str(error)
        assert "try again in 1 s" in str(error)
        # Renewed certificates are the same identity; others are let in.
        renewed = manager(A, shows=issued("service"))
        assert renewed.certificate != shared.certificate
        assert isinstance(await outcome(stack, b, "n5", renewed), TooManyConnections)
        assert isinstance(await outcome(stack, b, "n6", other), Link)
        # One goes, one comes.
        assert isinstance(outcomes[0], Link)
        await outcomes[0].close()
        await until(lambda: len(b.links) == 2)
        assert isinstance(await outcome(stack, b, "n7", renewed), Link)
        stats = b.acceptors[0].stats
        assert stats.refused == {"TooManyConnections": 3}


async def test_max_links_per_peer_is_an_option() -> None:
    shared = manager(A, shows=issued("service"))
    room = [AcceptorOptions(port=0, max_links=3, max_links_per_peer=3)]
    async with AsyncExitStack() as stack:
        b = await stack.enter_async_context(running(B, acceptors=room))
        outcomes = [await outcome(stack, b, f"n{n}", shared) for n in range(4)]
        assert [isinstance(each, Link) for each in outcomes] == [True] * 3 + [False]
        assert "raise max_links of" in str(outcomes[-1])


async def test_certificates_that_nobody_verified_are_no_others_identity() -> None:
    """Whoever copies a subject and SANs locks out nobody who has them."""
    asks = manager(B, client_auth=ClientAuth.REQUEST_CLIENT_CERT)
    room = [AcceptorOptions(port=0, max_links=8, max_links_per_peer=1)]
    async with AsyncExitStack() as stack:
        b = await stack.enter_async_context(running(B, acceptors=room, manager=asks))
        good = manager(A, shows=issued("service"))
        copied = manager(A, shows=issued("service", serial="another CA"))
        nobody = manager(A, anonymous=True)
        assert isinstance(await outcome(stack, b, "n0", copied), Link)
        assert isinstance(await outcome(stack, b, "n1", copied), TooManyConnections)
        assert isinstance(await outcome(stack, b, "n2", good), Link)
        # Without a certificate there is no identity.
        assert isinstance(await outcome(stack, b, "n3", nobody), Link)
        assert isinstance(await outcome(stack, b, "n4", nobody), Link)


async def test_other_instances_need_places_of_their_own() -> None:
    async with running(B, acceptors=room_for(2), plaintext=True) as b:
        address = b.acceptors[0].address
        peers = [Raw(*await asyncio.open_connection(*address)) for _ in range(3)]
        try:
            for number, peer in enumerate(peers):
                peer.writer.write(frames.hello(A, instance=bytes([number + 1]) * 16))
                kind, body = await peer.frame()
                if number < 2:
                    assert kind == frames.HELLO
                    peer.send(frames.ACCEPT)
                    await until(lambda n=number: len(b.links) == n + 1)  # type: ignore[misc]
                else:
                    assert kind == frames.GOODBYE
                    assert int.from_bytes(body[:2]) == CloseReason.TOO_MANY_LINKS
        finally:
            for peer in peers:
                peer.close()


async def test_a_restarted_peer_takes_its_own_place_of_its_identity(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fastnode.node.links.CHECK_SECONDS", 0.2)
    room = [AcceptorOptions(port=0, max_links=4, max_links_per_peer=1)]
    async with running(B, acceptors=room) as b, dead(b) as old:
        async with running(A, listens=False) as second:
            introduce(second, b)
            with pytest.raises(TooManyConnections, match="max_links_per_peer"):
                await second.connect(B)
            await until(lambda: old.closed)
            assert not (await second.connect(B)).closed
            await until(lambda: len(b.links) == 1)
        await until(lambda: not b.links)
        assert len(b.acceptors[0]._quota) == 0
