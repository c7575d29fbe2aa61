"""How links end: in order, lost, stopped; and what is said of it."""

from __future__ import annotations

import asyncio
import logging

import pytest

from fastnode import (
    CallTimeout,
    LinkClosed,
    LinkLost,
    Message,
    Node,
    Route,
    Side,
)
from helpers.nodes import WAIT_SECONDS, B, forget, pair, until
from helpers.proxy import Proxy


async def test_close_delivers_what_is_queued() -> None:
    async with pair() as (a, b):
        got: list[bytes] = []
        b.handler("e")(lambda m: got.append(m.payload))
        link = await a.connect(B)
        for number in range(5000):
            link.send("e", number.to_bytes(4) * 250)
        await link.close()
        assert [int.from_bytes(p[:4]) for p in got] == list(range(5000))
        assert link.closed
        assert not a.links
        await until(lambda: not b.links)
        assert type(link.error) is LinkClosed
        with pytest.raises(LinkClosed):
            link.send("e", b"")
        # A new one can be had at once.
        assert await a.connect(B) is not link


async def test_both_close_at_once() -> None:
    async with pair() as (a, b):
        link = await a.connect(B)
        await until(lambda: b.links)
        other = b.links[0]
        await asyncio.gather(link.close(), other.close())
        assert type(link.error) is type(other.error) is LinkClosed


async def test_close_waits_for_handlers_and_their_replies() -> None:
    async with pair() as (a, b):
        began, gate = asyncio.Event(), asyncio.Event()

        @b.handler("slow")
        async def slow(message: Message) -> bytes:
            began.set()
            await gate.wait()
            return b"done"

        link = await a.connect(B)
        call = asyncio.ensure_future(link.call("slow", b""))
        async with asyncio.timeout(WAIT_SECONDS):
            await began.wait()
            closing = asyncio.ensure_future(b.links[0].close())
            await until(lambda: not b.links or b.links[0].closed)
            gate.set()
            assert await call == b"done"
            await closing


async def test_close_of_the_peer_fails_waiting_calls_with_link_closed() -> None:
    async with pair() as (a, b):
        began = asyncio.Event()

        @b.handler("never")
        async def never(message: Message) -> bytes:
            began.set()
            await asyncio.Event().wait()
            raise AssertionError

        link = await a.connect(B)
        call = asyncio.ensure_future(link.call("never", b""))
        async with asyncio.timeout(WAIT_SECONDS):
            await began.wait()
            await b.links[0].close(timeout=0.1)
            with pytest.raises(LinkClosed):
                await call


async def test_a_call_that_times_out_during_the_close() -> None:
    async with pair() as (a, b):
        began, cancelled = asyncio.Event(), asyncio.Event()

        @b.handler("never")
        async def never(message: Message) -> bytes:
            began.set()
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()
            raise AssertionError

        link = await a.connect(B)
        await until(lambda: b.links)
        other = b.links[0]
        call = asyncio.ensure_future(link.call("never", b"", timeout=0.5))
        async with asyncio.timeout(WAIT_SECONDS):
            await began.wait()
            await link.close(timeout=8)
            assert cancelled.is_set()
        with pytest.raises(CallTimeout):
            await call
        await until(lambda: other.error)
        assert type(link.error) is type(other.error) is LinkClosed


async def test_a_ping_during_the_close() -> None:
    async with pair() as (a, b):
        gate, began = asyncio.Event(), asyncio.Event()

        @a.handler("slow")
        async def slow(message: Message) -> bytes:
            began.set()
            await gate.wait()
            return b"done"

        link = await a.connect(B)
        await until(lambda: b.links)
        other = b.links[0]
        call = asyncio.ensure_future(other.call("slow", b""))
        async with asyncio.timeout(WAIT_SECONDS):
            await began.wait()
            closing = asyncio.ensure_future(other.close())
            await until(lambda: link.closed)
            with pytest.raises(LinkClosed):
                await link.ping()
            gate.set()
            assert await call == b"done"
            await closing
        assert type(other.error) is LinkClosed


async def test_guarantee_8_what_the_closing_side_did_not_wait_for_is_told() -> None:
    async with pair() as (a, b):
        began = asyncio.Event()

        @b.handler("stuck")
        async def stuck(message: Message) -> None:
            began.set()
            await asyncio.Event().wait()

        link = await a.connect(B)
        for _ in range(3000):
            link.send("stuck", bytes(1024))
        drain = asyncio.ensure_future(link.drain())
        async with asyncio.timeout(WAIT_SECONDS):
            await began.wait()
            await b.links[0].close(timeout=0.1)
            with pytest.raises(LinkLost, match="time to close"):
                await drain
        assert type(link.error) is LinkLost
        await b.stop(timeout=0.3)


async def test_stop_while_messages_are_queued() -> None:
    async with pair() as (a, b):
        got: list[bytes] = []
        b.handler("e")(lambda m: got.append(m.payload))
        link = await a.connect(B)
        for number in range(20_000):
            link.send("e", number.to_bytes(4) * 25)
        await a.stop()
        assert [int.from_bytes(p[:4]) for p in got] == list(range(20_000))
        await until(lambda: not b.links)


