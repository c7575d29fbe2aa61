"""Nodes and the ends of the certificates that they show."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from fastnode import (
    AcceptorOptions,
    Certificate,
    CertificateError,
    NetworkOptions,
    Node,
    NodeOptions,
    Route,
    start_node,
)
from fastnode.node import maintenance
from helpers.nodes import A, B, running, start, until
from helpers.pki import expired_certificate, manager, odd_certificate

DAY = timedelta(days=1)


def ending(left: timedelta, lived: timedelta) -> Certificate:
    now = datetime.now(UTC)
    return odd_certificate(A, not_before=now - lived, not_after=now + left)


def records(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [
        record
        for record in caplog.records
        if record.name == "fastnode.certs" and record.levelno >= logging.WARNING
    ]


@pytest.mark.parametrize("place", ["node", "acceptor", "route"])
async def test_a_node_does_not_start_with_an_expired_certificate(place: str) -> None:
    over = manager(A, shows=expired_certificate(A))
    acceptors: list[AcceptorOptions] = [AcceptorOptions(port=0)]
    network: dict[str, Any] = {"acceptors": acceptors}
    if place == "acceptor":
        acceptors.append(AcceptorOptions(port=0, cert_manager=over))
    elif place == "route":
        network["routes"] = [Route("^beta@", "127.0.0.1", 1, cert_manager=over)]
    own = over if place == "node" else manager(A)
    options = NodeOptions(cert_manager=own, network=NetworkOptions(**network))
    node = Node(A, options)
    with pytest.raises(CertificateError, match=place) as caught:
        await node.start()
    yesterday = datetime.now(UTC) - DAY
    assert f"expired on {yesterday:%Y-%m-%d}, 1 day ago" in caught.value.message
    assert "CN=alpha@127.0.0.1" in caught.value.message
    assert caught.value.hint
    # Nothing was opened, and nothing is fixed: it may be mended and started.
    assert node.acceptors == ()
    assert not own.frozen
    over.update(odd_certificate(A))
    async with await node.start():
        assert node.acceptors
    with pytest.raises(CertificateError):
        await start_node(
            A, NodeOptions(cert_manager=manager(A, shows=expired_certificate(A)))
        )


async def test_a_route_with_an_expired_certificate_is_not_added() -> None:
    over = manager(A, shows=expired_certificate(A))
    async with running(A) as node:
        with pytest.raises(CertificateError, match="route '\\^b'"):
            node.add_route(Route("^b", "127.0.0.1", 1, cert_manager=over))
        assert node.routes(B) == ()
        assert not over.frozen


async def test_plaintext_has_no_certificates_to_expire() -> None:
    over = manager(A, shows=expired_certificate(A))
    async with await start(A, manager=over, plaintext=True, refuses_expired=True):
        pass


async def test_a_certificate_that_expires_later_is_told(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "TICK_SECONDS", 0.01)
    made = manager(A, shows=ending(30 * DAY, 60.5 * DAY))
    acceptors = manager(A, shows=ending(5 * DAY, 90 * DAY))
    routes = manager(A)
    with caplog.at_level(logging.WARNING):
        async with running(
            A,
            manager=made,
            acceptors=[
                AcceptorOptions(port=0),
                AcceptorOptions(port=0, cert_manager=acceptors),
            ],
        ) as node:
            # At the start, each once.
            texts = [record.getMessage() for record in records(caplog)]
            assert len(texts) == 2
            assert any("in 4 days" in text for text in texts)
            assert any("in 29 days" in text for text in texts)
            assert all(A in text and "renew it" in text for text in texts)
            # Later, by the tick: what came by update() or add_route().
            node.add_route(Route("^b", "127.0.0.1", 1, cert_manager=routes))
            routes.update(ending(3 * DAY, 90 * DAY))
            await until(lambda: len(records(caplog)) == 3)
            assert "in 2 days" in records(caplog)[-1].getMessage()
            routes._certificate = expired_certificate(A)
            await until(lambda: len(records(caplog)) == 4)
            assert records(caplog)[-1].levelno == logging.ERROR
            assert "expired on" in records(caplog)[-1].getMessage()
            made.update(odd_certificate(A))
            # Many ticks later, nothing was said twice.
            ticks = 0
            tick = node._maintenance._tick

            def count() -> None:
                nonlocal ticks
                ticks += 1
                tick()

            node._maintenance._tick = count  # type: ignore[method-assign]
            await until(lambda: ticks > 5)
            assert len(records(caplog)) == 4
