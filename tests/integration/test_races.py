"""Several addresses of one peer: dead, silent and good ones, in every order."""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest

from fastnode import (
    AcceptorOptions,
    CallTimeout,
    HandshakeError,
    HandshakeTimeout,
    Link,
    Node,
    NoRoute,
    Route,
    UnknownAuthority,
)
from fastnode.limits import (
    CONNECTION_ATTEMPT_DELAY_SECONDS,
    FAILED_ADDRESS_SECONDS,
    MAX_DIAL_ADDRESSES,
    MAX_DIAL_ATTEMPTS,
    MAX_FAILED_ADDRESSES,
    MAX_UNAWAITED_DIALS,
)
from fastnode.node.addresses import Candidate, FailedAddresses, in_order
from fastnode.node.targets import Target
from helpers.nodes import WAIT_SECONDS, A, B, all_at_once, refusing, running, until
from helpers.pki import certificate, manager
from helpers.proxy import Proxy

Address = tuple[str, int]
#: A busy machine needs longer than this machine when it is idle. It is less than an
#: address that is given its whole time.
SOON_SECONDS = 5.0


class Silent:
    """A server that takes connections and says nothing."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.sock = socket.create_server((host, 0), backlog=200)
        self.sock.setblocking(False)
        self.address: Address = self.sock.getsockname()[:2]

    def taken(self) -> int:
        """How many connections have come since the last call; all are closed."""
        count = 0
        with suppress(BlockingIOError):
            while True:
                self.sock.accept()[0].close()
                count += 1
        return count


@contextmanager
def silent(host: str = "127.0.0.1") -> Iterator[Silent]:
    server = Silent(host)
    with server.sock:
        yield server


@contextmanager
def dead() -> Iterator[Address]:
    """An address where SYNs are dropped: the backlog is full, and nobody accepts."""
    with ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        address = server.getsockname()
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(address)
        yield address


def known(*addresses: Address) -> Callable[[str], list[Address]]:
    return lambda _name: list(addresses)


def connecting(node: Node, name: str) -> asyncio.Future[Link]:
    return asyncio.ensure_future(node.connect(name))


# --- the order -------------------------------------------------------------------


def candidate(host: str, weight: int = 0) -> Candidate:
    target = Target(host, 1, None, host, False, "by a test", weight)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return Candidate(target, family, host)


def ordered(*hosts: str, failed: tuple[str, ...] = ()) -> list[str]:
    memory = FailedAddresses()
    for host in failed:
        memory.add((host, 1))
    return [each.host for each in in_order([*map(candidate, hosts)], memory)]


def test_families_alternate() -> None:
    assert ordered("::1", "::2", "::3", "1.1.1.1", "2.2.2.2") == [
        "::1", "1.1.1.1", "::2", "2.2.2.2", "::3",
    ]  # fmt: skip
    assert ordered("1.1.1.1", "2.2.2.2", "::1") == ["1.1.1.1", "::1", "2.2.2.2"]
    assert ordered("1.1.1.1", "2.2.2.2") == ["1.1.1.1", "2.2.2.2"]
    assert ordered() == []


def test_a_heavier_route_stays_before_a_lighter_one() -> None:
    heavy, light = [candidate("::1", 9), candidate("::2", 9)], candidate("1.1.1.1", 1)
    assert in_order([*heavy, light], FailedAddresses()) == [*heavy, light]


def test_failed_addresses_come_last() -> None:
    assert ordered("::1", "1.1.1.1", "::2", failed=("::1",)) == [
        "1.1.1.1", "::2", "::1",
    ]  # fmt: skip


def test_failures_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("fastnode.node.addresses.monotonic", lambda: now)
    failed = FailedAddresses()
    for number in range(MAX_FAILED_ADDRESSES + 5):
        failed.add(("h", number))
    assert len(failed) == MAX_FAILED_ADDRESSES
    assert ("h", 4) not in failed
    assert ("h", 5) in failed
    failed.discard(("h", 5))
    assert ("h", 5) not in failed
    now = FAILED_ADDRESS_SECONDS - 1
    assert ("h", 6) in failed
    now = FAILED_ADDRESS_SECONDS + 1
    assert ("h", 6) not in failed


# --- silent and dead addresses ------------------------------------------------------


async def test_a_first_address_that_does_not_answer() -> None:
    await all_at_once(a_first_address_is, (silent,), (dead,))


async def a_first_address_is(kind: Any) -> None:
    """Four callers with a timeout that is shorter than that of the address."""
    with kind() as bad:
        first = bad.address if isinstance(bad, Silent) else bad
        async with running(B) as b:
            b.handler("e")(lambda message: b"")
            resolver = known(first, b.acceptors[0].address)
            async with running(A, listens=False, resolver=resolver) as a:
                began = time.monotonic()
                calls = (a.call(B, "e", b"", timeout=SOON_SECONDS) for _ in range(4))
                await asyncio.gather(*calls)
                took = time.monotonic() - began
                assert CONNECTION_ATTEMPT_DELAY_SECONDS <= took < SOON_SECONDS
                assert b.acceptors[0].stats.connections == 1
                assert not a.dial_stats.failed
                assert not a.dial_stats.refused


async def test_a_refused_address_costs_no_time() -> None:
    with refusing() as nobody:
        async with running(B) as b:
            resolver = known(nobody, nobody, b.acceptors[0].address)
            async with running(A, listens=False, resolver=resolver) as a:
                began = time.monotonic()
                await a.connect(B)
                assert time.monotonic() - began < SOON_SECONDS


@pytest.mark.skipif(sys.platform != "linux", reason="needs many loopback addresses")
async def test_a_host_name_with_several_addresses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first is silent at the same port."""
    with ExitStack() as stack:
        bad, listener = None, None
        while listener is None:
            # Something else may have the port on the other address, by chance.
            bad = stack.enter_context(silent("127.0.0.2"))
            port = bad.address[1]
            with suppress(OSError):
                listener = socket.create_server(("127.0.0.1", port))
        assert bad is not None
        listens = [AcceptorOptions(listener=listener)]
        shown = manager(A, server_name="127.0.0.1")

        async def two(host: str, port: int, **_: object) -> list[Any]:
            assert host == "beta.example"
            kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
            return [(*kind, (each, port)) for each in ("127.0.0.2", "127.0.0.1")]

        async with (
            running(B, acceptors=listens),
            running(A, manager=shown, listens=False) as a,
        ):
            a.add_route(Route("^beta@", "beta.example", port))
            with monkeypatch.context() as patch:
                loop = asyncio.get_running_loop()
                patch.setattr(loop, "getaddrinfo", two, raising=False)
                async with asyncio.timeout(SOON_SECONDS):
                    link = await a.connect(B)
            assert link.peer.address == ("127.0.0.1", port)
            assert bad.taken() == 1