async def test_stop_is_bounded_and_says_what_was_not_sent(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with pair() as (a, b):
        began = asyncio.Event()

        @b.handler("stuck")
        async def stuck(message: Message) -> None:
            began.set()
            await asyncio.Event().wait()

        link = await a.connect(B)
        for _ in range(4000):
            link.send("stuck", bytes(1024))
        drain = asyncio.ensure_future(link.drain())
        async with asyncio.timeout(WAIT_SECONDS):
            await began.wait()
        loop = asyncio.get_running_loop()
        started = loop.time()
        with caplog.at_level(logging.WARNING):
            await a.stop(timeout=0.3)
        assert loop.time() - started < WAIT_SECONDS
        assert "bytes were not sent" in caplog.text
        with pytest.raises(LinkLost, match="not sent"):
            await drain
        assert isinstance(link.error, LinkLost)
        # beta's own handlers are cancelled when beta stops.
        await b.stop(timeout=0.3)


async def behind_a_proxy(a: Node, b: Node, proxy: Proxy) -> None:
    forget(a, B)
    await proxy.start(b.acceptors[0].address)
    a.add_route(Route("beta", *proxy.address))


@pytest.mark.parametrize("how", ["reset", "cut"])
async def test_guarantee_8_lost_links_are_told_at_once(how: str) -> None:
    async with pair({"keepalive_interval": 60}) as (a, b), Proxy() as proxy:
        await behind_a_proxy(a, b, proxy)
        gate = asyncio.Event()
        began = asyncio.Event()

        @b.handler("slow")
        async def slow(message: Message) -> bytes:
            began.set()
            await gate.wait()
            return b""

        link = await a.connect(B)
        await until(lambda: b.links)
        other = b.links[0]
        call = asyncio.ensure_future(link.call("slow", b""))
        ping = asyncio.ensure_future(other.call("nothing here", b""))
        async with asyncio.timeout(WAIT_SECONDS):
            await began.wait()
        await asyncio.wait([ping], timeout=WAIT_SECONDS)
        ping.exception()
        for _ in range(4000):
            link.send("slow", bytes(1024))
        drain = asyncio.ensure_future(link.drain())
        await asyncio.sleep(0)
        getattr(proxy, how)()
        async with asyncio.timeout(WAIT_SECONDS):
            # At once: by the next turns of the loop, whatever else is to be done.
            while not link.closed:  # noqa: ASYNC110
                await asyncio.sleep(0)
            for _ in range(3):
                await asyncio.sleep(0)
            assert call.done()
            assert drain.done()
            for waiting in (call, drain):
                with pytest.raises(LinkLost) as caught:
                    await waiting
                assert caught.value.side is Side.REMOTE
            await link.wait_closed()
            await other.wait_closed()
        with pytest.raises(LinkLost):
            link.send("slow", b"")
        assert isinstance(other.error, LinkLost)
        gate.set()
        # Both nodes live, and find each other again.
        assert (await a.connect(B)).peer.name == B


async def test_a_fin_without_goodbye_is_told_from_an_orderly_close() -> None:
    async with pair() as (a, b), Proxy() as proxy:
        await behind_a_proxy(a, b, proxy)
        link = await a.connect(B)
        await until(lambda: b.links)
        proxy.half_close()
        async with asyncio.timeout(WAIT_SECONDS):
            await link.wait_closed()
        assert type(link.error) is LinkLost
        await until(lambda: not b.links)


async def test_corruption_ends_the_link() -> None:
    async with pair() as (a, b), Proxy() as proxy:
        await behind_a_proxy(a, b, proxy)
        b.handler("e")(lambda m: m.payload)
        link = await a.connect(B)
        proxy.corrupt = True
        await until(lambda: b.links)
        (other,) = b.links
        with pytest.raises(LinkLost, match="TLS failed"):
            await link.call("e", b"x", timeout=WAIT_SECONDS)
        await until(lambda: not a.links and not b.links)
        assert type(link.error) is type(other.error) is LinkLost
        # Nothing of it has come to a handler.
        assert other.stats.calls_received == 0


async def test_a_dead_peer_is_found_by_keepalive() -> None:
    # Not less: of a process that stands still for up to 0.1 s again and again a link
    # cannot tell that it was not its peer.
    quick = {"keepalive_interval": 0.2}
    async with pair(quick, quick) as (a, b), Proxy() as proxy:
        await behind_a_proxy(a, b, proxy)
        link = await a.connect(B)
        await until(lambda: b.links)
        # A silent but living peer is kept.
        await asyncio.sleep(1.5)
        assert not link.closed
        proxy.black_hole = True
        async with asyncio.timeout(WAIT_SECONDS):
            await link.wait_closed()
        assert isinstance(link.error, LinkLost)
        assert "heard" in str(link.error)
        await until(lambda: not b.links)


async def test_byte_by_byte() -> None:
    async with pair() as (a, b), Proxy() as proxy:
        proxy.piece = 1
        await behind_a_proxy(a, b, proxy)
        b.handler("e")(lambda m: m.payload)
        payload = bytes(range(256)) * 20
        assert await a.call(B, "e", payload, timeout=WAIT_SECONDS) == payload


async def test_errors_are_not_shared_between_those_who_wait() -> None:
    async with pair() as (a, b):

        @b.handler("never")
        async def never(message: Message) -> bytes:
            await asyncio.Event().wait()
            raise AssertionError

        link = await a.connect(B)
        calls = [asyncio.ensure_future(link.call("never", b"")) for _ in range(3)]
        await until(lambda: b.links and b.links[0].stats.calls_received == 3)
        await b.stop(timeout=0.1)
        errors = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(error, LinkClosed) for error in errors)
        assert len({id(error) for error in errors}) == 3
