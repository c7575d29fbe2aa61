"""Guarantee 11: handlers and hooks run in the context of their node.

Not in that of whoever dialed first, sent something, or is calling.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import pytest

from fastnode import Link, Message, Node
from helpers.nodes import WAIT_SECONDS, A, B, pair, running, until

#: Who makes a request to some web server.
user: ContextVar[str] = ContextVar("user", default="nobody")


class Seen:
    """Handlers of every kind, and what each of them saw."""

    def __init__(self, node: Node) -> None:
        self.users: dict[str, list[str]] = {}
        self.go_on = asyncio.Event()
        node.handler("plain")(self.plain)
        node.handler("async")(self.later)
        node.handler("bounded", concurrency=1)(self.bounded)
        node.handler("batch", batch=True)(self.batch)
        node.handler("async batch", batch=True, concurrency=1)(self.batch_later)

    def note(self, name: str) -> None:
        self.users.setdefault(name, []).append(user.get())

    def plain(self, message: Message) -> bytes:
        self.note("plain")
        return b""

    async def later(self, message: Message) -> bytes:
        self.note("async")
        user.set("a handler")
        await asyncio.sleep(0)
        return b""

    async def bounded(self, message: Message) -> bytes:
        self.note("bounded")
        user.set("a handler")
        await self.go_on.wait()
        return b""

    def batch(self, messages: list[Message]) -> None:
        self.note("batch")

    async def batch_later(self, messages: list[Message]) -> None:
        self.note("async batch")
        user.set("a handler")
        await asyncio.sleep(0)


async def use(link: Link, seen: Seen) -> None:
    seen.go_on.clear()
    for name in ("batch", "async batch", "plain", "async"):
        for _ in range(3):
            await link.send_confirmed(name, b"", timeout=WAIT_SECONDS)
            link.send(name, b"")
    bounded = [
        asyncio.ensure_future(link.call("bounded", b"", timeout=WAIT_SECONDS))
        for _ in range(4)
    ]
    await link.call("async", b"", timeout=WAIT_SECONDS)
    seen.go_on.set()
    await asyncio.gather(*bounded)


@pytest.mark.parametrize("side", ["dialer", "acceptor"])
async def test_guarantee_11_handlers_do_not_run_as_whoever_dialed(side: str) -> None:
    async with pair() as (a, b):
        token = user.set("the dialer")
        try:
            link = await a.connect(B)
        finally:
            user.reset(token)
        await until(lambda: b.links)
        sender, receiver = (b.links[0], a) if side == "dialer" else (link, b)
        seen = Seen(receiver)
        token = user.set("the sender")
        try:
            await use(sender, seen)
        finally:
            user.reset(token)
        assert set(seen.users) == {"plain", "async", "bounded", "batch", "async batch"}
        assert {each for users in seen.users.values() for each in users} == {"nobody"}


async def test_guarantee_11_nested_calls_do_not_run_as_the_handler_that_calls() -> None:
    """A nested call that waits for the place that its caller lends."""
    saw: list[str] = []
    async with pair() as (a, b):

        @b.handler("outer", concurrency=1)
        async def outer(message: Message) -> bytes:
            saw.append(user.get())
            user.set(f"outer {message.payload!r}")
            if message.payload == b"first":
                return await b.call(A, "middle", b"", timeout=WAIT_SECONDS)
            return b"inner"

        @a.handler("middle")
        async def middle(message: Message) -> bytes:
            saw.append(user.get())
            user.set("middle")
            return await a.call(B, "outer", b"nested", timeout=WAIT_SECONDS)

        assert await a.call(B, "outer", b"first", timeout=WAIT_SECONDS) == b"inner"
    assert saw == ["nobody"] * 3


async def test_guarantee_11_a_waiting_nested_call_begins_on_its_own() -> None:
    """It waits before a handler lends its place, and begins because of that."""
    saw: list[str] = []
    lend, waits = asyncio.Event(), asyncio.Event()
    async with pair() as (a, b):

        @b.handler("bounded", concurrency=1)
        async def bounded(message: Message) -> bytes:
            saw.append(user.get())
            user.set("the handler that calls")
            if message.payload == b"holds":
                await lend.wait()
                return await b.call(A, "echo", b"", timeout=WAIT_SECONDS)
            return b"nested"

        @a.handler("echo")
        async def echo(message: Message) -> bytes:
            await waits.wait()
            return b"held"

        @a.handler("nests")
        async def nests(message: Message) -> bytes:
            return await a.call(B, "bounded", b"", timeout=WAIT_SECONDS)

        holds = asyncio.ensure_future(a.call(B, "bounded", b"holds"))
        await until(lambda: saw)
        nested = asyncio.ensure_future(b.call(A, "nests", b""))
        # The nested call and the first one have come.
        await until(lambda: b.links[0].stats.calls_received == 2)
        lend.set()
        assert await nested == b"nested"
        waits.set()
        assert await holds == b"held"
    assert saw == ["nobody", "nobody"]


@asynccontextmanager
async def hooked(saw: dict[str, str]) -> AsyncIterator[tuple[Node, Node]]:
    def note(name: str) -> Any:
        def hook(*given: Any) -> bool:
            saw[name] = user.get()
            return True

        return hook

    hooks = ("authorize", "on_link_up", "on_link_down")
    async with running(B) as b:

        async def resolve(name: str) -> list[tuple[str, int]]:
            saw["resolver"] = user.get()
            return [b.acceptors[0].address]

        options = {name: note(name) for name in hooks}
        async with running(A, resolver=resolve, listens=False, **options) as a:
            yield a, b


async def test_guarantee_11_hooks_do_not_run_as_whoever_dialed() -> None:
    saw: dict[str, str] = {}
    async with hooked(saw) as (a, _b):
        user.set("the dialer")
        link = await a.connect(B)
        await a.reconnect(B, timeout=WAIT_SECONDS)
        await (await a.connect(B)).close()
        await link.wait_closed()
        await until(lambda: len(saw) == 4)
        user.set("nobody")
    assert set(saw.values()) == {"nobody"}


async def test_guarantee_11_a_node_has_the_context_of_its_start() -> None:
    saw: list[str] = []
    user.set("the program")
    async with pair() as (a, b):
        user.set("a request")
        b.handler("plain")(lambda message: saw.append(user.get()))
        await a.send(B, "plain", b"", confirm=True)
    assert saw == ["the program"]