async def test_an_unknown_host_hides_no_good_address() -> None:
    async with running(B) as b:
        resolver = known(("nowhere.invalid", 1), b.acceptors[0].address)
        async with running(A, listens=False, resolver=resolver) as a:
            await a.connect(B)


async def test_a_name_service_that_is_silent_hides_no_good_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def never(*_: object, **__: object) -> list[Any]:
        await asyncio.Event().wait()
        raise AssertionError

    async with running(B) as b:
        resolver = known(("slow.example", 1), b.acceptors[0].address)
        async with running(A, listens=False, resolver=resolver) as a:
            loop = asyncio.get_running_loop()
            with monkeypatch.context() as patch:
                patch.setattr(loop, "getaddrinfo", never, raising=False)
                async with asyncio.timeout(SOON_SECONDS):
                    await a.connect(B)


async def test_the_second_dial_begins_with_the_address_that_was_good() -> None:
    with silent() as bad:
        async with running(B) as b:
            resolver = known(bad.address, b.acceptors[0].address)
            async with running(A, listens=False, resolver=resolver) as a:
                await (await a.connect(B)).close()
                assert bad.taken() == 1
                await (await a.connect(B)).close()
                assert bad.taken() == 0


async def test_races_that_take_long() -> None:
    await all_at_once(
        lambda race: race(),
        (all_are_silent,),
        (a_loser_is_tried_again_when_the_winner_is_refused,),
        (a_dial_without_callers_fails_quietly,),
        (stop_ends_a_race,),
        (dials_that_nobody_waits_for_are_bounded,),
    )


