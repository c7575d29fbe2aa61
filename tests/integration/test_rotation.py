"""Certificates that change while nodes run (guarantee 5)."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta

import pytest

from fastnode import (
    CertificateError,
    HandshakeError,
    Link,
    Node,
    Peer,
    SettingsFrozenError,
)
from helpers.nodes import WAIT_SECONDS, A, B, introduce, pair, running, until
from helpers.pki import expired_certificate, manager, odd_certificate


def serial(link: Link) -> int:
    assert link.peer.certificate is not None
    return link.peer.certificate.serial_number


async def test_guarantee_5_update_is_for_the_next_handshake_in_and_out() -> None:
    managers = manager(A), manager(B)
    async with pair({"manager": managers[0]}, {"manager": managers[1]}) as (a, b):
        b.handler("e")(lambda m: m.payload)
        old = await a.connect(B)
        await until(lambda: b.links)
        seen_by_b = b.links[0]
        before = serial(old), serial(seen_by_b)
        new = odd_certificate(A), odd_certificate(B)
        for each, certificate in zip(managers, new, strict=True):
            each.update(certificate)
        # The link that is up keeps its own.
        assert await old.call("e", b"old") == b"old"
        assert (serial(old), serial(seen_by_b)) == before
        async with running("gamma@127.0.0.1") as c:
            # In: beta shows the new one.
            introduce(c, b)
            assert serial(await c.connect(B)) == new[1].serial_number
            # Out: alpha shows the new one.
            introduce(a, c)
            await a.connect("gamma@127.0.0.1")
            await until(lambda: len(c.links) == 2)
            seen = next(link for link in c.links if link.peer.name == A)
            assert serial(seen) == new[0].serial_number
        assert not old.closed


async def test_guarantee_5_a_bad_update_changes_nothing() -> None:
    made = manager(B)
    assert made.certificate is not None
    shown = made.certificate.serial_number
    async with pair(second={"manager": made}) as (a, _b):
        with pytest.raises(CertificateError):
            made.update(expired_certificate(B))
        assert serial(await a.connect(B)) == shown


@pytest.mark.parametrize(
    "setting", ["client_cas", "client_auth", "root_cas", "server_name"]
)
async def test_guarantee_5_a_started_node_fixes_its_trust(setting: str) -> None:
    made = manager(B)
    async with running(B, manager=made):
        with pytest.raises(SettingsFrozenError, match=setting):
            setattr(made, setting, getattr(made, setting))


CONNECTS_PER_SECOND = 200
UPDATE_SECONDS = 0.010
CONNECTS = 250
DIALERS = 4


class Rotation:
    """A manager that is given one new certificate after the other."""

    def __init__(self, name: str) -> None:
        self.manager = manager(name)
        self._certificates = [odd_certificate(name) for _ in range(50)]
        self._order = {c.serial_number: n for n, c in enumerate(self._certificates)}
        self.current = 0
        self.manager.update(self._certificates[0])

    def turn(self) -> None:
        """The next certificate, which comes round again after the last one."""
        count = len(self._certificates)
        self.manager.update(self._certificates[(self.current + 1) % count])
        self.current += 1

    def check(self, number: int, first: int, last: int) -> int:
        """Which turn a serial number is of; one from `first` to `last`."""
        count = len(self._certificates)
        turn = first + (self._order[number] - first) % count
        assert first <= turn <= last, "a certificate of another time"
        return turn


async def test_updates_under_connects() -> None:
    """Every handshake has one whole pair, current between the dial and the link, on
    both sides, at 200 connections a second and 100 updates a second."""
    inside, outside = Rotation(B), Rotation(A)
    shown_to_b: dict[str, int] = {}

    def remember(peer: Peer) -> bool:
        assert peer.certificate is not None
        shown_to_b[peer.name] = peer.certificate.serial_number
        return True

    loop = asyncio.get_running_loop()
    began = loop.time()
    slots = iter(range(CONNECTS))

    async def rotate() -> None:
        while True:
            inside.turn()
            outside.turn()
            await asyncio.sleep(UPDATE_SECONDS)

    async def dial(node: Node, b: Node) -> set[int]:
        seen = set()
        before = [0, 0]
        for slot in slots:
            # The pace of the load; nothing waits for it.
            due = began + slot / CONNECTS_PER_SECOND
            await asyncio.sleep(max(due - loop.time(), 0))
            first = inside.current, outside.current
            link = await node.connect(B)
            last = inside.current, outside.current
            turns = [
                inside.check(serial(link), first[0], last[0]),
                outside.check(shown_to_b[node.name], first[1], last[1]),
            ]
            assert turns[0] >= before[0]
            assert turns[1] >= before[1]
            before = turns
            seen.add(turns[0])
            await link.close()
            await until(lambda: all(x.peer.name != node.name for x in b.links))
        return seen

    async with AsyncExitStack() as stack:
        b = await stack.enter_async_context(
            running(B, manager=inside.manager, authorize=remember)
        )
        nodes = [
            await stack.enter_async_context(
                running(f"d{n}@127.0.0.1", manager=outside.manager, listens=False)
            )
            for n in range(DIALERS)
        ]
        for node in nodes:
            introduce(node, b)
        rotating = asyncio.ensure_future(rotate())
        try:
            # Longer than it takes on a machine that is busy with other things.
            async with asyncio.timeout(WAIT_SECONDS):
                seen = await asyncio.gather(*(dial(node, b) for node in nodes))
        finally:
            rotating.cancel()
        assert len(set().union(*seen)) > 10
        assert sum(b.acceptors[0].stats.failed.values()) == 0
        assert sum(b.acceptors[0].stats.refused.values()) == 0


async def test_a_certificate_that_is_not_valid_yet_is_taken_and_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = manager(B)
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    early = odd_certificate(B, not_before=tomorrow)
    with caplog.at_level(logging.WARNING):
        made.update(early)
    assert made.certificate == early
    assert "not valid before" in caplog.text
    async with pair(second={"manager": made}) as (a, _b):
        with pytest.raises(HandshakeError):
            await a.connect(B)
