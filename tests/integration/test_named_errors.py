"""Errors say who is concerned: `.peer`."""

from __future__ import annotations

import asyncio

import pytest

from fastnode import (
    FastnodeError,
    Link,
    MessageTooLarge,
    Peer,
    ProtocolError,
    SendQueueFull,
    Side,
)
from helpers import frames
from helpers.nodes import A, B, pair, running, until
from helpers.raw import Raw, raw_peer

MIB = 1 << 20


async def test_a_full_queue_and_a_large_message() -> None:
    small = {"max_queued": MIB, "max_message_size": MIB, "high_water": MIB}
    async with pair(small) as (a, _):
        link = await a.connect(B)
        for send in (link.send, link.call, link.send_confirmed):
            with pytest.raises(MessageTooLarge) as large:
                await (send("e", bytes(MIB + 1)) or asyncio.sleep(0))
            assert large.value.peer is link.peer
        link.send("e", bytes(MIB))
        with pytest.raises(SendQueueFull) as full:
            link.send("e", bytes(MIB))
        assert full.value.peer is link.peer


async def test_a_full_node() -> None:
    small = {"max_node_queued": MIB, "high_water": MIB}
    async with pair(small) as (a, _):
        link = await a.connect(B)
        link.send("e", bytes(MIB))
        with pytest.raises(SendQueueFull, match="all links") as full:
            link.send("e", bytes(MIB))
        assert full.value.peer is link.peer


async def test_a_peer_that_breaks_the_protocol() -> None:
    heard: list[tuple[Link, FastnodeError]] = []
    async with running(B, plaintext=True) as node:
        node.on_link_down(lambda link, error: heard.append((link, error)))
        async with raw_peer(node) as peer:
            peer.send(18)
            await until(lambda: heard)
        ((link, error),) = heard
        assert isinstance(error, ProtocolError)
        assert isinstance(error.peer, Peer)
        assert error.peer is link.peer
        assert error.peer.name == A
        assert error.side is Side.REMOTE


async def test_a_stranger_that_breaks_the_protocol() -> None:
    refused: list[FastnodeError] = []
    async with running(
        B, plaintext=True, on_refused=lambda refusal: refused.append(refusal.error)
    ) as node:
        stranger = Raw(*await asyncio.open_connection(*node.acceptors[0].address))
        address = stranger.writer.get_extra_info("sockname")
        try:
            stranger.writer.write(frames.hello(A, magic=b"fastnods"))
            await until(lambda: refused)
        finally:
            stranger.close()
        assert isinstance(refused[0], ProtocolError)
        assert refused[0].peer == f"{address[0]}:{address[1]}"
