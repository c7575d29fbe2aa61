"""Pools that are replaced while nodes run (`live_trust=True`)."""

from __future__ import annotations

import asyncio

import pytest

from fastnode import (
    CertAuthManager,
    CertPool,
    ClientAuth,
    ConfigError,
    Link,
    Node,
    SettingsFrozenError,
    UnknownAuthority,
)
from helpers.nodes import A, B, forget, introduce, pair, running, until
from helpers.pki import authority, certificate, manager, pool

C = "gamma@127.0.0.1"
OLD, NEW = "test CA", "new CA"


def both() -> CertPool:
    return CertPool.from_pem(authority(OLD).cert_pem + authority(NEW).cert_pem)


def trust(made: CertAuthManager, name: str | None) -> None:
    """Trust one authority, or both, in both directions."""
    made.client_cas = both() if name is None else pool(name)
    made.root_cas = both() if name is None else pool(name)


def issuer(link: Link) -> str:
    assert link.peer.certificate is not None
    return link.peer.certificate.issuer.rfc4514_string()


async def dial(manager: CertAuthManager, to: Node) -> str:
    """The issuer that a fresh node with this manager sees at `to`."""
    async with running(C, manager=manager, listens=False) as node:
        introduce(node, to)
        return issuer(await node.connect(to.name))


async def test_guarantee_5_rolling_an_authority() -> None:
    managers = manager(A, live_trust=True), manager(B, live_trust=True)
    async with pair({"manager": managers[0]}, {"manager": managers[1]}) as (a, b):
        b.handler("e")(lambda m: m.payload)
        link = await a.connect(B)
        # Trust both.
        for made in managers:
            trust(made, None)
        assert await dial(manager(C), b) == f"CN={OLD}"
        # Move the leaves, one after the other.
        managers[1].update(certificate(B, NEW))
        with pytest.raises(UnknownAuthority):
            await dial(manager(C), b)
        moved = manager(C, shows=certificate(C, NEW), trusts=NEW)
        assert await dial(moved, b) == f"CN={NEW}"
        async with running(C, manager=moved) as c:
            introduce(a, c)
            with pytest.raises(UnknownAuthority):
                await a.connect(C)
            managers[0].update(certificate(A, NEW))
            assert issuer(await a.connect(C)) == f"CN={NEW}"
        # Drop the old one: what it signed gets in no more.
        for made in managers:
            trust(made, NEW)
        late = manager(C, trusts=NEW)
        with pytest.raises(UnknownAuthority):
            await dial(late, b)
        async with running(C, manager=late) as c:
            forget(a, C)
            introduce(a, c)
            with pytest.raises(UnknownAuthority):
                await a.connect(C)
        # The link was up all the time, and shows what it began with.
        assert not link.closed
        assert await link.call("e", b"on") == b"on"
        assert issuer(link) == f"CN={OLD}"
        # A new link between the two takes it all together.
        await link.close()
        await until(lambda: not b.links)
        assert issuer(await a.connect(B)) == f"CN={NEW}"


async def test_guarantee_5_live_trust_is_replaced_whole_or_not() -> None:
    made = manager(B, live_trust=True)
    async with running(B, manager=made) as b:
        before = made.client_cas, made.root_cas
        with pytest.raises(ConfigError, match="client_cas") as caught:
            made.client_cas = None
        assert "authority" in (caught.value.hint or "")
        for setting in ("client_cas", "root_cas"):
            with pytest.raises(ConfigError, match=setting):
                setattr(made, setting, CertPool())
            with pytest.raises(ConfigError, match=setting):
                setattr(made, setting, "ca.pem")
        with pytest.raises(ConfigError, match="root_cas"):
            made.replace_trust(pool(NEW), CertPool())
        assert (made.client_cas, made.root_cas) == before
        assert await dial(manager(C), b) == f"CN={OLD}"
        # What is assigned is fixed from then on, like what was there at the start.
        new = pool()
        made.client_cas = new
        with pytest.raises(SettingsFrozenError, match="live_trust"):
            new.add(authority(NEW).cert_pem)
        # None means the system's authorities here: a setting, not an absence.
        made.root_cas = None
        assert made.root_cas is None


async def test_guarantee_5_what_stays_fixed() -> None:
    made = manager(B, live_trust=True)
    async with running(B, manager=made):
        for setting, value in (
            ("client_auth", ClientAuth.NO_CLIENT_CERT),
            ("server_name", "beta.example"),
        ):
            with pytest.raises(SettingsFrozenError, match=setting) as caught:
                setattr(made, setting, value)
            assert "restart the node" in (caught.value.hint or "")
    fixed = manager(B)
    assert not fixed.live_trust
    async with running(B, manager=fixed):
        for setting in ("client_cas", "root_cas"):
            with pytest.raises(SettingsFrozenError, match=setting) as caught:
                setattr(fixed, setting, pool(NEW))
            assert "restart the node" in (caught.value.hint or "")
            assert "live_trust=True" in (caught.value.hint or "")


async def test_no_client_certificates_no_client_cas_needed() -> None:
    made = manager(B, live_trust=True, client_auth=ClientAuth.NO_CLIENT_CERT)
    async with running(B, manager=made) as b:
        made.client_cas = None
        assert await dial(manager(C), b) == f"CN={OLD}"


async def test_pools_replaced_under_connects() -> None:
    made = manager(B, live_trust=True)
    async with running(B, manager=made) as b, running(A) as a:
        introduce(a, b)
        done = False

        async def replace() -> int:
            turns = 0
            while not done:
                made.replace_trust(both(), both())
                made.client_cas = pool(OLD)
                turns += 1
                await asyncio.sleep(0)
            return turns

        replacing = asyncio.ensure_future(replace())
        for _ in range(15):
            await (await a.connect(B)).close()
            await until(lambda: not b.links)
        done = True
        assert await replacing > 15
