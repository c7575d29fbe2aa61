"""Metadata, ids and replies with metadata, from one node to another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import MappingProxyType
from typing import Any

import pytest

from fastnode import ConfigError, Message, Node, Reply, current_message
from helpers.nodes import WAIT_SECONDS, B, pair, until

FULL = {f"name-{i}": "v" * 240 for i in range(64)}
LARGE = bytes(range(256)) * 1024


@pytest.fixture
async def nodes() -> AsyncIterator[tuple[Node, Node]]:
    async with pair() as both:
        yield both


def collect(node: Node) -> list[Message]:
    """Register endpoints that keep their messages."""
    seen: list[Message] = []

    @node.handler("plain")
    def plain(message: Message) -> bytes:
        seen.append(message)
        return message.payload

    @node.handler("async")
    async def asynchronous(message: Message) -> bytes:
        await asyncio.sleep(0)
        seen.append(message)
        return message.payload

    @node.handler("batch", batch=True)
    def batch(messages: list[Message]) -> None:
        seen.extend(messages)

    return seen


@pytest.mark.parametrize("payload", [b"", b"small", bytes(20_000), LARGE])
@pytest.mark.parametrize("endpoint", ["plain", "async"])
async def test_metadata_arrives_with_calls(
    nodes: tuple[Node, Node], endpoint: str, payload: bytes
) -> None:
    a, b = nodes
    seen = collect(b)
    link = await a.connect(B)
    for metadata in ({"trace-id": "abc", "tenant": "größe \t x"}, FULL, {"empty": ""}):
        reply = await link.call(
            endpoint, payload, metadata=metadata, timeout=WAIT_SECONDS
        )
        assert reply == payload
        assert dict(seen.pop().metadata) == metadata
        await link.send_confirmed(
            endpoint, payload, metadata=metadata, timeout=WAIT_SECONDS
        )
        await until(lambda: bool(seen))
        assert dict(seen.pop().metadata) == metadata
        link.send(endpoint, payload, metadata=metadata)
        await until(lambda: bool(seen))
        message = seen.pop()
        assert dict(message.metadata) == metadata
        assert message.payload == payload
        assert message.deadline is None
        assert message.time_left is None


async def test_metadata_by_name(nodes: tuple[Node, Node]) -> None:
    a, b = nodes
    seen = collect(b)
    metadata = MappingProxyType({"Request-Id": "7"})
    await a.send(B, "plain", b"", metadata=metadata, confirm=True)
    await a.call(B, "plain", b"", metadata=metadata)
    await a.request(B, "plain", b"", metadata=metadata)
    await a.send(B, "batch", b"", metadata=metadata, confirm=True)
    await a.send(B, "plain", b"", metadata=metadata, priority="high")
    await until(lambda: len(seen) == 5)
    assert [dict(message.metadata) for message in seen] == [{"request-id": "7"}] * 5


async def test_no_metadata_is_one_empty_mapping(nodes: tuple[Node, Node]) -> None:
    a, b = nodes
    seen = collect(b)
    link = await a.connect(B)
    await link.call("plain", b"")
    await link.call("plain", b"", metadata={})
    await link.call("async", b"", timeout=WAIT_SECONDS)
    first, *others = [message.metadata for message in seen]
    assert dict(first) == {}
    assert all(each is first for each in others)
    with pytest.raises(TypeError):
        first["a"] = "b"  # type: ignore[index]


async def test_what_a_handler_kept_is_not_used_again(nodes: tuple[Node, Node]) -> None:
    a, b = nodes
    seen = collect(b)
    link = await a.connect(B)
    for number in range(50):
        metadata = {"n": str(number)} if number % 2 else None
        link.send("plain", b"%d" % number, metadata=metadata)
    await until(lambda: len(seen) == 50)
    for number, message in enumerate(seen):
        assert message.payload == b"%d" % number
        assert dict(message.metadata) == ({"n": str(number)} if number % 2 else {})


@pytest.mark.parametrize(
    ("metadata", "why"),
    [
        ([("a", "b")], "it is a list"),
        ({"a": 1}, "maps str to int"),
        ({1: "a"}, "maps int to str"),
        ({"a b": ""}, "no name"),
        ({"": ""}, "no name"),
        ({"grün": ""}, "no name"),
        ({"n" * 256: ""}, "no name"),
        ({"a": "", "A": ""}, "twice"),
        ({"a": "line\nbreak"}, "control character"),
        ({"a": "\0"}, "control character"),
        ({"a": "\ud800"}, "not valid text"),
        ({f"n{i}": "" for i in range(65)}, "64 entries"),
        ({"a": "v" * (16 << 10)}, "16384 bytes"),
    ],
)
async def test_metadata_that_is_refused(
    nodes: tuple[Node, Node], metadata: Any, why: str
) -> None:
    a, b = nodes
    seen = collect(b)
    link = await a.connect(B)
    with pytest.raises(ConfigError, match=why):
        link.send("plain", b"", metadata=metadata)
    for use in (link.call, link.request, link.send_confirmed):
        with pytest.raises(ConfigError, match=why):
            await use("plain", b"", metadata=metadata)
    # Nothing was lost.
    assert await link.call("plain", b"ok", timeout=WAIT_SECONDS) == b"ok"
    assert len(seen) == 1
    assert not link.closed


@pytest.mark.parametrize("payload", [b"reply", LARGE])
async def test_a_request_has_the_metadata_of_its_reply(
    nodes: tuple[Node, Node], payload: bytes
) -> None:
    a, b = nodes

    @b.handler("plain")
    def plain(message: Message) -> Reply:
        return Reply(payload, metadata={"cost": "3", "Kind": "plain"})

    @b.handler("async")
    async def asynchronous(message: Message) -> Reply:
        await asyncio.sleep(0)
        return Reply(payload, {"cost": "3", "kind": "plain"})

    link = await a.connect(B)
    for endpoint in ("plain", "async"):
        reply = await link.request(endpoint, b"", timeout=WAIT_SECONDS)
        assert reply == Reply(payload, {"cost": "3", "kind": "plain"}, link.peer, 1)
        # `call` is for those who need the bytes alone.
        assert await link.call(endpoint, b"", timeout=WAIT_SECONDS) == payload
    assert (await a.request(B, "plain", b"")).payload == payload


async def test_a_reply_that_cannot_be_sent_ends_its_own_call(
    nodes: tuple[Node, Node], caplog: pytest.LogCaptureFixture
) -> None:
    a, b = nodes

    @b.handler("bad")
    def bad(message: Message) -> Reply:
        return Reply(b"", {"a": "\n"})

    @b.handler("odd")
    async def odd(message: Message) -> Reply:
        return Reply("text")  # type: ignore[arg-type]

    link = await a.connect(B)
    for endpoint in ("bad", "odd"):
        with pytest.raises(Exception, match=r"ConfigError|TypeError") as caught:
            await link.request(endpoint, b"", timeout=WAIT_SECONDS)
        assert getattr(caught.value, "code", None) == "internal"
    assert not link.closed
    caplog.clear()


async def test_ids(nodes: tuple[Node, Node]) -> None:
    a, b = nodes
    seen = collect(b)
    link = await a.connect(B)
    await link.request("plain", b"")
    await link.request("async", b"")
    link.send("plain", b"")
    await link.call("plain", b"")
    ids = [message.id for message in seen]
    assert len(set(ids)) == 4
    # An id stays, once it was looked at.
    assert [message.id for message in seen] == ids
    assert all(len(each) == 32 and int(each, 16) >= 0 for each in ids)
    assert {message.attempt for message in seen} == {1}


async def test_the_current_message(nodes: tuple[Node, Node]) -> None:
    a, b = nodes
    left: list[asyncio.Task[Message | None]] = []
    ended = asyncio.Event()

    async def later() -> Message | None:
        await ended.wait()
        return current_message()

    @b.handler("async")
    async def asynchronous(message: Message) -> bytes:
        assert current_message() is message
        await asyncio.sleep(0)
        assert current_message() is message
        assert await asyncio.create_task(asyncio.to_thread(current_message)) is message
        left.append(asyncio.create_task(later()))
        return message.payload

    @b.handler("plain")
    def plain(message: Message) -> bytes:
        assert current_message() is None
        return message.payload

    assert current_message() is None
    link = await a.connect(B)
    calls = [link.call("async", b"%d" % i, timeout=WAIT_SECONDS) for i in range(3)]
    assert await asyncio.gather(*calls) == [b"0", b"1", b"2"]
    assert await link.call("plain", b"x", timeout=WAIT_SECONDS) == b"x"
    ended.set()
    assert await asyncio.gather(*left) == [None] * 3
