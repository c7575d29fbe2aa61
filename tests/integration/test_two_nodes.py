"""Two nodes over mutual TLS: messages, calls, handlers."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from typing import Any

import pytest

from fastnode import (
    CallTimeout,
    ConfigError,
    LinkClosed,
    Message,
    MessageTooLarge,
    NoSuchEndpoint,
    PeerNameMismatch,
    RemoteError,
    SendQueueFull,
    Side,
)
from helpers.nodes import WAIT_SECONDS, A, B, introduce, pair, running, until


async def test_who_is_who() -> None:
    async with pair() as (a, b):
        link = await a.connect(B)
        await until(lambda: b.links)
        (other,) = b.links
        assert (link.peer.name, other.peer.name) == (B, A)
        for peer in (link.peer, other.peer):
            assert peer.verified
            assert peer.tls_version == "TLSv1.3"
            assert peer.cipher
            assert peer.certificate is not None
        assert link.peer.address == b.acceptors[0].address
        assert (link.dialed, other.dialed) == (True, False)
        assert a.links == (link,)
        assert await a.connect(B) is link
        assert link.peer.instance == b.instance != a.instance


async def test_guarantee_8_messages_in_order_and_unchanged() -> None:
    async with pair() as (a, b):
        got: list[Message] = []
        b.handler("audit")(got.append)
        link = await a.connect(B)
        sent = [os.urandom(size) for size in (0, 1, 64, 5000, 16384, 70_000, 2_000_000)]
        for payload in sent:
            link.send("audit", payload)
        await a.send(B, "audit", b"last")
        await until(lambda: len(got) == len(sent) + 1)
        assert [m.payload for m in got] == [*sent, b"last"]
        assert {(m.endpoint, m.sender.name) for m in got} == {("audit", A)}
        assert all(type(m.payload) is bytes for m in got)
        assert link.stats.messages_sent == len(got)
        assert b.links[0].stats.messages_received == len(got)


async def test_payloads_that_are_buffers_are_copied() -> None:
    async with pair() as (a, b):
        got: list[bytes] = []
        b.handler("e")(lambda m: got.append(m.payload))
        link = await a.connect(B)
        mutable = bytearray(b"x" * 100_000)
        link.send("e", mutable)
        link.send("e", memoryview(mutable)[1:3])
        mutable[:] = b"y" * 100_000
        await until(lambda: len(got) == 2)
        assert got == [b"x" * 100_000, b"xx"]
        with pytest.raises(TypeError, match="str"):
            link.send("e", "text")  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            link.send(None, b"")  # type: ignore[arg-type]


async def test_calls_both_ways_at_once() -> None:
    async with pair() as (a, b):
        for node in (a, b):
            node.handler("twice")(lambda m: m.payload * 2)
        numbers = [str(i).encode() for i in range(300)]
        calls = [a.call(B, "twice", n, timeout=WAIT_SECONDS) for n in numbers]
        calls += [b.call(A, "twice", n, timeout=WAIT_SECONDS) for n in numbers]
        replies = await asyncio.gather(*calls)
        assert replies == [n * 2 for n in numbers] * 2
        assert (len(a.links), len(b.links)) == (1, 1)


async def test_nodes_that_call_each_other_from_their_handlers() -> None:
    async with pair() as (a, b):

        @a.handler("down")
        async def down(message: Message) -> bytes:
            left = int(message.payload)
            return await a.call(B, "down", b"%d" % (left - 1)) if left else b"ground"

        @b.handler("down")
        async def down_too(message: Message) -> bytes:
            left = int(message.payload)
            return await b.call(A, "down", b"%d" % (left - 1)) if left else b"ground"

        replies = await asyncio.gather(
            *(a.call(B, "down", b"20", timeout=WAIT_SECONDS) for _ in range(50))
        )
        assert set(replies) == {b"ground"}


async def test_handlers_sync_async_and_what_they_return() -> None:
    async with pair() as (a, b):

        @b.handler("async")
        async def later(message: Message) -> bytes:
            await asyncio.sleep(0)
            return b"later " + message.payload

        class Callable:
            async def __call__(self, message: Message) -> bytearray:
                return bytearray(b"object")

        b.handler("object")(Callable())
        b.handler("none")(lambda m: None)
        b.handler("wrong")(lambda m: "text")  # type: ignore[type-var]
        b.handler("lambda")(lambda m: later(m))  # noqa: PLW0108 (a plain function that returns a coroutine)
        link = await a.connect(B)
        assert await link.call("async", b"x") == b"later x"
        assert await link.call("lambda", b"x") == b"later x"
        assert await link.call("object", b"") == b"object"
        assert await link.call("none", b"") == b""
        with pytest.raises(RemoteError, match="str") as caught:
            await link.call("wrong", b"")
        assert caught.value.type_name == "TypeError"


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_remote_error_carries_type_and_text_and_no_traceback(
    *, asynchronous: bool
) -> None:
    async with pair() as (a, b):

        def fail(message: Message) -> bytes:
            raise LookupError("no such order \u2603")

        async def fail_later(message: Message) -> bytes:
            return fail(message)

        b.handler("fail")(fail_later if asynchronous else fail)
        with pytest.raises(RemoteError) as caught:
            await a.call(B, "fail", b"", timeout=WAIT_SECONDS)
        error = caught.value
        assert (error.type_name, error.message) == (
            "LookupError",
            "no such order \u2603",
        )
        assert error.side is Side.REMOTE
        assert error.peer is a.links[0].peer
        assert "Traceback" not in str(error)
        assert ".py" not in str(error)
        # The link lives.
        with pytest.raises(RemoteError):
            await a.call(B, "fail", b"", timeout=WAIT_SECONDS)


async def test_a_very_long_error_is_cut() -> None:
    async with pair() as (a, b):

        @b.handler("fail")
        def fail(message: Message) -> bytes:
            raise ValueError("\u00fc" * 100_000)

        with pytest.raises(RemoteError) as caught:
            await a.call(B, "fail", b"", timeout=WAIT_SECONDS)
        assert caught.value.message == "\u00fc" * 512


async def test_no_such_endpoint_until_there_is_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with pair() as (a, b):
        link = await a.connect(B)
        with pytest.raises(NoSuchEndpoint, match="'price'") as caught:
            await link.call("price", b"")
        assert caught.value.hint
        link.send("price", b"dropped")
        with pytest.raises(NoSuchEndpoint):
            await link.call("price", b"")
        assert b.links[0].stats.unhandled_messages == 1
        assert "no such endpoint" in caplog.text
        b.handler("price")(lambda m: b"42")
        assert await link.call("price", b"") == b"42"


async def test_default_handler() -> None:
    async with pair() as (a, b):
        b.handler("known")(lambda m: b"known")
        b.default_handler(lambda m: m.endpoint.encode())
        assert await a.call(B, "known", b"") == b"known"
        assert await a.call(B, "anything", b"") == b"anything"


async def test_one_handler_for_an_endpoint() -> None:
    async with running(A) as a:
        a.handler("x")(lambda m: None)
        with pytest.raises(ConfigError, match="already"):
            a.handler("x")(lambda m: None)
        with pytest.raises(ConfigError, match="callable"):
            a.handler("y")(7)  # type: ignore[type-var]
        with pytest.raises(ConfigError, match="255"):
            a.handler("z" * 256)(lambda m: None)


async def test_a_handler_that_raises_on_a_message_is_logged_and_nothing_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with pair() as (a, b):

        @b.handler("bad")
        def bad(message: Message) -> None:
            raise ValueError("spoiled")

        @b.handler("bad later")
        async def bad_later(message: Message) -> None:
            raise ValueError("spoiled later")

        b.handler("ok")(lambda m: b"ok")
        link = await a.connect(B)
        with caplog.at_level(logging.ERROR):
            link.send("bad", b"")
            link.send("bad later", b"")
            assert await link.call("ok", b"") == b"ok"
            await until(lambda: b.links[0].stats.handler_errors == 2)
        assert "spoiled" in caplog.text
        assert "spoiled later" in caplog.text


async def test_call_timeout_cancels_the_handler() -> None:
    async with pair() as (a, b):
        began, cancelled = asyncio.Event(), asyncio.Event()

        @b.handler("slow")
        async def slow(message: Message) -> bytes:
            began.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise
            raise AssertionError

        link = await a.connect(B)
        with pytest.raises(CallTimeout, match="'slow'") as caught:
            await link.call("slow", b"", timeout=0.5)
        assert isinstance(caught.value, TimeoutError)
        async with asyncio.timeout(WAIT_SECONDS):
            await began.wait()
            await cancelled.wait()
        assert not link.closed


async def test_a_cancelled_call_leaves_no_trace() -> None:
    async with pair() as (a, b):
        began, cancelled = asyncio.Event(), asyncio.Event()

        @b.handler("slow")
        async def slow(message: Message) -> bytes:
            began.set()
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()
            raise AssertionError

        b.handler("quick")(lambda m: b"quick")
        link = await a.connect(B)
        task = asyncio.ensure_future(link.call("slow", b""))
        async with asyncio.timeout(WAIT_SECONDS):
            await began.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await cancelled.wait()
        assert await link.call("quick", b"") == b"quick"


async def test_message_too_large_names_both_numbers() -> None:
    small = {"max_message_size": 1000}
    async with pair(second=small) as (a, b):
        b.handler("e")(lambda m: b"x" * 1000)
        link = await a.connect(B)
        with pytest.raises(MessageTooLarge, match=r"1001.*1000.*67108864"):
            link.send("e", bytes(1001))
        assert await link.call("e", bytes(1000)) == b"x" * 1000
        # In the other direction it is this node's own limit, not the peer's.
        with pytest.raises(MessageTooLarge, match="1001"):
            await b.links[0].call("e", bytes(1001))


async def test_a_reply_too_large_is_an_error_for_the_caller() -> None:
    async with pair(first={"max_message_size": 1000}) as (a, b):
        b.handler("e")(lambda m: bytes(1001))
        with pytest.raises(MessageTooLarge, match="1001"):
            await a.call(B, "e", b"", timeout=WAIT_SECONDS)


async def test_ping() -> None:
    async with pair() as (a, _b):
        link = await a.connect(B)
        assert 0 < await link.ping() < 20


async def test_ten_thousand_names() -> None:
    async with pair() as (a, b):
        got: list[tuple[str, bytes]] = []
        b.default_handler(lambda m: got.append((m.endpoint, m.payload)))
        link = await a.connect(B)
        # Ten times what the endpoint dictionary holds, twice over.
        expected = [(f"endpoint-{i}", b"%d" % i) for i in range(10_000)] * 2
        for name, payload in expected:
            link.send(name, payload)
            await link.drain()
        await until(lambda: len(got) == len(expected))
        assert got == expected


async def test_one_message_of_64_mib() -> None:
    async with pair() as (a, b):
        b.handler("turn")(lambda m: m.payload[::-1])
        payload = os.urandom(1 << 20) * 64
        assert await a.call(B, "turn", payload, timeout=60.0) == payload[::-1]


# --- flow ---------------------------------------------------------------------------


async def test_guarantee_9_a_slow_handler_slows_its_sender_and_not_replies() -> None:
    async with pair() as (a, b):
        gate = asyncio.Event()
        handled: list[int] = []

        @b.handler("slow")
        async def slow(message: Message) -> None:
            await gate.wait()
            handled.append(int.from_bytes(message.payload[:4]))

        b.handler("quick")(lambda m: b"quick")
        a.handler("quick")(lambda m: b"quick")
        link = await a.connect(B)
        sent = 0
        # Ten windows' worth: sends stop being taken off the queue, drain waits.
        blocked = None
        while blocked is None and sent < 10_000:
            link.send("slow", sent.to_bytes(4) + bytes(1020))
            sent += 1
            drain = asyncio.ensure_future(link.drain())
            await asyncio.sleep(0)
            if not drain.done():
                # The peer has read all that it takes when it answers the first ping,
                # and has granted all that it grants when it answers the second one.
                await link.ping()
                await link.ping()
            blocked = None if drain.done() else drain
        assert blocked is not None
        assert sent < 5000
        received = b.links[0].stats.messages_received
        # What is under way is bounded by the window, not by what was sent.
        assert received * 1024 <= (1 << 20) + 2 * 65536
        # The other direction, pings and replies pass.
        assert await b.links[0].call("quick", b"", timeout=WAIT_SECONDS) == b"quick"
        assert await link.ping() < 5
        gate.set()
        async with asyncio.timeout(WAIT_SECONDS):
            await blocked
        await until(lambda: len(handled) == sent)
        assert handled == list(range(sent))


async def test_guarantee_9_send_queue_full_queues_nothing() -> None:
    limits: dict[str, Any] = {
        "high_water": 1000, "low_water": 0, "max_queued": 200_000,
        "window": 131072,
    }  # fmt: skip
    async with pair(first=limits, second=limits) as (a, b):
        gate = asyncio.Event()
        handled = 0

        @b.handler("slow")
        async def slow(message: Message) -> None:
            nonlocal handled
            await gate.wait()
            handled += 1

        link = await a.connect(B)
        sent = 0
        with pytest.raises(SendQueueFull, match="200000") as caught:
            for _ in range(10_000):
                link.send("slow", bytes(1000))
                sent += 1
        assert caught.value.hint
        queued = link.stats.queued_bytes
        with pytest.raises(SendQueueFull):
            link.send("slow", bytes(1000))
        assert link.stats.queued_bytes == queued
        gate.set()
        async with asyncio.timeout(WAIT_SECONDS):
            await link.drain()
        await until(lambda: handled == sent)


async def test_an_empty_queue_takes_any_legal_message() -> None:
    async with pair(first={"high_water": 10, "low_water": 0, "max_queued": 10}) as (
        a,
        b,
    ):
        b.handler("size")(lambda m: b"%d" % len(m.payload))
        assert (
            await a.call(B, "size", bytes(3_000_000), timeout=WAIT_SECONDS)
            == b"3000000"
        )


# --- misuse ---------------------------------------------------------------------------


async def test_guarantee_11_a_link_belongs_to_its_loop() -> None:
    async with pair() as (a, b):
        b.handler("e")(lambda m: b"")
        link = await a.connect(B)

        def elsewhere() -> None:
            link.send("e", b"")

        with pytest.raises(ConfigError, match="thread"):
            await asyncio.to_thread(elsewhere)

        async def elsewhere_too(method: Callable[..., Any], *args: Any) -> None:
            await method(*args)

        for method, *args in (
            (a.connect, B),
            (a.connect, "gamma@127.0.0.1"),
            (a.send, B, "e", b""),
            (a.send, "gamma@127.0.0.1", "e", b""),
            (a.call, B, "e", b""),
            (a.reconnect,),
            (a.stop,),
            (link.call, "e", b""),
            (link.send_confirmed, "e", b""),
            (link.ping,),
            (link.close,),
            (link.wait_closed,),
        ):
            coro = elsewhere_too(method, *args)
            with pytest.raises(ConfigError, match=r"thread|loop"):
                await asyncio.to_thread(asyncio.run, coro)
        # And nothing has come of it.
        assert a.links == (link,)
        assert await link.call("e", b"") == b""
        assert (link.stats.calls_sent, link.stats.messages_sent) == (1, 0)


async def test_a_node_does_not_connect_to_itself() -> None:
    async with running(A) as a:
        introduce(a, a)
        with pytest.raises(PeerNameMismatch, match="itself") as caught:
            await a.connect(A)
        assert "call the handler directly" in (caught.value.hint or "")
        assert not a.links
        with pytest.raises(ConfigError, match="name@host"):
            await a.connect("nonsense")


async def test_a_stopped_node_says_so() -> None:
    async with pair() as (a, _b):
        link = await a.connect(B)
        await a.stop()
        assert link.closed
        with pytest.raises(LinkClosed):
            link.send("e", b"")
        with pytest.raises(LinkClosed):
            await link.drain()
        with pytest.raises(LinkClosed):
            await link.ping()
        with pytest.raises(LinkClosed):
            await a.connect(B)
        await a.stop()


async def test_guarantee_1_plaintext_only_when_told() -> None:
    async with pair({"plaintext": True}, {"plaintext": True}) as (a, b):
        b.handler("e")(lambda m: m.payload)
        assert await a.call(B, "e", b"x") == b"x"
        assert not a.links[0].peer.verified
        assert a.links[0].peer.tls_version is None
