"""Peers that abuse the replacement of links, or do not know it."""

from __future__ import annotations

import asyncio
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from fastnode import (
    CallTimeout,
    ClientAuth,
    HandshakeError,
    LinkLost,
    Message,
    Node,
    ProtocolError,
    Route,
)
from fastnode.wire.hello import Hello
from helpers import frames
from helpers.nodes import WAIT_SECONDS, A, B, introduce, running, until
from helpers.pki import manager
from helpers.raw import Raw

KIB = 1 << 10
OFFER = frames.feature(frames.HANDOVER)


@asynccontextmanager
async def dialer(
    node: Node,
    *features: tuple[int, bytes],
    instance: bytes = bytes(16),
    context: ssl.SSLContext | None = None,
    window: int = 1 << 20,
) -> AsyncIterator[tuple[Raw, Hello]]:
    """A connection to a node that has said HELLO as alpha, and the node's HELLO."""
    reader, writer = await asyncio.open_connection(
        *node.acceptors[0].address,
        ssl=context,
        server_hostname="127.0.0.1" if context else None,
    )
    raw = Raw(reader, writer)
    try:
        said = b"".join(frames.feature(kind, value) for kind, value in features)
        writer.write(frames.hello(A, features=said, instance=instance, window=window))
        yield raw, await raw.hello()
    finally:
        raw.close()


@asynccontextmanager
async def listener(
    *features: tuple[int, bytes],
    handshake_timeout: float = WAIT_SECONDS,
) -> AsyncIterator[tuple[Node, list[Raw]]]:
    """Alpha, a node, and beta, which it dials: the connections that beta has got."""
    got: list[Raw] = []

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.append(Raw(reader, writer))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        async with running(
            A, plaintext=True, listens=False, handshake_timeout=handshake_timeout
        ) as node:
            node.add_route(Route("beta", *server.sockets[0].getsockname()[:2]))
            connecting = asyncio.ensure_future(node.connect(B))
            await until(lambda: got)
            await got[0].hello()
            said = b"".join(frames.feature(kind, value) for kind, value in features)
            got[0].writer.write(frames.hello(B, features=said))
            assert (await got[0].frame())[0] == frames.ACCEPT
            await connecting
            try:
                yield node, got
            finally:
                for each in got:
                    each.close()
    finally:
        server.close()
        await server.wait_closed()


HANDOVER = (frames.HANDOVER, b"")
MOVED = frames.frame(frames.MOVED)
NAME = frames.frame(frames.ENDPOINT, b"e", number=0)


@pytest.mark.parametrize(
    ("features", "sent"),
    [
        ([HANDOVER], MOVED + MOVED),
        ([HANDOVER], NAME + MOVED + frames.message(0, b"late")),
        ([HANDOVER], NAME + MOVED + frames.call(0, 1, b"late")),
        ([HANDOVER], NAME + MOVED + frames.message(0, bytes(100_000))),
        ([HANDOVER], MOVED + NAME),
        ([HANDOVER], frames.frame(frames.RECONNECT)),
        ([], MOVED),
        ([], frames.frame(frames.STAY, frames.reason(28))),
    ],
)
async def test_guarantee_10_frames_of_a_succession_out_of_turn(
    features: list[tuple[int, bytes]], sent: bytes
) -> None:
    async with running(B, plaintext=True) as node:
        node.handler("e")(lambda m: b"")
        async with dialer(node, *features) as (raw, _):
            raw.send(frames.ACCEPT)
            await until(lambda: node.links)
            (link,) = node.links
            raw.writer.write(sent)
            await until(lambda: link.error)
            assert isinstance(link.error, ProtocolError)
            assert struct.unpack(">H", (await raw.until(frames.GOODBYE))[:2]) == (16,)


