"""`node.stats`: every field has the value that is known, and no total goes back."""

from __future__ import annotations

import asyncio
import dataclasses
import random
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fastnode import (
    Busy,
    CallError,
    CallTimeout,
    CertAuthManager,
    Certificate,
    CertificateError,
    Distribution,
    EndpointStats,
    FastnodeError,
    Message,
    Node,
    NodeStats,
    NoRoute,
    NoSuchEndpoint,
    RemoteError,
    Route,
)
from fastnode.limits import MAX_COUNTED_ENDPOINTS
from fastnode.names import NodeName
from fastnode.node.stats import is_total
from helpers.nodes import A, B, introduce, pair, refusing, running, until
from helpers.pki import (
    authority,
    certificate,
    expired_certificate,
    manager,
    odd_certificate,
    pool,
)

PLAIN = {"plaintext": True}
NO_TIMES = Distribution()


def ending_in(days: float) -> Certificate:
    """A certificate for alpha that is valid for so many days from now on."""
    return odd_certificate(A, not_after=datetime.now(UTC) + timedelta(days=days))


class Gate:
    """A handler that waits until it is opened."""

    def __init__(self) -> None:
        self.begun = 0
        self.opened = asyncio.Event()

    async def __call__(self, message: Message) -> bytes:
        self.begun += 1
        await self.opened.wait()
        return message.payload


# --- links, dials and handshakes ------------------------------------------------------


async def test_links_by_state_and_handshakes() -> None:
    async with pair(PLAIN, PLAIN) as (a, b):
        assert a.stats.links["up"] == 0
        await a.connect(B)
        await until(lambda: b.links)
        ours, theirs = a.stats, b.stats
        assert set(ours.links) == {
            *("tls", "hello", "deciding", "accepted"),
            *("up", "retiring", "closing", "closed"),
        }
        assert ours.links["up"] == theirs.links["up"] == 1
        assert sum(ours.links.values()) == 1
        assert (ours.links_dialed, ours.links_accepted) == (1, 0)
        assert (theirs.links_dialed, theirs.links_accepted) == (0, 1)
        assert (ours.connections_accepted, theirs.connections_accepted) == (0, 1)
        for stats in (ours, theirs):
            assert stats.handshake_seconds.count == 1
            assert stats.handshake_seconds.p50 == stats.handshake_seconds.p999
            assert stats.handshake_seconds.seconds > 0
        gate = Gate()
        b.handler("gate")(gate)
        call = asyncio.ensure_future(a.call(B, "gate", b""))
        await until(lambda: gate.begun)
        renewal = asyncio.ensure_future(a.reconnect(B))
        await until(lambda: a.stats.links["retiring"] == 1)
        assert a.stats.links["up"] == 1
        gate.opened.set()
        await call
        await renewal
        assert a.stats.links_dialed == 2
        assert a.stats.handshake_seconds.count == 2


async def test_dials_and_refusals_by_reason_and_side() -> None:
    stranger = manager("eve@127.0.0.1", trusts="another CA")
    async with pair(second={"manager": manager(B)}) as (a, b):
        async with running("eve@127.0.0.1", manager=stranger) as eve:
            introduce(eve, b)
            with pytest.raises(FastnodeError):
                await eve.connect(B)
            # Each side has the reason: eve does not trust the authority of beta.
            assert eve.stats.dials_refused == {"UnknownAuthority": 1}
            assert eve.stats.dials_failed == {}
            await until(lambda: b.stats.accepts_failed == {"UnknownAuthority": 1})
            assert b.stats.accepts_refused == {}
        with refusing() as (host, port):
            a.add_route(Route("^nobody@", host, port))
            with pytest.raises(NoRoute):
                await a.connect("nobody@127.0.0.1")
        assert a.stats.dials_unreached == {"ConnectionRefusedError": 1}
        trusting = CertAuthManager(
            certificate("mallory@127.0.0.1", ca="another CA"), root_cas=pool()
        )
        async with running("mallory@127.0.0.1", manager=trusting) as mallory:
            introduce(mallory, b)
            with pytest.raises(FastnodeError):
                await mallory.connect(B)
            assert mallory.stats.dials_failed == {"UnknownAuthority": 1}
            assert mallory.stats.dials_refused == {}
            assert b.stats.accepts_refused == {"UnknownAuthority": 1}


# --- messages and calls ---------------------------------------------------------------


