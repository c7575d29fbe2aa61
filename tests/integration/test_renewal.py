"""Links that a node renews by itself: after an update of a certificate, and by age."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from functools import partial
from itertools import pairwise
from typing import Any

import pytest

from fastnode import (
    AcceptorOptions,
    ConfigError,
    HandshakeError,
    Link,
    Message,
    Node,
    NodeOptions,
    Peer,
    Route,
    limits,
)
from fastnode.backoff import Backoff
from fastnode.node import renewal
from helpers.nodes import WAIT_SECONDS, A, B, introduce, pair, running, until
from helpers.pki import manager, odd_certificate
from integration.test_succession import Traffic, linked, serial

RENEWS = {"node_options": {"renew_links": "reconnect"}}


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Links are renewed within milliseconds, and failed attempts are repeated so."""
    monkeypatch.setattr(renewal, "RENEWAL_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(renewal, "Backoff", lambda: Backoff(first=0.01, most=0.02))


def shows(links: tuple[Link, ...], number: int) -> bool:
    """Whether there is one link, on which the peer shows this certificate."""
    return len(links) == 1 and serial(links[0]) == number


# --- after an update ----------------------------------------------------------------


@pytest.mark.parametrize("rotated", [A, B])
async def test_a_link_is_renewed_after_an_update(rotated: str) -> None:
    """Alpha has dialed the link, beta has accepted it."""
    made = {A: manager(A), B: manager(B)}
    async with linked(
        {"manager": made[A], **RENEWS}, {"manager": made[B], **RENEWS}
    ) as (a, b):
        downs: list[Link] = []
        for node in (a, b):
            node.on_link_down(lambda link, _: downs.append(link))
        owner, other = (a, b) if rotated == A else (b, a)
        async with Traffic(a, b).flowing():
            for turn in range(3):
                new = odd_certificate(rotated)
                made[rotated].update(new)
                number = new.serial_number
                await until(partial(lambda n: shows(other.links, n), number))
                await until(lambda: owner.renewal_stats.renewed >= turn + 1)  # noqa: B023
                assert owner.renewal_stats.renewed == turn + 1
        assert other.renewal_stats.renewed == 0
        assert owner.renewal_stats.failed == 0
        # For callbacks it is the same link.
        assert downs == []


async def test_both_sides_at_once() -> None:
    made = manager(A), manager(B)
    async with linked(
        {"manager": made[0], **RENEWS}, {"manager": made[1], **RENEWS}
    ) as (a, b):
        new = odd_certificate(A), odd_certificate(B)
        async with Traffic(a, b).flowing():
            for each, certificate in zip(made, new, strict=True):
                each.update(certificate)
            await until(
                lambda: (
                    shows(a.links, new[1].serial_number)
                    and shows(b.links, new[0].serial_number)
                )
            )


async def test_by_default_links_keep_their_certificate() -> None:
    made = manager(B)
    async with linked(second={"manager": made}) as (a, b):
        link = a.links[0]
        made.update(odd_certificate(B))
        for _ in range(20):
            await asyncio.sleep(0)
        assert a.links == (link,)
        assert b.renewal_stats.renewed == 0
        assert b._context.renewal is None


async def test_managers_of_routes_and_acceptors() -> None:
    """Each link follows the manager that made it."""
    other, plain = manager(A), manager(A)
    async with AsyncExitStack() as stack:
        b = await stack.enter_async_context(running(B))
        c = await stack.enter_async_context(running("gamma@127.0.0.1"))
        mine = AcceptorOptions(port=0, cert_manager=other)
        a = await stack.enter_async_context(
            running(A, manager=plain, acceptors=[mine], **RENEWS)
        )
        a.add_route(Route(f"^{B}$", *b.acceptors[0].address, cert_manager=other))
        introduce(a, c)
        introduce(c, a)
        await a.connect(B)
        await a.connect("gamma@127.0.0.1")
        d = await stack.enter_async_context(running("delta@127.0.0.1"))
        introduce(d, a)
        await d.connect(A)
        await until(lambda: len(a.links) == 3)
        before = serial(c.links[0])
        new = odd_certificate(A)
        other.update(new)
        await until(lambda: shows(b.links, new.serial_number))
        await until(lambda: shows(d.links, new.serial_number))
        assert shows(c.links, before)
        await until(lambda: a.renewal_stats.renewed >= 2)
        assert a.renewal_stats.renewed == 2


async def test_an_update_during_a_handshake() -> None:
    """The link comes up with the old certificate, and is renewed then."""
    made = manager(A)
    new = odd_certificate(A)

    async def late(peer: Peer) -> bool:
        if made.certificate != new:
            made.update(new)
        return True

    options = {"manager": made, "authorize": late, **RENEWS}
    async with pair(options) as (a, b):
        await a.connect(B)
        await until(lambda: shows(b.links, new.serial_number))


async def test_many_links_one_by_one() -> None:
    made = manager(A)
    names = [f"n{number}@127.0.0.1" for number in range(6)]
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(running(A, manager=made, **RENEWS))
        others: list[Node] = []
        at_once = most = 0

        async def counted(peer: Peer) -> bool:
            nonlocal at_once, most
            at_once += 1
            most = max(most, at_once)
            await asyncio.sleep(0.002)
            at_once -= 1
            return True

        for name in names:
            others.append(
                await stack.enter_async_context(running(name, authorize=counted))
            )
            introduce(a, others[-1])
            await a.connect(name)
        most = 0
        new = odd_certificate(A)
        made.update(new)
        await until(lambda: all(shows(o.links, new.serial_number) for o in others))
        assert most == 1
        # The peer may see its new link before the node has counted it.
        await until(lambda: a.renewal_stats.renewed >= len(names))
        assert a.renewal_stats.renewed == len(names)


async def test_a_call_under_way_holds_up_no_other_renewal() -> None:
    made = manager(A)
    async with linked({"manager": made, **RENEWS}) as (a, b):
        begun, gate = asyncio.Event(), asyncio.Event()

        @b.handler("slow")
        async def slow(message: Message) -> bytes:
            begun.set()
            await gate.wait()
            return b"done"

        old = a.links[0]
        call = asyncio.ensure_future(old.call("slow", b"", timeout=WAIT_SECONDS))
        await until(begun.is_set)
        async with running("gamma@127.0.0.1") as c:
            introduce(a, c)
            await a.connect("gamma@127.0.0.1")
            new = odd_certificate(A)
            made.update(new)
            await until(lambda: shows(c.links, new.serial_number))
            await until(lambda: a.renewal_stats.renewed == 2)
            assert not call.done()
            gate.set()
            assert await call == b"done"


async def test_a_refused_renewal_is_repeated(
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = manager(A)
    refuses = False

    def choosy(peer: Peer) -> bool:
        return not refuses

    async with linked({"manager": made, **RENEWS}, {"authorize": choosy}) as (a, b):
        refuses = True
        old = a.links[0]
        new = odd_certificate(A)
        made.update(new)
        await until(lambda: a.renewal_stats.failed >= 3)
        assert a.links == (old,)
        assert a.renewal_stats.renewed == 0
        lines = [
            r for r in caplog.records if vars(r).get("event") == "link_not_renewed"
        ]
        assert [r.levelno for r in lines] == [logging.WARNING]
        assert vars(lines[0])["reason"] == "NotAuthorized"
        refuses = False
        await until(lambda: shows(b.links, new.serial_number))


async def test_a_refused_dial_of_the_peer_is_repeated() -> None:
    """Beta has accepted the link, so alpha dials, and beta's certificate is new."""
    made = manager(B)
    refuses = False

    def choosy(peer: Peer) -> bool:
        return not refuses

    async with linked({"authorize": choosy}, {"manager": made, **RENEWS}) as (a, b):
        refuses = True
        new = odd_certificate(B)
        made.update(new)
        await until(lambda: b.renewal_stats.failed >= 2)
        refuses = False
        await until(lambda: shows(a.links, new.serial_number))


async def test_a_peer_that_cannot_hand_links_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As a peer of an older version: its link stays, and is not tried again."""
    made = manager(A)
    async with linked({"manager": made, **RENEWS}) as (a, b):

        async def cannot(old: Any) -> Any:
            raise HandshakeError("cannot hand a link over")

        monkeypatch.setattr(renewal.Followed, "can_be_replaced", False)
        assert a._context.renewal is not None
        monkeypatch.setattr(a._context.renewal, "_renew", cannot)
        made.update(odd_certificate(A))
        await until(lambda: a.renewal_stats.failed)
        (followed,) = a._context.renewal._links.values()
        assert followed.timer is None
        assert len(b.links) == 1


async def test_a_lost_link_needs_nothing() -> None:
    made = manager(A)
    async with linked({"manager": made, **RENEWS}) as (a, b):
        made.update(odd_certificate(A))
        await b.links[0].close()
        await until(lambda: not a.links)
        await a.connect(B)
        renewals = a._context.renewal
        assert renewals is not None
        await until(lambda: len(renewals._links) == 1)
        assert a.renewal_stats.failed == 0
    assert not made._certificate_watchers


async def test_a_node_that_stops_renews_nothing() -> None:
    made = manager(A)
    async with linked({"manager": made, **RENEWS}) as (a, _):
        asked = asyncio.Event()

        async def slow(peer: Peer) -> bool:
            asked.set()
            await asyncio.sleep(WAIT_SECONDS)
            return True

        object.__setattr__(a._context.admission, "authorize", slow)
        made.update(odd_certificate(A))
        await asyncio.wait_for(asked.wait(), WAIT_SECONDS)
        async with asyncio.timeout(WAIT_SECONDS):
            await a.stop(timeout=1.0)
        assert not made._certificate_watchers
        made.update(odd_certificate(A))


# --- by age --------------------------------------------------------------------------


@pytest.mark.parametrize("side", [A, B])
async def test_links_do_not_become_older_than_they_may(side: str) -> None:
    aging = {"node_options": {"max_link_age": 0.3}}
    first, second = (aging, {}) if side == A else ({}, aging)
    async with linked(first, second) as (a, b):
        loop = asyncio.get_running_loop()
        seen: dict[Link, float] = {}
        async with Traffic(a, b).flowing():
            while len(seen) < 4:
                for link in a.links:
                    seen.setdefault(link, loop.time())
                await asyncio.sleep(0.005)
        owner = a if side == A else b
        assert owner.renewal_stats.renewed >= 3
        assert owner.renewal_stats.failed == 0
        times = sorted(seen.values())
        # Not sooner than they have to.
        least = 0.3 * limits.RENEWAL_AGE_LEAST - 0.1
        assert all(later - one >= least for one, later in pairwise(times))


async def test_plaintext_links_have_an_age_too() -> None:
    options = {
        "plaintext": True,
        "node_options": {"max_link_age": 0.05, "renew_links": "reconnect"},
    }
    async with linked(options, {"plaintext": True}) as (a, _):
        first = a.links[0]
        await until(lambda: a.renewal_stats.renewed >= 2)
        assert first.closed


# --- options --------------------------------------------------------------------------


@pytest.mark.parametrize("age", [0, -1, float("nan"), float("inf"), "1", True])
def test_bad_ages(age: Any) -> None:
    with pytest.raises(ConfigError, match="max_link_age"):
        NodeOptions(max_link_age=age)


@pytest.mark.parametrize("value", ["close", None, True, ["keep"]])
def test_bad_renew_links(value: Any) -> None:
    with pytest.raises(ConfigError, match="renew_links") as caught:
        NodeOptions(renew_links=value)
    assert "reconnect" in (caught.value.hint or "")
