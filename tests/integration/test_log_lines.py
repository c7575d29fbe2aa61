"""Not more than one line for each reason and second, whoever causes them."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from fastnode import HandshakeError, Peer, Refusal
from helpers.nodes import B, pair, running, until
from helpers.strangers import Crowd

CROWD = 50


@contextmanager
def few_lines(caplog: pytest.LogCaptureFixture, *starts: str) -> Iterator[None]:
    """Lines that start so are logged: once for each second that it takes, or less."""
    caplog.clear()
    loop = asyncio.get_running_loop()
    began = loop.time()
    yield
    seconds = math.ceil(loop.time() - began)
    for start in starts:
        lines = [text for text in caplog.messages if text.startswith(start)]
        assert 1 <= len(lines) <= 1 + seconds, lines[:5]
    assert len(caplog.messages) <= len(starts) * (1 + seconds)


async def test_on_refused_that_raises(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)

    def broken(refusal: Refusal) -> None:
        raise RuntimeError("the hook is broken")

    async with running(B, on_refused=broken) as b:
        stats = b.acceptors[0].stats
        crowd = Crowd(b.acceptors[0].address, CROWD, says=lambda n: b"GET / HTTP\r\n")
        with few_lines(caplog, "on_refused raised on", f"{B} has no link with"):
            async with crowd:
                await until(lambda: stats.failed.total() == CROWD)
        (first, *_) = (r for r in caplog.records if r.message.startswith("on_refused"))
        assert first.exc_info is not None
        assert "the hook is broken" in caplog.text


async def test_authorize_that_raises(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)

    def broken(peer: Peer) -> bool:
        raise RuntimeError("the hook is broken")

    async with pair({}, {"authorize": broken}) as (a, b):
        with few_lines(caplog, "the authorize hook raised on", f"{B} refused"):
            for _ in range(CROWD // 2):
                with pytest.raises(HandshakeError):
                    await a.connect(B)
            await until(
                lambda: b.acceptors[0].stats.refused["NotAuthorized"] == CROWD // 2
            )
        assert "the hook is broken" in caplog.text


@pytest.mark.one_loop
@pytest.mark.parametrize("refuses", ["dialer", "acceptor"])
async def test_a_dialer_that_has_no_success(
    refuses: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    def refuse(peer: Peer) -> bool:
        return False

    first, second = ({}, {"authorize": refuse})
    if refuses == "dialer":
        first, second = second, first
    async with pair(first, second) as (a, b):
        with few_lines(caplog, a.name, b.name):
            for _ in range(CROWD // 2):
                with pytest.raises(HandshakeError):
                    await a.connect(B)
            stats = b.acceptors[0].stats
            await until(
                lambda: stats.failed.total() + stats.refused.total() == CROWD // 2
            )
        counts = a.dial_stats.refused if refuses == "dialer" else a.dial_stats.failed
        assert counts == {"NotAuthorized": CROWD // 2}
        # Time is what this is about.
        await asyncio.sleep(1.1)
        caplog.clear()
        with pytest.raises(HandshakeError):
            await a.connect(B)
        assert any("more like it before)" in text for text in caplog.messages)
