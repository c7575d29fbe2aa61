"""EtcdDiscovery with a real etcd that is killed, restarted, cut off and compacted."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from fastnode import CertAuthManager, ConfigError
from fastnode.discovery import (
    AnnouncingDiscovery,
    DiscoveryError,
    EtcdDiscovery,
    Target,
    etcd,
    kit,
)
from fastnode.discovery.entry import entry_of
from fastnode.discovery.etcd_gateway import EtcdGateway
from fastnode.discovery.kit import FakeNode
from fastnode.discovery.watch import Watch
from fastnode.names import NodeName
from helpers.announcer import announcer
from helpers.etcd_server import EtcdServer, make_cluster, needs_etcd
from helpers.nodes import WAIT_SECONDS, until
from helpers.pki import authority, certificate, pool

pytestmark = [needs_etcd, pytest.mark.long]

ONE, TWO = Target("127.0.0.1", 15001), Target("127.0.0.1", 15002)
#: An endpoint that nobody serves.
NOBODY = "http://127.0.0.1:1"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    """A server that no test stops."""
    with make_cluster(tmp_path_factory.mktemp("etcd")) as [server]:
        yield server


@pytest.fixture
def own(tmp_path: Path) -> Iterator[EtcdServer]:
    """A server that the test may stop."""
    with make_cluster(tmp_path) as [server]:
        yield server


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence is looked into soon, and a watch tries again soon."""
    monkeypatch.setattr(etcd, "SILENCE_SECONDS", 0.2)
    monkeypatch.setattr(etcd, "MOST_PAUSE_SECONDS", 0.2)
    monkeypatch.setattr(etcd, "RETRY_SECONDS", 0.1)
    monkeypatch.setattr(etcd, "LEAVE_SECONDS", 0.5)


def discovery_of(*servers: EtcdServer | str, **options: Any) -> EtcdDiscovery:
    urls = [each if isinstance(each, str) else each.url for each in servers]
    return EtcdDiscovery(urls, **{"timeout": 1.0, "ttl": 1, **options})


async def next_set(watch: Watch) -> tuple[Target, ...]:
    async with asyncio.timeout(WAIT_SECONDS):
        return tuple(await anext(watch))


async def in_thread(function: Callable[[], None]) -> None:
    await asyncio.to_thread(function)


# --- the kit --------------------------------------------------------------------------


@pytest.mark.parametrize("check", kit.CHECKS)
async def test_kit(check: kit.Check, shared: EtcdServer) -> None:
    # The first endpoint is always away.
    discovery, other = discovery_of(NOBODY, shared), discovery_of(shared, ttl=60)
    async with kit.AnnouncingSubject(discovery, other) as subject:
        await check(subject)


@pytest.mark.parametrize("check", kit.ANNOUNCE_CHECKS)
async def test_announcements(check: kit.AnnounceCheck, shared: EtcdServer) -> None:
    discovery = discovery_of(shared, prefix="/announced/here/")
    assert isinstance(discovery, AnnouncingDiscovery)
    await check(discovery)


class CutOff(kit.AnnouncingSubject):
    """A subject whose server answers nothing for a time."""

    def __init__(self, server: EtcdServer) -> None:
        # A busy machine must not let the lease of the outage end.
        super().__init__(discovery_of(server, ttl=600, timeout=0.3))
        self._server = server

    def outage(self) -> AbstractAsyncContextManager[None]:
        return self._stopped()

    @asynccontextmanager
    async def _stopped(self) -> AsyncIterator[None]:
        self._server.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._server.signal(signal.SIGCONT)


@pytest.mark.one_loop
@pytest.mark.parametrize("check", kit.OUTAGE_CHECKS)
async def test_outages(check: kit.OutageCheck, own: EtcdServer) -> None:
    async with CutOff(own) as subject:
        await check(subject)


# --- leases ---------------------------------------------------------------------------


@pytest.mark.one_loop
async def test_an_announcement_lasts_longer_than_its_lease(shared: EtcdServer) -> None:
    discovery = discovery_of(shared, prefix="/lasts")
    watch = discovery.watch("billing")
    async with discovery.announce(FakeNode.at("billing", ONE), ["billing"]):
        assert await next_set(watch) == (ONE,)
        waiting = asyncio.ensure_future(next_set(watch))
        # Twice the time of the lease, in which nothing may happen.
        await asyncio.wait([waiting], timeout=2.2)
        assert not waiting.done()
    assert await waiting == ()
    await watch.aclose()


