"""Listeners for both protocols, and sockets whose options cannot be set any more.

macOS and BSD refuse `setsockopt` with EINVAL where the peer has reset the connection.
Here sockets do so that an acceptor is given by a listener of the test.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from fastnode import AcceptorOptions, HandshakeError, Refusal, Route, Side
from helpers.nodes import WAIT_SECONDS, A, B, running, until
from helpers.strangers import Crowd, client_hello

# --- both protocols ------------------------------


def dual_stack() -> socket.socket:
    """A listener that takes IPv4 connections as IPv6 ones."""
    sock = socket.socket(socket.AF_INET6)
    try:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(("::", 0))
        sock.listen(100)
    except OSError as error:
        sock.close()
        pytest.skip(f"no dual-stack sockets here: {error}")
    return sock


def can_use(host: str) -> bool:
    """Whether connections can come from that address."""
    with socket.socket() as sock:
        try:
            sock.bind((host, 0))
        except OSError:
            return False
    return True


@pytest.mark.skipif(not can_use("127.0.0.2"), reason="needs many loopback addresses")
async def test_guarantee_9_ipv4_addresses_count_on_a_dual_stack_listener() -> None:
    """Strangers from one IPv4 address leave the others alone."""
    hello = client_hello()
    refusals: list[Refusal] = []
    listener = dual_stack()
    port = listener.getsockname()[1]
    options = AcceptorOptions(
        listener=listener, max_handshakes_per_address=4, max_handshakes=32
    )
    async with (
        running(B, acceptors=[options], on_refused=refusals.append) as b,
        running(A, listens=False) as a,
    ):
        a.add_route(Route(f"^{B}$", "127.0.0.1", port))
        crowd = Crowd(
            ("127.0.0.1", port), 4, source=lambda n: "127.0.0.2", says=lambda n: hello
        )
        async with crowd:
            # Each is answered, and says no more. Their address has all its handshakes.
            await until(lambda: b.acceptors[0].arriving == 4)
            async with asyncio.timeout(WAIT_SECONDS):
                link = await a.connect(B)
            assert b.links[0].peer.address[0] == "::ffff:127.0.0.1"
            assert not link.closed
            # Nobody had to make room.
            assert not refusals
            assert b.acceptors[0].arriving == 4


# --- options that cannot be set ------------------------------


LOWEST = socket.SOL_SOCKET, socket.SO_RCVLOWAT
NO_DELAY = socket.IPPROTO_TCP, socket.TCP_NODELAY
NEVER = {LOWEST: 0, NO_DELAY: 0}


class Stubborn(socket.socket):
    """A socket that takes options only so often.

    Attributes:
        allowed: how often it still takes an option; those that are not there, always.
        refused: how many calls failed.
    """

    allowed: dict[tuple[int, int], int]
    refused = 0

    def setsockopt(self, *args: Any) -> None:
        option = args[:2]
        if option in self.allowed:
            self.allowed[option] -= 1
            if self.allowed[option] < 0:
                self.refused += 1
                raise OSError(errno.EINVAL, "Invalid argument")
        super().setsockopt(*args)


class StubbornListener:
    """A `Listener` whose connections are `Stubborn`.

    Attributes:
        allowed: what the next connection allows.
        accepted: all connections so far.
    """

    def __init__(self, allowed: dict[tuple[int, int], int]) -> None:
        self._sock = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.allowed = allowed
        self.accepted: list[Stubborn] = []
        self.setblocking: Callable[[bool], None] = self._sock.setblocking
        self.getsockname = self._sock.getsockname
        self.fileno = self._sock.fileno
        self.close = self._sock.close

    def accept(self) -> tuple[socket.socket, Any]:
        sock, address = self._sock.accept()
        made = Stubborn(fileno=sock.detach())
        made.allowed = dict(self.allowed)
        self.accepted.append(made)
        return made, address


HELLO = client_hello()


@pytest.mark.parametrize("said", [0, 1, 5, 50, len(HELLO)])
async def test_a_socket_that_takes_no_options_is_dropped_once(said: int) -> None:
    """A stranger sends so many bytes of a ClientHello."""
    listener = StubbornListener(NEVER)
    refusals: list[Refusal] = []
    async with running(
        B, acceptors=[AcceptorOptions(listener=listener)], on_refused=refusals.append
    ) as b:
        stats = b.acceptors[0].stats
        for number in range(1, 4):
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            try:
                writer.write(HELLO[:said])
                await until(lambda: stats.failed.total() == number)  # noqa: B023
                async with asyncio.timeout(WAIT_SECONDS):
                    with suppress(ConnectionResetError):
                        assert await reader.read() == b""
            finally:
                writer.close()
            assert stats.failed == {"HandshakeError": number}
            assert not stats.refused
            assert b.acceptors[0].arriving == 0
            assert len(listener.accepted) == number
            assert listener.accepted[-1].refused == 1
        # Nobody refused it: it ended.
        assert not refusals


async def test_a_socket_that_stops_to_take_options_while_it_waits() -> None:
    """The connection was waited for, and is dropped at the next look."""
    listener = StubbornListener({})
    async with running(B, acceptors=[AcceptorOptions(listener=listener)]) as b:
        acceptor = b.acceptors[0]
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        try:
            await until(lambda: acceptor.arriving == 1)
            assert not acceptor.stats.failed
            listener.accepted[0].allowed = NEVER
            # Its head has come, so the kernel is to wait for more.
            writer.write(HELLO[:50])
            await until(lambda: acceptor.stats.failed)
            async with asyncio.timeout(WAIT_SECONDS):
                with suppress(ConnectionResetError):
                    assert await reader.read() == b""
        finally:
            writer.close()
        assert acceptor.stats.failed == {"HandshakeError": 1}
        assert acceptor.arriving == 0
        # A peer whose socket is sound gets in.
        async with running(A, listens=False) as a:
            a.add_route(Route(f"^{B}$", *listener.getsockname()))
            assert (await a.connect(B)).peer.verified
        assert acceptor.stats.links == 1


@pytest.mark.parametrize("allowed", [0, 1])
async def test_a_peer_whose_socket_takes_no_options(allowed: int) -> None:
    """A descriptor whose connection has ended serves the next connection.

    The loop sets the second option too. It must not fail there: asyncio would keep a
    transport for the descriptor.
    """
    listener = StubbornListener({})
    async with running(B, acceptors=[AcceptorOptions(listener=listener)]) as b:
        acceptor = b.acceptors[0]
        for good in (False, True, False, True):
            listener.allowed = {} if good else {NO_DELAY: allowed}
            async with running(A, listens=False) as a:
                a.add_route(Route(f"^{B}$", *listener.getsockname()))
                if good or allowed:
                    link = await a.connect(B)
                    assert await link.ping() >= 0
                else:
                    with pytest.raises(HandshakeError) as caught:
                        await a.connect(B)
                    assert caught.value.side is Side.REMOTE
            await until(lambda: not b.links)
            await until(lambda: acceptor.arriving == 0)
        assert acceptor.stats.links == (4 if allowed else 2)
        assert acceptor.stats.failed == ({} if allowed else {"HandshakeError": 2})
        assert not acceptor.stats.refused
