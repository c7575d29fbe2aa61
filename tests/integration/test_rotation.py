"""Certificates that change while nodes run (guarantee 5)."""

from __future__ import annotations

import asyncio

import pytest

from fastnode import CertificateError, Link, SettingsFrozenError
from helpers.nodes import A, B, introduce, pair, running, until
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


async def test_updates_under_connects() -> None:
    made = manager(B)
    certificates = [odd_certificate(B) for _ in range(4)]
    good = {c.serial_number for c in certificates}
    made.update(certificates[0])
    async with pair(second={"manager": made}) as (a, b):
        done = False

        async def rotate() -> int:
            turns = 0
            while not done:
                made.update(certificates[turns % 4])
                turns += 1
                await asyncio.sleep(0)
            return turns

        rotating = asyncio.ensure_future(rotate())
        seen = set()
        for _ in range(30):
            link = await a.connect(B)
            seen.add(serial(link))
            await link.close()
            await until(lambda: not b.links)
        done = True
        assert await rotating > 30
        assert seen <= good
        assert len(seen) > 1