@pytest.mark.one_loop
async def test_a_killed_process_is_gone_with_its_lease(shared: EtcdServer) -> None:
    watch = discovery_of(shared, prefix="/fastnode").watch("killed")
    assert await next_set(watch) == ()
    async with announcer(shared.url, "killed", 15001) as process:
        assert await next_set(watch) == (ONE,)
        process.kill()
        assert await next_set(watch) == ()
    await watch.aclose()


async def test_a_key_that_somebody_removes_is_written_again(
    shared: EtcdServer, caplog: pytest.LogCaptureFixture
) -> None:
    discovery = discovery_of(shared, prefix="/removed")
    node = FakeNode.at("billing", ONE)
    watch = discovery.watch("billing")
    async with discovery.announce(node, ["billing"]):
        assert await next_set(watch) == (ONE,)
        with caplog.at_level(logging.WARNING, "fastnode.discovery"):
            async with EtcdGateway([shared.url], None, 5.0) as gateway:
                key = f"/removed/billing/{node.instance}".encode()
                body = {"key": b64encode(key).decode()}
                await gateway.call("kv/deleterange", body)
            assert await next_set(watch) == ()
            assert await next_set(watch) == (ONE,)
        assert "was lost from etcd" in caplog.text
    await watch.aclose()


# --- etcd that fails ------------------------------------------------------------------


@pytest.mark.one_loop
async def test_a_restart_loses_nothing(
    own: EtcdServer, caplog: pytest.LogCaptureFixture
) -> None:
    discovery = discovery_of(own, ttl=600)
    watch = discovery.watch("billing")
    with caplog.at_level(logging.WARNING, "fastnode.discovery"):
        async with discovery.announce(FakeNode.at("billing", ONE), ["billing"]):
            assert await next_set(watch) == (ONE,)
            waiting = asyncio.ensure_future(next_set(watch))
            await in_thread(own.kill)
            await until(lambda: "its last targets stay valid" in caplog.text)
            with pytest.raises(DiscoveryError, match="no endpoint of etcd answers"):
                node = FakeNode.at("billing", TWO)
                await discovery.announce(node, ["billing"]).__aenter__()
            await in_thread(own.start)
            async with discovery.announce(FakeNode.at("billing", TWO), ["billing"]):
                # Nothing else came in between: the first target has stayed.
                assert await waiting == (ONE, TWO)
            assert await next_set(watch) == (ONE,)
        assert await next_set(watch) == ()
    await watch.aclose()


@pytest.mark.one_loop
async def test_an_etcd_that_forgot_everything_is_told_again(own: EtcdServer) -> None:
    discovery = discovery_of(own)
    watch = discovery.watch("billing")
    async with discovery.announce(FakeNode.at("billing", ONE), ["billing"]):
        assert await next_set(watch) == (ONE,)
        await in_thread(own.lose_data)
        await in_thread(own.start)
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                async with EtcdGateway([own.url], None, 5.0) as gateway:
                    found = await gateway.read(b"/f", b"/g", limit=9)
                if found.values:
                    break
        await watch.aclose()
        again = discovery.watch("billing")
        assert await next_set(again) == (ONE,)
        await again.aclose()


async def test_compaction(shared: EtcdServer, caplog: pytest.LogCaptureFixture) -> None:
    discovery = discovery_of(shared, prefix="/compacted", ttl=60)
    first, last = b"/compacted/billing/", b"/compacted/billing0"
    async with EtcdGateway([shared.url], None, 5.0) as gateway:
        old = await gateway.read(first, last, limit=9)
        async with discovery.announce(FakeNode.at("billing", ONE), ["billing"]):
            new = await gateway.read(first, last, limit=9)
            assert new.count == 1
            await gateway.call("kv/compaction", {"revision": new.revision})
            # What a watch gets that was cut off for so long.
            async with gateway.watch(first, last, old.revision) as stream:
                with pytest.raises(DiscoveryError, match="compact"):
                    async with asyncio.timeout(WAIT_SECONDS):
                        while True:
                            assert not await stream.changes()
            # The first stream of the watch begins before the compaction.
            begin = EtcdGateway.watch
            revisions = iter([old.revision])

            def compacted(
                self: EtcdGateway, first: bytes, last: bytes, revision: int
            ) -> Any:
                return begin(self, first, last, next(revisions, revision))

            with (
                mock.patch.object(EtcdGateway, "watch", compacted),
                caplog.at_level(logging.WARNING, "fastnode.discovery"),
            ):
                watch = discovery.watch("billing")
                assert await next_set(watch) == (ONE,)
                await until(lambda: "compact" in caplog.text)
                async with discovery.announce(FakeNode.at("b", TWO), ["billing"]):
                    assert await next_set(watch) == (ONE, TWO)
                await watch.aclose()