async def test_messages_calls_and_bytes() -> None:
    async with pair(PLAIN, PLAIN) as (a, b):
        b.handler("plain")(lambda m: m.payload)
        link = await a.connect(B)
        for _ in range(130):
            link.send("plain", b"x" * 100)
        for _ in range(3):
            await link.call("plain", b"y")
        await link.send_confirmed("plain", b"z")
        ours, theirs = a.stats, b.stats
        assert (ours.messages_sent, theirs.messages_received) == (131, 131)
        assert (ours.calls_sent, theirs.calls_received) == (3, 3)
        assert (ours.messages_received, theirs.calls_sent) == (0, 0)
        assert ours.bytes_sent == theirs.bytes_received > 13_000
        assert theirs.bytes_sent == ours.bytes_received > 0
        assert ours.call_seconds.count == 4
        assert ours.call_errors == theirs.reply_errors == {}
        endpoint = theirs.endpoints["plain"]
        assert (endpoint.messages, endpoint.calls) == (131, 3)
        # The first, the 65th and the 129th.
        assert endpoint.seconds.count == 3
        assert theirs.endpoints["other"] == EndpointStats()


async def test_every_asynchronous_handler_is_timed() -> None:
    async with pair(PLAIN, PLAIN) as (a, b):

        @b.handler("slow")
        async def slow(message: Message) -> None:
            await asyncio.sleep(0.002)

        @b.handler("later")
        def later(message: Message) -> Any:
            return asyncio.sleep(0.002)

        @b.handler("batch", batch=True)
        def batch(messages: list[Message]) -> None:
            pass

        link = await a.connect(B)
        for _ in range(5):
            await link.call("slow", b"")
            await link.call("later", b"")
            await link.send_confirmed("batch", b"")
        found = b.stats.endpoints
        for name in ("slow", "later"):
            assert found[name].seconds.count == 5
            assert found[name].seconds.seconds > 5 * 0.001
        assert found["batch"].messages == 5
        assert found["batch"].seconds.count == 1


async def test_errors_by_code_and_side() -> None:
    async with pair(PLAIN, PLAIN) as (a, b):

        @b.handler("raises")
        def raises(message: Message) -> None:
            raise ValueError("no")

        @b.handler("chooses")
        def chooses(message: Message) -> None:
            raise CallError("not_found", "no such order")

        link = await a.connect(B)
        for endpoint, error in (
            ("raises", RemoteError),
            ("chooses", RemoteError),
            ("chooses", RemoteError),
            ("nobody", NoSuchEndpoint),
        ):
            with pytest.raises(error):
                await link.call(endpoint, b"")
        codes = {"internal": 1, "not_found": 2, "unimplemented": 1}
        assert a.stats.call_errors == b.stats.reply_errors == codes
        assert a.stats.call_seconds == NO_TIMES
        assert b.stats.handler_errors == 1
        assert b.stats.endpoints["raises"].errors == 1
        assert b.stats.endpoints["chooses"].errors == 0
        link.send("nobody", b"")
        await until(lambda: a.stats.messages_dropped_by_peer == 1)
        assert b.stats.unhandled_messages == 1


async def test_calls_under_way_waiting_and_refused() -> None:
    async with pair(PLAIN, PLAIN) as (a, b):
        gate = Gate()
        b.handler("gate", concurrency=1, max_waiting=1)(gate)
        link = await a.connect(B)
        calls = [asyncio.ensure_future(link.call("gate", b"")) for _ in range(2)]
        await until(lambda: b.stats.endpoints["gate"].waiting == 1)
        with pytest.raises(Busy):
            await link.call("gate", b"")
        ours, theirs = a.stats, b.stats
        assert ours.calls_under_way == 2
        assert theirs.calls_unanswered == 2
        assert theirs.handlers_running == theirs.endpoints["gate"].running == 1
        assert theirs.calls_refused == theirs.endpoints["gate"].calls_refused == 1
        assert ours.call_errors == theirs.reply_errors == {"resource_exhausted": 1}
        gate.opened.set()
        await asyncio.gather(*calls)
        ours, theirs = a.stats, b.stats
        assert (ours.calls_under_way, theirs.calls_unanswered) == (0, 0)
        assert theirs.handlers_running == theirs.endpoints["gate"].waiting == 0
        assert theirs.endpoints["gate"].calls == 2


async def test_deadlines_that_were_missed() -> None:
    async with pair(PLAIN, PLAIN) as (a, b):
        gate = Gate()
        b.handler("gate", concurrency=1)(gate)
        link = await a.connect(B)
        first = asyncio.ensure_future(link.call("gate", b""))
        await until(lambda: gate.begun)
        with pytest.raises(CallTimeout):
            # It waits for the first one, and does not begin.
            await link.call("gate", b"", timeout=0.05)
        assert a.stats.calls_timed_out == 1
        assert a.stats.call_errors == {"deadline_exceeded": 1}
        await until(lambda: a.stats.calls_expired_at_peer == 1)
        assert b.stats.calls_expired == 1
        assert b.stats.endpoints["gate"].calls_expired == 1
        assert b.stats.reply_errors == {"deadline_exceeded": 1}
        gate.opened.set()
        await first