async def test_a_dialer_is_not_told_to_stay() -> None:
    async with listener((frames.HANDOVER, bytes(16))) as (node, (raw, *_)):
        (link,) = node.links
        raw.send(frames.STAY, frames.reason(28, "why"))
        await until(lambda: link.error)
        assert isinstance(link.error, ProtocolError)


async def test_what_is_moved_before_the_new_link_is_up_is_not_held() -> None:
    """Two connections: nothing says which of them is faster."""
    async with running(B, plaintext=True) as node:
        got: list[bytes] = []
        node.handler("e")(lambda m: got.append(m.payload))
        async with dialer(node, HANDOVER) as (old, hello):
            old.send(frames.ACCEPT)
            await until(lambda: node.links)
            (first,) = node.links
            assert hello.ticket is not None
            async with dialer(node, HANDOVER, (frames.SUCCEEDS, hello.ticket)) as (
                new,
                answer,
            ):
                assert answer.succeeds == hello.ticket
                assert answer.ticket not in (None, b"", hello.ticket)
                old.writer.write(NAME + frames.message(0, b"1") + MOVED)
                await until(lambda: got)
                assert not first.closed
                new.writer.write(
                    frames.frame(frames.ACCEPT) + NAME + frames.message(0, b"2")
                )
                await until(lambda: len(got) == 2)
                assert got == [b"1", b"2"]
                # Now it is done on that side, and says so.
                assert (await old.frame())[0] == frames.MOVED
                assert struct.unpack(">H", (await old.until(frames.GOODBYE))[:2]) == (
                    3,
                )
                old.send(frames.GOODBYE, frames.reason(3))
                await until(lambda: first.error)
                assert not isinstance(first.error, LinkLost)


async def test_guarantee_9_what_is_held_is_bounded_by_the_window() -> None:
    async with running(B, plaintext=True, window=128 * KIB) as node:
        got: list[bytes] = []
        node.handler("e")(lambda m: got.append(m.payload))
        async with dialer(node, HANDOVER) as (old, hello):
            old.send(frames.ACCEPT)
            await until(lambda: node.links)
            (first,) = node.links
            assert hello.ticket is not None
            async with dialer(node, HANDOVER, (frames.SUCCEEDS, hello.ticket)) as (
                new,
                _,
            ):
                # It never says MOVED on the old link, and sends more than it may.
                new.writer.write(frames.frame(frames.ACCEPT) + NAME)
                for _ in range(40):
                    new.writer.write(frames.message(0, bytes(10 * KIB)))
                await until(lambda: len(node.links) == 1)
                assert node.links == (first,)
                with pytest.raises((ConnectionError, EOFError)):
                    await new.until(frames.CREDIT)
                assert not got
                assert first.error is None


async def test_control_frames_of_the_new_link_are_not_held() -> None:
    async with running(B, plaintext=True) as node:
        began = []

        @node.handler("e")
        def handle(message: Message) -> bytes:
            began.append(message.payload)
            return b"reply"

        async with dialer(node, HANDOVER) as (old, hello):
            old.send(frames.ACCEPT)
            assert hello.ticket is not None
            async with dialer(node, HANDOVER, (frames.SUCCEEDS, hello.ticket)) as (
                new,
                _,
            ):
                new.send(frames.ACCEPT)
                await until(lambda: len(node.links) == 2)
                call = asyncio.ensure_future(node.call(A, "x", b"question"))
                assert (await new.until(frames.CALL))[4:] == b"question"
                new.writer.write(
                    NAME + frames.call(0, 1, b"held") + frames.call(0, 2, b"dropped")
                )
                new.send(frames.PING, b"12345678")
                assert await new.until(frames.PONG) == b"12345678"
                new.send(frames.CANCEL, struct.pack(">I", 2))
                new.writer.write(frames.reply(1, b"answer"))
                assert await call == b"answer"
                assert not began
                old.writer.write(NAME + frames.call(0, 1, b"first") + MOVED)
                assert (await old.until(frames.REPLY))[4:] == b"reply"
                assert (await new.until(frames.REPLY)) == struct.pack(
                    ">I", 1
                ) + b"reply"
                await until(lambda: len(began) >= 2)
                assert began == [b"first", b"held"]


