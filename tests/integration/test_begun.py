"""What errors of real links say to those who want to try again: `begun`, timeouts."""

from __future__ import annotations

import asyncio
import pickle

import pytest

from fastnode import (
    CallTimeout,
    LinkClosed,
    LinkLost,
    Message,
    MessageTooLarge,
    NoRoute,
    NoSuchEndpoint,
    Peer,
    ProtocolError,
    RemoteError,
    Route,
)
from helpers.nodes import WAIT_SECONDS, A, B, pair, refusing, running

PRICES: dict[bytes, bytes] = {}
SENTENCE = "the handler may have run"


class Never:
    """A handler that never returns, and tells when it has begun."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()

    async def __call__(self, message: Message) -> bytes:
        self.begun.set()
        await asyncio.Event().wait()
        raise AssertionError


@pytest.mark.parametrize("lost", [False, True])
async def test_a_link_that_has_ended(*, lost: bool) -> None:
    async with pair() as (a, b):
        never = Never()
        b.handler("never")(never)
        link = await a.connect(B)
        call = asyncio.ensure_future(link.call("never", b""))
        async with asyncio.timeout(WAIT_SECONDS):
            await never.begun.wait()
            if lost:
                next(iter(a._links)).abort()
            else:
                # The time for an orderly end is over at once.
                await link.close(timeout=0)
            with pytest.raises(LinkClosed) as caught:
                await call
            assert caught.value.begun == "maybe"
            for use in (link.call, link.send_confirmed):
                with pytest.raises(LinkClosed) as caught:
                    await use("never", b"")
                assert caught.value.begun == "no"
        with pytest.raises(LinkLost if lost else LinkClosed) as caught:
            link.send("never", b"")
        assert caught.value.begun == "no"
        assert (link.error.begun if link.error else None) == "maybe"


async def test_a_call_that_crosses_an_orderly_goodbye_has_not_begun() -> None:
    async with pair() as (a, b):
        never = Never()
        b.handler("never")(never)
        link = await a.connect(B)
        await link.ping()
        # Both are on their way before either side reads.
        closing = asyncio.ensure_future(b.links[0].close())
        call = asyncio.ensure_future(link.call("never", b""))
        async with asyncio.timeout(WAIT_SECONDS):
            with pytest.raises(LinkClosed) as caught:
                await call
            await closing
        assert type(caught.value) is LinkClosed
        assert caught.value.begun == "no"
        assert not never.begun.is_set()


async def test_a_call_that_the_end_of_an_orderly_close_cuts_off() -> None:
    async with pair() as (a, b):
        never = Never()
        b.handler("never")(never)
        link = await a.connect(B)
        call = asyncio.ensure_future(link.call("never", b""))
        async with asyncio.timeout(WAIT_SECONDS):
            await never.begun.wait()
            await b.links[0].close(timeout=0.05)
            with pytest.raises(LinkLost) as caught:
                await call
        assert caught.value.begun == "maybe"


async def test_answers_of_the_peer() -> None:
    small = {"max_message_size": 1 << 16}
    async with pair(small) as (a, b):
        b.handler("large")(lambda m: bytes((1 << 16) + 1))
        b.handler("fails")(lambda m: PRICES[m.payload])
        with pytest.raises(NoSuchEndpoint) as unknown:
            await a.call(B, "unknown", b"")
        assert unknown.value.begun == "no"
        with pytest.raises(MessageTooLarge) as reply:
            await a.call(B, "large", b"")
        assert reply.value.begun == "yes"
        with pytest.raises(MessageTooLarge) as request:
            await a.call(B, "large", bytes((1 << 16) + 1))
        assert request.value.begun == "no"
        with pytest.raises(RemoteError) as raised:
            await a.call(B, "fails", b"")
        assert (raised.value.code, raised.value.begun) == ("internal", "yes")
        # With the peer and its certificate.
        again = pickle.loads(pickle.dumps(raised.value))
        assert isinstance(again.peer, Peer)
        assert again.peer.certificate is not None
        assert again.peer == raised.value.peer
        assert str(again) == str(raised.value)


async def test_a_timeout_names_the_time_that_was_given() -> None:
    async with running(B) as b:

        async def slowly(name: str) -> list[tuple[str, int]]:
            await asyncio.sleep(0.1)
            return [b.acceptors[0].address]

        b.handler("never")(Never())
        async with running(A, resolver=slowly) as a:
            for _ in range(2):  # with connecting, and without
                with pytest.raises(CallTimeout, match=r"within 0\.4 s") as caught:
                    await a.call(B, "never", b"", timeout=0.4)
                assert caught.value.timeout == 0.4
                assert caught.value.begun == "maybe"
                assert str(caught.value).count(SENTENCE) == 1


async def test_a_timeout_before_there_is_a_link() -> None:
    waiting = asyncio.Event()

    async def never(name: str) -> list[tuple[str, int]]:
        waiting.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with running(A, resolver=never) as a:
        with pytest.raises(CallTimeout, match=r"within 0\.1 s") as caught:
            await a.call(B, "e", b"", timeout=0.1)
        assert waiting.is_set()
        assert (caught.value.timeout, caught.value.begun) == (0.1, "no")
        assert SENTENCE not in str(caught.value)


async def test_a_connection_that_does_not_come_up() -> None:
    async def answer(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server, running(A, listens=False) as a:
        a.add_route(Route("^beta", *server.sockets[0].getsockname()))
        with pytest.raises(ProtocolError) as strange:
            await a.call(B, "e", b"")
        assert strange.value.begun == "no"
        with refusing() as address:
            a.add_route(Route("^gamma", *address))
            with pytest.raises(NoRoute) as nobody:
                await a.call("gamma@127.0.0.1", "e", b"")
        assert (nobody.value.code, nobody.value.begun) == ("unavailable", "no")
    with pytest.raises(LinkClosed) as stopped:
        await a.connect(B)
    assert stopped.value.begun == "no"