async def test_queued_bytes_and_windows_at_their_limit() -> None:
    small = {**PLAIN, "window": 128 << 10, "max_window": 128 << 10}
    async with pair(small, small) as (a, b):
        gate = Gate()
        b.handler("gate")(gate)
        link = await a.connect(B)
        before = a.stats
        assert (before.queued_bytes, before.links_without_credit) == (0, 0)
        # In one turn of the loop, so nothing can be granted meanwhile.
        for _ in range(256):
            link.send("gate", bytes(4096))
        stats = a.stats
        assert stats.queued_bytes == a.queued_bytes >= 896 << 10
        assert stats.links_without_credit == 1
        await until(lambda: b.stats.windows_filled)
        gate.opened.set()
        await until(lambda: gate.begun == 256)
        await until(lambda: b.stats.endpoints["gate"].running == 0)
        await until(lambda: b.stats.windows_full == 0)
        assert (a.stats.queued_bytes, a.stats.links_without_credit) == (0, 0)


async def test_lag_of_the_loop() -> None:
    async with running(A, **PLAIN) as node:
        assert node.stats.loop_lag_seconds.count == 0
        await until(lambda: node.stats.loop_lag_seconds.count)
        before = node.stats.loop_lag_seconds
        time.sleep(0.6)  # noqa: ASYNC251 -- this blocks the loop on purpose
        assert node.stats.loop_late_seconds > 0.3
        await until(lambda: node.stats.loop_lag_seconds.count > before.count)
        after = node.stats.loop_lag_seconds
        assert after.seconds - before.seconds > 0.3
        assert after.p999 is not None
        assert after.p999 > 0.3
    assert node.stats.loop_late_seconds == 0.0


# --- endpoints ------------------------------------------------------------------------


async def test_endpoints_beyond_the_bound_are_one_entry() -> None:
    async with pair(PLAIN, PLAIN) as (a, b):
        names = [f"e{number}" for number in range(MAX_COUNTED_ENDPOINTS + 2)]
        for name in names:
            b.handler(name)(lambda m: m.payload)
        b.default_handler(lambda m: m.payload)
        link = await a.connect(B)
        for name in [*names, "made up", "made up too"]:
            await link.call(name, b"")
        found = b.stats.endpoints
        assert list(found) == [*names[:MAX_COUNTED_ENDPOINTS], "other"]
        assert all(each.calls == 1 for each in list(found.values())[:-1])
        assert found["other"].calls == 4


async def test_an_endpoint_that_is_called_other() -> None:
    async with pair(PLAIN, PLAIN) as (a, b):
        b.handler("other")(lambda m: m.payload)
        b.default_handler(lambda m: m.payload)
        for name in ("other", "made up"):
            await a.call(B, name, b"")
        assert {name: each.calls for name, each in b.stats.endpoints.items()} == {
            "other": 2
        }


# --- certificates ---------------------------------------------------------------------


async def test_rotations_and_what_is_left() -> None:
    made = manager(A)
    assert made.certificate is not None
    # Before the node uses it.
    made.update(ending_in(30))
    async with running(A, manager=made) as node:
        assert (node.stats.rotations, node.stats.failed_rotations) == (0, 0)
        left = node.stats.certificate_seconds_left
        assert left is not None
        assert 29 * 86400 < left <= 30 * 86400
        made.update(ending_in(3))
        with pytest.raises(CertificateError):
            made.update(expired_certificate(A))
        stats = node.stats
        assert (stats.rotations, stats.failed_rotations) == (1, 1)
        left = stats.certificate_seconds_left
        assert left is not None
        assert 2 * 86400 < left <= 3 * 86400
        ends = pool().expires_at
        assert ends is not None
        assert stats.authority_seconds_left == pytest.approx(
            ends.timestamp() - time.time(), abs=60
        )
        # What the manager of a route counted stays when the route is gone.
        other = manager(A)
        node.add_route(Route("^x@", "127.0.0.1", 1, cert_manager=other))
        other.update(certificate(A))
        node.remove_route("^x@")
        assert node.stats.rotations == 2
        other.update(certificate(A))
        assert node.stats.rotations == 2


async def test_files_that_are_not_taken_are_failed_rotations(tmp_path: Path) -> None:
    files = tmp_path / "cert.pem", tmp_path / "key.pem"
    authority().issue(NodeName.parse(A)).save(*files)
    made = manager(A)
    with made.watch(*files, interval=0.01):
        async with running(A, manager=made) as node:
            files[0].write_text("no certificate")
            await until(lambda: node.stats.failed_rotations == 1)
            assert node.stats.rotations == 0
            authority().issue(NodeName.parse(A)).replace(*files)
            await until(lambda: node.stats.rotations == 1)