async def test_a_slow_reader_holds_its_own_messages_up_on_both_links() -> None:
    """What waits for it to read its replies comes before MOVED, and so before the new
    link's messages."""
    async with running(B, plaintext=True) as node:
        notes: list[bytes] = []
        node.handler("note")(lambda m: notes.append(m.payload))
        node.handler("big")(lambda m: bytes(1024 * KIB))
        names = frames.frame(frames.ENDPOINT, b"note", number=0)
        names += frames.frame(frames.ENDPOINT, b"big", number=1)
        async with dialer(node, HANDOVER) as (old, hello):
            old.send(frames.ACCEPT)
            await until(lambda: node.links)
            (first,) = node.links
            assert hello.ticket is not None
            old.writer.write(names)
            for number in range(1, 61):
                old.writer.write(frames.call(1, number, b""))
            old.writer.write(frames.message(0, b"1") + MOVED)
            await until(lambda: first.stats.messages_received)
            async with dialer(node, HANDOVER, (frames.SUCCEEDS, hello.ticket)) as (
                new,
                answer,
            ):
                assert answer.succeeds == hello.ticket
                new.writer.write(
                    frames.frame(frames.ACCEPT) + names + frames.message(0, b"2")
                )
                await until(
                    lambda: sum(k.stats.messages_received for k in node.links) == 2
                )
                assert not notes
                replied = 0
                while replied < 60 * 1024 * KIB:
                    replied += await old.reply_part()
                await until(lambda: len(notes) == 2)
                assert notes == [b"1", b"2"]
                body = await old.until(frames.GOODBYE)
                assert struct.unpack(">H", body[:2]) == (3,)


async def test_two_links_that_succeed_the_same_one() -> None:
    async with running(B, plaintext=True) as node:
        async with dialer(node, HANDOVER) as (old, hello):
            old.send(frames.ACCEPT)
            assert hello.ticket is not None
            claim = (frames.SUCCEEDS, hello.ticket)
            async with dialer(node, HANDOVER, claim) as (one, first):
                async with dialer(node, HANDOVER, claim) as (two, second):
                    assert first.succeeds == second.succeeds == hello.ticket
                    one.send(frames.ACCEPT)
                    await until(lambda: len(node.links) == 2)
                    two.send(frames.ACCEPT)
                    body = await two.until(frames.GOODBYE)
                    assert struct.unpack(">H", body[:2]) == (16,)
                    assert len(node.links) == 2
                # Now the old one is not UP: no claim of it counts.
                async with dialer(node, HANDOVER, claim) as (_, third):
                    assert third.succeeds is None


async def test_guarantee_4_only_the_same_run_succeeds() -> None:
    async with running(B, plaintext=True) as node:
        async with dialer(node, HANDOVER) as (old, hello):
            old.send(frames.ACCEPT)
            await until(lambda: node.links)
            assert hello.ticket is not None
            for ticket, instance in (
                (hello.ticket, bytes(15) + b"1"),
                (bytes(16), bytes(16)),
                (hello.ticket[:-1] + bytes([hello.ticket[-1] ^ 1]), bytes(16)),
            ):
                async with dialer(
                    node, HANDOVER, (frames.SUCCEEDS, ticket), instance=instance
                ) as (_, answer):
                    assert answer.succeeds is None
            await asyncio.sleep(0)
            (link,) = node.links
            assert not link.closed


