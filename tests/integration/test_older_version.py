"""A peer of an older version, that knows fewer features: what worked before works.

`tests/soak/versions.py` does the same with the wheel of an older commit.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from unittest import mock

import pytest

from fastnode import CallError, CallTimeout, Message, Node, RemoteError, Reply
from fastnode.errors import DuplicateLink
from fastnode.node.membership import Membership
from fastnode.wire.hello import Hello
from helpers.nodes import WAIT_SECONDS, A, B, pair, until

decode = Hello.decode.__func__  # type: ignore[attr-defined]


@pytest.fixture
def older() -> Iterator[None]:
    """Each side finds that the other one is of an older version."""

    def without(body: bytes) -> Hello:
        found: Hello = decode(Hello, body)
        return replace(found, extensions=None, group_workers=None, wants_another=None)

    with mock.patch.object(Hello, "decode", without):
        yield


@pytest.fixture
async def nodes(older: None) -> AsyncIterator[tuple[Node, Node]]:
    async with pair() as both:
        yield both


async def test_metadata_is_left_out_and_that_is_said_once(
    nodes: tuple[Node, Node], caplog: pytest.LogCaptureFixture
) -> None:
    a, b = nodes
    seen: list[Message] = []

    @b.handler("echo")
    async def echo(message: Message) -> Reply:
        seen.append(message)
        return Reply(message.payload, {"a": "b"})

    link = await a.connect(B)
    with caplog.at_level(logging.WARNING):
        reply = await link.request("echo", b"1", metadata={"x": "y"}, timeout=10)
        assert reply == Reply(b"1", {}, link.peer, 1)
        assert await link.call("echo", b"2", metadata={"x": "y"}) == b"2"
        await link.send_confirmed("echo", b"3", metadata={"x": "y"})
        link.send("echo", b"4", metadata={"x": "y"})
        await until(lambda: len(seen) == 4)
    assert [dict(message.metadata) for message in seen] == [{}] * 4
    assert [message.deadline for message in seen] == [None] * 4
    said = [each for each in caplog.records if "no metadata" in each.getMessage()]
    assert len(said) == 1


async def test_errors_arrive_without_code_and_details(
    nodes: tuple[Node, Node],
) -> None:
    a, b = nodes

    @b.handler("refuses")
    def refuses(message: Message) -> bytes:
        raise CallError("out_of_stock", "only 3 left", details=b"x")

    with pytest.raises(RemoteError) as caught:
        await a.call(B, "refuses", b"", timeout=WAIT_SECONDS)
    assert caught.value.code == "internal"
    assert caught.value.type_name == "CallError"
    assert "out_of_stock: only 3 left" in caught.value.message
    assert caught.value.details == b""


async def test_deadlines_hold_on_the_side_of_the_caller(
    nodes: tuple[Node, Node],
) -> None:
    a, b = nodes
    cancelled = asyncio.Event()

    @b.handler("stuck")
    async def stuck(message: Message) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    link = await a.connect(B)
    with pytest.raises(CallTimeout):
        await link.call("stuck", b"", timeout=0.05)
    await asyncio.wait_for(cancelled.wait(), WAIT_SECONDS)
    link.send("nobody", b"")
    await link.ping()
    assert link.stats.messages_dropped_by_peer == 0
    assert not link.closed


async def test_dials_by_address(nodes: tuple[Node, Node]) -> None:
    """An acceptor that does not know ADDITIONAL may not tell who it is."""
    a, b = nodes
    beta, address = Membership.of("beta"), b.acceptors[0].address
    link = await a._instances.connect(address, beta)
    assert await a._instances.connect(address, beta) is link
    assert link.link is not None
    await link.link.close()
    await until(lambda: not b.links)
    await b.connect(A)
    await until(lambda: a.links)
    with pytest.raises(DuplicateLink):
        await a._instances.connect(address, beta)
    (linked,) = a._instances.links_of(beta)
    assert not linked.dialer
    await a.links[0].ping()