@pytest.mark.one_loop
async def test_another_leader(tmp_path: Path) -> None:
    with make_cluster(tmp_path, 3) as servers:
        discovery = discovery_of(*servers, ttl=60)
        watch = discovery.watch("billing")
        async with discovery.announce(FakeNode.at("billing", ONE), ["billing"]):
            assert await next_set(watch) == (ONE,)
            waiting = asyncio.ensure_future(next_set(watch))
            leader = await leader_of(servers)
            await in_thread(leader.kill)
            async with announced_in_the_end(discovery, FakeNode.at("billing", TWO)):
                assert await waiting == (ONE, TWO)
        await watch.aclose()


async def leader_of(servers: Sequence[EtcdServer]) -> EtcdServer:
    for server in servers:
        async with EtcdGateway([server.url], None, 5.0) as gateway:
            status = await gateway.call("maintenance/status", {})
        if status["leader"] == status["header"]["member_id"]:
            return server
    raise AssertionError("there is no leader")


@asynccontextmanager
async def announced_in_the_end(
    discovery: EtcdDiscovery, node: FakeNode
) -> AsyncIterator[None]:
    """Announce a node, again and again while etcd elects a leader."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            announcement = discovery.announce(node, ["billing"])
            try:
                await announcement.__aenter__()
                break
            except DiscoveryError:
                continue
    yield
    await announcement.__aexit__(None, None, None)


@pytest.mark.one_loop
async def test_a_member_that_is_cut_off_is_left(tmp_path: Path) -> None:
    with make_cluster(tmp_path, 3) as servers:
        discovery = discovery_of(*servers, ttl=60, timeout=0.5)
        other = discovery_of(*servers[1:], ttl=60)
        watch = discovery.watch("billing")
        assert await next_set(watch) == ()
        servers[0].signal(signal.SIGSTOP)  # its streams stay open, and are silent
        async with announced_in_the_end(other, FakeNode.at("billing", ONE)):
            assert await next_set(watch) == (ONE,)
        await watch.aclose()
        servers[0].signal(signal.SIGCONT)


# --- a directory that somebody poisoned -----------------------------------------------


async def test_values_that_are_no_entries_are_ignored(
    shared: EtcdServer, caplog: pytest.LogCaptureFixture
) -> None:
    prefix = "/poisoned"
    good = entry_of(FakeNode.at("billing", ONE), ["billing"]).encode()
    discovery = discovery_of(shared, prefix=prefix)
    async with EtcdGateway([shared.url], None, 5.0) as gateway:
        lease = await gateway.grant(600)
        for n, value in enumerate([b"", b"\xff", b"{}", b"[" * 10_000, good]):
            await gateway.put(f"{prefix}/billing/{n}".encode(), value, lease)
        await gateway.put(f"{prefix}/billing-other/x".encode(), good, lease)
        watch = discovery.watch("billing")
        with caplog.at_level(logging.WARNING, "fastnode.discovery"):
            assert await next_set(watch) == (ONE,)
            await gateway.put(f"{prefix}/billing/4".encode(), b"poison", lease)
            assert await next_set(watch) == ()
        assert "is ignored" in caplog.text
        await watch.aclose()
        await gateway.revoke(lease)


# --- TLS ------------------------------------------------------------------------------


@pytest.fixture(params=["mutual"])
def secure(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[EtcdServer]:
    """A server with TLS that demands certificates of our authority, or none."""
    authority().save(tmp_path)
    issued = authority().issue(NodeName.parse("etcd@127.0.0.1"))
    issued.save(tmp_path / "etcd.pem", tmp_path / "etcd-key.pem")
    options = [
        f"--cert-file={tmp_path / 'etcd.pem'}",
        f"--key-file={tmp_path / 'etcd-key.pem'}",
    ]
    if request.param == "mutual":
        options += [f"--trusted-ca-file={tmp_path / 'ca.pem'}", "--client-cert-auth"]
    with make_cluster(tmp_path, options=options) as [server]:
        yield server


async def test_a_new_certificate_is_taken_for_the_next_connection(
    secure: EtcdServer,
) -> None:
    stranger = certificate("billing@127.0.0.1", "other CA")
    manager = CertAuthManager(stranger, root_cas=pool())
    discovery = discovery_of(secure, cert_manager=manager, timeout=10.0)
    node = FakeNode.at("billing", ONE)
    with pytest.raises(DiscoveryError, match="cannot be asked"):
        await discovery.announce(node, ["billing"]).__aenter__()
    watch = discovery.watch("billing")
    waiting = asyncio.ensure_future(next_set(watch))
    manager.update(certificate("billing@127.0.0.1"))
    async with discovery.announce(node, ["billing"]):
        while await waiting != (ONE,):
            waiting = asyncio.ensure_future(next_set(watch))
    await watch.aclose()


@pytest.mark.one_loop
async def test_a_server_of_another_authority_is_not_asked(secure: EtcdServer) -> None:
    manager = CertAuthManager(
        certificate("billing@127.0.0.1"), root_cas=pool("other CA")
    )
    discovery = discovery_of(secure, cert_manager=manager)
    with pytest.raises(DiscoveryError, match="cannot be asked"):
        await discovery.announce(FakeNode.at("b", ONE), ["billing"]).__aenter__()


@pytest.mark.one_loop
@pytest.mark.parametrize("secure", ["one-sided"], indirect=True)
async def test_users_with_passwords(secure: EtcdServer) -> None:
    # With users, the gateway refuses certificates with a Common Name.
    manager = CertAuthManager(None, root_cas=pool())
    context = manager.https_context
    async with EtcdGateway([secure.url], context, 10.0) as gateway:
        for path, body in (
            ("auth/user/add", {"name": "root", "password": "secret"}),
            ("auth/user/grant", {"user": "root", "role": "root"}),
            ("auth/enable", {}),
        ):
            await gateway.call(path, body)
    options: dict[str, Any] = {"cert_manager": manager, "timeout": 10.0}
    node = FakeNode.at("billing", ONE)
    wrong: dict[str, Any]
    for wrong in ({}, {"username": "root", "password": "wrong"}):
        with pytest.raises(DiscoveryError, match="refused"):
            discovery = discovery_of(secure, **options, **wrong)
            await discovery.announce(node, ["billing"]).__aenter__()
    discovery = discovery_of(secure, username="root", password="secret", **options)
    assert "secret" not in repr(discovery)
    watch = discovery.watch("billing")
    async with discovery.announce(node, ["billing"]):
        assert await next_set(watch) == (ONE,)
    await watch.aclose()
    credentials = ("root", "secret")
    async with EtcdGateway([secure.url], context, 10.0, credentials) as gateway:
        gateway._token = "has.expired"
        await gateway.read(b"a", b"b", limit=1)


# --- options --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("endpoints", "options"),
    [
        ([], {}),
        ("http://127.0.0.1:2379", {}),
        ([3], {}),
        (["127.0.0.1:2379"], {}),
        (["ftp://127.0.0.1"], {}),
        (["http://"], {}),
        (["http://a:99999"], {}),
        (["http://a/path"], {}),
        (["http://user:word@a"], {}),
        (["https://a"], {}),
        (["http://a"], {"cert_manager": CertAuthManager(None)}),
        (["https://a"], {"cert_manager": object()}),
        (["http://a"], {"prefix": ""}),
        (["http://a"], {"prefix": "/"}),
        (["http://a"], {"prefix": "a\n"}),
        (["http://a"], {"prefix": 3}),
        (["http://a"], {"ttl": 0}),
        (["http://a"], {"timeout": float("inf")}),
        (["http://a"], {"username": "u", "password": "p"}),
        (["https://a"], {"username": "u", "cert_manager": CertAuthManager(None)}),
    ],
)
def test_bad_options_are_refused(endpoints: Any, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        EtcdDiscovery(endpoints, **options)
    assert caught.value.hint


def test_the_extra_is_named_where_it_is_missing() -> None:
    with mock.patch.dict(sys.modules, {"aiohttp": None}):
        with pytest.raises(ConfigError) as caught:
            EtcdDiscovery([NOBODY])
    assert caught.value.hint == "pip install 'fastnode[etcd]'"