async def test_guarantee_4_a_stranger_with_a_ticket_succeeds_nobody() -> None:
    made = manager(B, client_auth=ClientAuth.VERIFY_CLIENT_CERT_IF_GIVEN)
    async with running(B, manager=made) as b, running(A, listens=False) as a:
        introduce(a, b)
        a.handler("who")(lambda m: b"the real one")
        await a.connect(B)
        await until(lambda: b.links)
        (link,) = b.links
        (protocol,) = list(b._links)
        ticket = protocol.succession.ticket
        assert ticket is not None
        trust = manager(A, anonymous=True)
        async with dialer(
            b,
            HANDOVER,
            (frames.SUCCEEDS, ticket),
            instance=bytes.fromhex(a.instance),
            context=trust.client_context(),
        ) as (stranger, answer):
            assert answer.succeeds is None
            stranger.send(frames.ACCEPT)
            await until(lambda: len(b.links) == 2)
            assert not link.closed
            assert await b.call(A, "who", b"") == b"the real one"
            # Its own link it may replace.
            assert answer.ticket is not None
            async with dialer(
                b,
                HANDOVER,
                (frames.SUCCEEDS, answer.ticket),
                instance=bytes.fromhex(a.instance),
                context=trust.client_context(),
            ) as (_, again):
                assert again.succeeds == answer.ticket


async def test_guarantee_9_a_flood_of_requests_is_one_dial() -> None:
    async with listener((frames.HANDOVER, bytes(16)), handshake_timeout=2.0) as (
        node,
        got,
    ):
        raw = got[0]
        for _ in range(1000):
            raw.send(frames.RECONNECT)
        # The handshake is left hanging; then there is one answer, with the reason.
        body = await raw.until(frames.STAY)
        assert b"not complete within 2 s" in body
        assert len(got) == 2
        assert not node.links[0].closed
        raw.send(frames.PING, bytes(8))
        assert (await raw.frame())[0] == frames.PONG
        assert len(got) == 2


async def test_an_acceptor_that_does_not_agree() -> None:
    async with listener((frames.HANDOVER, bytes(16))) as (node, got):
        (link,) = node.links
        reconnecting = asyncio.ensure_future(node.reconnect(B))
        await until(lambda: len(got) == 2)
        hello = await got[1].hello()
        assert hello.succeeds == bytes(16)
        got[1].writer.write(
            frames.hello(B, features=frames.feature(frames.HANDOVER, bytes(16)))
        )
        with pytest.raises(HandshakeError, match="does not know the old link"):
            await reconnecting
        assert node.links == (link,)
        assert not link.closed


async def test_peers_that_cannot() -> None:
    async with listener() as (node, got):
        (link,) = node.links
        with pytest.raises(HandshakeError, match="cannot hand a link over") as caught:
            await node.reconnect(B)
        assert "older version" in (caught.value.hint or "")
        assert len(got) == 1
        assert not link.closed
    async with running(B, plaintext=True) as node:
        async with dialer(node) as (raw, hello):
            assert hello.ticket
            raw.send(frames.ACCEPT)
            await until(lambda: node.links)
            with pytest.raises(HandshakeError, match="cannot hand a link over"):
                await node.reconnect()
            assert not node.links[0].closed


async def test_a_peer_that_does_not_answer() -> None:
    async with running(B, plaintext=True) as node:
        async with dialer(node, HANDOVER) as (raw, _):
            raw.send(frames.ACCEPT)
            await until(lambda: node.links)
            with pytest.raises(CallTimeout, match="no new link"):
                await node.reconnect(timeout=0.1)
            # One that nobody waits for any more is ignored; the next asks anew.
            assert await raw.until(frames.RECONNECT) == b""
            raw.send(frames.STAY, frames.reason(28))
            raw.send(frames.PING, bytes(8))
            await raw.until(frames.PONG)
            waiting = asyncio.ensure_future(node.reconnect(A))
            assert await raw.until(frames.RECONNECT) == b""
            raw.send(frames.STAY, frames.reason(22, "mine is expired", "wait"))
            with pytest.raises(HandshakeError, match="mine is expired") as caught:
                await waiting
            assert type(caught.value).__name__ == "CertificateExpired"
            assert not node.links[0].closed