async def all_are_silent() -> None:
    with silent() as one, silent() as two:
        resolver = known(one.address, two.address)
        async with running(
            A, listens=False, resolver=resolver, handshake_timeout=0.4
        ) as a:
            began = time.monotonic()
            with pytest.raises(HandshakeTimeout) as caught:
                await a.connect(B)
            assert time.monotonic() - began >= 0.6
            assert f"also tried 127.0.0.1:{two.address[1]}" in caught.value.__notes__[0]
            assert a.dial_stats.failed == {"HandshakeTimeout": 2}


async def test_a_kernel_without_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    with refusing() as nobody:
        resolver = known(("fe80::1%nothing", 1), nobody)
        async with running(A, listens=False, resolver=resolver) as a:
            with pytest.raises(NoRoute, match="fe80::1%nothing") as caught:
                await a.connect(B)
            assert "Connection refused" in str(caught.value)


# --- who wins ---------------------------------------------------------------------


async def test_no_new_attempt_once_a_server_has_answered() -> None:
    """A slow peer is not left for another address."""
    with silent() as other:
        async with running(B) as b, Proxy() as proxy:
            await proxy.start(b.acceptors[0].address)
            # The ServerHello comes in time, and its certificate takes longer.
            proxy.piece = 200
            proxy.down.bandwidth = 2500
            resolver = known(proxy.address, other.address)
            async with running(A, listens=False, resolver=resolver) as a:
                began = time.monotonic()
                link = await a.connect(B)
                assert time.monotonic() - began > CONNECTION_ATTEMPT_DELAY_SECONDS
                assert link.peer.address == proxy.address
                assert other.taken() == 0


async def test_only_the_winner_says_hello() -> None:
    """Both addresses lead to the same acceptor, and both answer too late."""
    async with running(B) as b, Proxy() as first, Proxy() as second:
        for proxy in (first, second):
            await proxy.start(b.acceptors[0].address)
        first.up.delay = 2 * CONNECTION_ATTEMPT_DELAY_SECONDS
        resolver = known(first.address, second.address)
        async with running(A, listens=False, resolver=resolver) as a:
            link = await a.connect(B)
            assert link.peer.address == second.address
            stats = b.acceptors[0].stats
            await until(lambda: stats.connections == 2)
            await until(lambda: stats.links + stats.failed.total() == 2)
            # The loser ended in its TLS handshake. It replaced nothing.
            assert stats.failed == {"HandshakeError": 1}
            assert not stats.refused
            assert await link.ping() < WAIT_SECONDS
            assert a.links == (link,)
            assert not a.dial_stats.failed


async def test_the_next_address_when_the_winner_is_refused() -> None:
    stranger = manager(B, shows=certificate(B), trusts="Other CA")
    async with running(B, manager=stranger) as wrong, running(B) as right:
        first, second = (each.acceptors[0].address for each in (wrong, right))
        resolver = known(first, second)
        async with running(A, listens=False, resolver=resolver) as a:
            link = await a.connect(B)
            assert link.peer.address == second
            assert a.dial_stats.failed == {"UnknownAuthority": 1}
        async with running(A, listens=False, resolver=known(first)) as a:
            with pytest.raises(UnknownAuthority):
                await a.connect(B)


async def a_loser_is_tried_again_when_the_winner_is_refused() -> None:
    stranger = manager(B, shows=certificate(B), trusts="Other CA")
    async with (
        running(B, manager=stranger) as wrong,
        running(B) as right,
        Proxy() as slow,
    ):
        await slow.start(right.acceptors[0].address)
        slow.up.delay = 2 * CONNECTION_ATTEMPT_DELAY_SECONDS
        resolver = known(slow.address, wrong.acceptors[0].address)
        async with running(A, listens=False, resolver=resolver) as a:
            link = await a.connect(B)
            assert link.peer.address == slow.address
            assert slow.connections == 2


async def test_without_tls_the_next_address_is_tried_too() -> None:
    with refusing() as nobody, dead() as nowhere:
        async with running(B, plaintext=True) as b:
            resolver = known(nobody, nowhere, b.acceptors[0].address)
            options = {"plaintext": True, "listens": False, "resolver": resolver}
            async with running(A, **options) as a:
                async with asyncio.timeout(SOON_SECONDS):
                    await a.connect(B)


