"""The handshake limiter has more patience where good peers are slow."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from fastnode.limits import (
    HANDSHAKE_PATIENCE_SECONDS,
    MAX_HANDSHAKE_PATIENCE_SECONDS,
)
from fastnode.link.machine import State
from fastnode.node.limiter import HandshakeLimiter


class Pending:
    """As much of a `PendingConnection`."""

    group = "g"


class Handshake:
    """As much of a `LinkProtocol` as the limiter uses."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.did: list[str] = []

    def peer_text(self) -> str:
        return "p"

    def refuse(self, error: Exception) -> None:
        self.did.append("refuse")
        self.state = State.CLOSED

    def terminate(self, error: Exception) -> None:
        self.did.append("terminate")
        self.state = State.CLOSED

    def abort(self) -> None:
        self.did.append("abort")


class Limiter:
    """A limiter of two slots, whose clock is ours."""

    def __init__(self) -> None:
        self.now = 100.0
        self.begun: list[Handshake] = []
        self.state = State.TLS
        self.limiter = HandshakeLimiter(2, 2, self.start)
        self.limiter._loop = SimpleNamespace(  # type: ignore[assignment]
            time=lambda: self.now, call_later=lambda *_: SimpleNamespace()
        )

    def start(self, pending: Any) -> Any:
        self.begun.append(Handshake(self.state))
        return self.begun[-1]

    def come(self) -> None:
        self.limiter.add(Pending())  # type: ignore[arg-type]


async def test_patience_follows_the_good_peers() -> None:
    it = Limiter()
    for _ in range(40):  # each takes 3 s, and becomes a link
        it.come()
        it.now += 3.0
        it.limiter.came_up(it.begun[-1])  # type: ignore[arg-type]
    assert it.limiter._patience == MAX_HANDSHAKE_PATIENCE_SECONDS
    it.come()
    it.come()
    it.now += MAX_HANDSHAKE_PATIENCE_SECONDS - 0.1
    it.come()
    assert len(it.begun) == 42
    it.now += 0.2
    it.limiter.wake()
    assert len(it.begun) == 43
    for _ in range(60):  # they are fast again
        it.limiter.came_up(it.begun[-1])  # type: ignore[arg-type]
        it.come()
        it.now += 0.01
    assert it.limiter._patience == HANDSHAKE_PATIENCE_SECONDS


@pytest.mark.parametrize(
    ("state", "did"), [(State.TLS, ["terminate", "abort"]), (State.HELLO, ["refuse"])]
)
async def test_who_can_be_told_is_told(state: State, did: list[str]) -> None:
    it = Limiter()
    it.state = state
    it.come()
    it.come()
    it.now += HANDSHAKE_PATIENCE_SECONDS
    it.come()
    await asyncio.sleep(0)
    assert it.begun[0].did == did
    assert len(it.begun) == 3
