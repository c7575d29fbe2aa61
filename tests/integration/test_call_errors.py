"""What a handler raises, as its caller sees it; and messages that nobody takes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest

from fastnode import CallError, Message, Node, RemoteError
from helpers.nodes import WAIT_SECONDS, A, B, pair, until


@pytest.fixture
async def nodes() -> AsyncIterator[tuple[Node, Node]]:
    async with pair() as both:
        yield both


class Refined(CallError):
    """A subclass of an application."""


def raise_at(node: Node, error: BaseException) -> None:
    @node.handler("plain")
    def plain(message: Message) -> bytes:
        raise error

    @node.handler("async")
    async def asynchronous(message: Message) -> bytes:
        await asyncio.sleep(0)
        raise error


@pytest.mark.parametrize("endpoint", ["plain", "async"])
@pytest.mark.parametrize("kind", [CallError, Refined])
@pytest.mark.parametrize("details", [b"", b"\0\xff" * 8192])
async def test_a_call_error_arrives_whole(
    nodes: tuple[Node, Node],
    endpoint: str,
    kind: type[CallError],
    details: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    a, b = nodes
    raise_at(b, kind("out_of_stock", "only 3 left", details=details))
    link = await a.connect(B)
    uses = [link.call, link.request]
    if endpoint == "plain":
        uses.append(link.send_confirmed)
    with caplog.at_level(logging.WARNING):
        for use in uses:
            with pytest.raises(RemoteError) as caught:
                await use(endpoint, b"", timeout=WAIT_SECONDS)
            error = caught.value
            assert error.code == "out_of_stock"
            assert error.message == "only 3 left"
            assert error.details == details
            assert error.begun == "yes"
            assert error.type_name == kind.__name__
            assert error.peer is link.peer
    # The handler meant it: it is no error of the node, and counts as none.
    assert not caplog.records
    (other,) = b.links
    assert other.stats.handler_errors == 0


@pytest.mark.parametrize("endpoint", ["plain", "async"])
async def test_other_exceptions_are_internal(
    nodes: tuple[Node, Node], endpoint: str
) -> None:
    a, b = nodes
    nested = RemoteError("CallError", "of another node", code="busy", details=b"secret")
    for error in (ValueError("x"), nested, TimeoutError(), KeyError("a")):
        endpoint_name = f"{endpoint} {type(error).__name__}"

        async def asynchronous(message: Message, error: Exception = error) -> None:
            raise error

        def plain(message: Message, error: Exception = error) -> None:
            raise error

        b.handler(endpoint_name)(plain if endpoint == "plain" else asynchronous)
        with pytest.raises(RemoteError) as caught:
            await a.call(B, endpoint_name, b"", timeout=WAIT_SECONDS)
        assert caught.value.code == "internal"
        assert caught.value.details == b""
        assert caught.value.type_name == type(error).__name__


async def test_a_call_error_that_was_changed_ends_its_own_call(
    nodes: tuple[Node, Node],
) -> None:
    a, b = nodes
    error = CallError("fine", "text")
    error.code = 7  # type: ignore[assignment]
    raise_at(b, error)
    link = await a.connect(B)
    with pytest.raises(RemoteError) as caught:
        await link.call("plain", b"", timeout=WAIT_SECONDS)
    assert caught.value.code == "internal"
    assert not link.closed


async def test_a_dropped_message_is_told_to_its_sender(
    nodes: tuple[Node, Node], caplog: pytest.LogCaptureFixture
) -> None:
    a, b = nodes
    link = await a.connect(B)
    with caplog.at_level(logging.WARNING):
        for _ in range(100):
            link.send("nobody", b"")
        link.send("neither", b"")
        await until(lambda: link.stats.messages_dropped_by_peer == 101)
    (other,) = b.links
    assert other.stats.unhandled_messages == 101
    told = [
        record.getMessage()
        for record in caplog.records
        if "of this node to 'nobody'" in record.getMessage()
        or "of this node to 'neither'" in record.getMessage()
    ]
    assert told
    assert told[0].startswith(f"{B} dropped 1 messages of this node to 'nobody'")
    # At most one line a second, whatever was dropped.
    assert len(told) <= 3
    assert not link.closed


async def test_a_dropped_message_of_either_role(nodes: tuple[Node, Node]) -> None:
    a, b = nodes
    await a.connect(B)
    link = await b.connect(A)
    link.send("nobody", b"")
    await until(lambda: link.stats.messages_dropped_by_peer == 1)