async def test_without_tls_nothing_expires() -> None:
    async with running(A, **PLAIN) as node:
        stats = node.stats
        assert stats.certificate_seconds_left is None
        assert stats.authority_seconds_left is None


# --- over the life of links -----------------------------------------------------------


def gone_back(before: Any, after: Any, where: str = "") -> list[str]:
    """The totals that are less than they were."""
    found = []
    for each in dataclasses.fields(before):
        if not is_total(type(before), each.name):
            continue
        old, new = getattr(before, each.name), getattr(after, each.name)
        name = f"{where}{each.name}"
        if isinstance(old, Distribution):
            kept = dict(new.buckets)
            if new.seconds < old.seconds or any(
                kept.get(bound, 0) < count for bound, count in old.buckets
            ):
                found.append(name)
        elif isinstance(old, Mapping):
            for key, value in old.items():
                if isinstance(value, EndpointStats):
                    found += gone_back(value, new[key], f"{name}[{key}].")
                elif new.get(key, 0) < value:
                    found.append(f"{name}[{key}]")
        elif new < old:
            found.append(name)
    return found


async def lose(node: Node, other: Node) -> None:
    """Cut the link between two nodes."""
    for protocol in list(node._links):
        protocol.abort()
    await until(lambda: not node.links and not other.links)


async def handle(message: Message) -> bytes:
    await asyncio.sleep(0)
    return message.payload


class Life:
    """Things that happen between two nodes, in either direction."""

    def __init__(self, rand: random.Random, *nodes: Node) -> None:
        self.rand = rand
        self.nodes = nodes
        self.sent = dict.fromkeys(nodes, 0)
        self.last = {node: node.stats for node in nodes}

    def look(self) -> None:
        for node in self.nodes:
            stats = node.stats
            assert not gone_back(self.last[node], stats)
            self.last[node] = stats

    async def send(self, node: Node, other: Node) -> None:
        for _ in range(self.rand.randint(1, 100)):
            await node.send(other.name, self.rand.choice(("plain", "async")), b"x")
            self.sent[node] += 1

    async def call(self, node: Node, other: Node) -> None:
        await node.call(other.name, self.rand.choice(("plain", "async")), b"x")

    async def renew(self, node: Node, other: Node) -> None:
        await node.reconnect(other.name)

    async def lose(self, node: Node, other: Node) -> None:
        call = asyncio.ensure_future(node.call(other.name, "async", b""))
        await asyncio.sleep(0)
        await lose(node, other)
        await asyncio.gather(call, return_exceptions=True)

    async def close(self, node: Node, other: Node) -> None:
        for link in node.links:
            await link.close()


@pytest.mark.parametrize("seed", range(3))
async def test_no_total_goes_back(seed: int) -> None:
    """Links are renewed, lost and closed in any order, with traffic both ways."""
    async with pair(PLAIN, PLAIN) as (a, b):
        for node in (a, b):
            node.handler("plain")(lambda m: m.payload)
            node.handler("async")(handle)
        life = Life(random.Random(seed), a, b)
        for _ in range(40):
            steps = (life.send, life.call, life.renew, life.lose, life.close)
            await life.rand.choice(steps)(*life.rand.sample((a, b), 2))
            life.look()
        assert {node: node.stats.messages_sent for node in (a, b)} == life.sent
        await a.call(B, "plain", b"")
    life.look()
    assert sum(life.last[a].links.values()) == 0
    # A link that was cut at once may not have come up on the other side.
    assert life.last[a].links_dialed >= life.last[b].links_accepted
    assert life.last[b].links_dialed >= life.last[a].links_accepted


async def test_totals_outlive_links() -> None:
    """What `link.stats` forgets at a renewal."""
    async with pair(PLAIN, PLAIN) as (a, b):
        b.handler("e")(lambda m: m.payload)
        for round_ in range(1, 4):
            link = await a.connect(B)
            await link.call("e", b"")
            assert link.stats.calls_sent == 1
            assert a.stats.calls_sent == b.stats.calls_received == round_
            if round_ == 1:
                await a.reconnect(B)
            elif round_ == 2:
                await lose(a, b)


# --- this file ------------------------------------------------------------------------


def test_every_field_is_tested_here() -> None:
    text = Path(__file__).read_text()
    for of in (NodeStats, EndpointStats):
        for each in dataclasses.fields(of):
            assert re.search(rf"\.{each.name}\b", text), each.name