async def test_a_bad_manager_of_one_route_hides_no_good_one() -> None:
    """Its certificate covers no name that is verified."""
    loose = manager(A, verify_server_name=False)
    async with running(B) as b:
        address = b.acceptors[0].address
        options = {"listens": False, "verify_peer_name": False}
        async with running(A, **options) as a:
            a.add_route(Route("^beta@", *address, weight=200, cert_manager=loose))
            a.add_route(Route("^beta@127", *address))
            assert (await a.connect(B)).peer.verified


# --- bounds ------------------------------------------------------------------------


async def test_addresses_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    with refusing() as nobody:
        many = [nobody] * (MAX_DIAL_ADDRESSES + 1)
        async with running(A, listens=False, resolver=known(*many)) as a:
            with pytest.raises(NoRoute):
                await a.connect(B)
    assert "65 addresses of beta@127.0.0.1 are known" in caplog.text


async def test_attempts_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastnode.node.race.CONNECTION_ATTEMPT_DELAY_SECONDS", 0.001)
    with ExitStack() as stack:
        servers = [stack.enter_context(silent()) for _ in range(MAX_DIAL_ATTEMPTS + 5)]
        resolver = known(*(server.address for server in servers))
        async with running(A, listens=False, resolver=resolver) as a:
            dial = connecting(a, B)
            await until(lambda: len(tuple(a._links)) == MAX_DIAL_ATTEMPTS)
            for _ in range(20):
                await asyncio.sleep(0.002)
                assert len(tuple(a._links)) == MAX_DIAL_ATTEMPTS
            await a.stop()
            with pytest.raises(ConnectionError):
                await dial


async def test_a_dial_has_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Peers that answer and then stop cannot hold it for longer."""
    monkeypatch.setattr("fastnode.node.race.DIAL_TIMEOUTS", 1)
    with ExitStack() as stack:
        servers = [stack.enter_context(silent()) for _ in range(4)]
        resolver = known(*(server.address for server in servers))
        async with running(
            A, listens=False, resolver=resolver, handshake_timeout=0.6
        ) as a:
            began = time.monotonic()
            with pytest.raises(HandshakeTimeout):
                await a.connect(B)
            assert 0.5 < time.monotonic() - began < SOON_SECONDS


async def dials_that_nobody_waits_for_are_bounded() -> None:
    with silent() as bad:
        async with running(A, listens=False, resolver=known(bad.address)) as a:
            for number in range(MAX_UNAWAITED_DIALS + 3):
                with pytest.raises(CallTimeout):
                    await a.call(f"x{number}@127.0.0.1", "e", b"", timeout=0)
            await until(lambda: len(a._dialer._tasks) == MAX_UNAWAITED_DIALS)
            assert "x2@127.0.0.1" not in a._dialer._shared
            assert "x3@127.0.0.1" in a._dialer._shared


# --- callers ------------------------------------------------------------------------


async def test_callers_with_short_timeouts_get_a_link_at_last() -> None:
    """A handshake takes longer than each of them waits."""
    async with running(B) as b, Proxy() as proxy:
        await proxy.start(b.acceptors[0].address)
        proxy.up.delay = proxy.down.delay = 0.1
        b.handler("e")(lambda message: b"")
        async with running(A, listens=False) as a:
            a.add_route(Route("^beta@", *proxy.address))
            gave_up = 0
            async with asyncio.timeout(WAIT_SECONDS):
                while not a.links:
                    try:
                        await a.call(B, "e", b"", timeout=0.15)
                    except CallTimeout:
                        gave_up += 1
            assert gave_up >= 2
            assert proxy.connections == 1


async def a_dial_without_callers_fails_quietly() -> None:
    with silent() as bad:
        options = {"resolver": known(bad.address), "handshake_timeout": 0.3}
        async with running(A, listens=False, **options) as a:
            with pytest.raises(CallTimeout):
                await a.call(B, "e", b"", timeout=0.05)
            await until(lambda: not a._dialer._tasks)
            assert a.dial_stats.failed == {"HandshakeTimeout": 1}


async def stop_ends_a_race() -> None:
    with silent() as one, silent() as two:
        resolver = known(one.address, two.address)
        async with running(A, listens=False, resolver=resolver) as a:
            dial = connecting(a, B)
            await until(lambda: len(tuple(a._links)) == 2)
            await a.stop()
            with pytest.raises(ConnectionError):
                await dial
            assert not isinstance(dial.exception(), HandshakeError)
