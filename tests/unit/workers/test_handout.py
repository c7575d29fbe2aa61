"""Who gets a connection, and what becomes of those that nobody takes."""

from __future__ import annotations

import errno
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from fastnode.node.port import open_port
from fastnode.workers.handout import (
    LINKED_SECONDS,
    MAX_LINKED_HOSTS,
    Handout,
    LinkedHosts,
)
from fastnode.workers.inlet import Inlet
from helpers.nodes import until


class Worker:
    """Takes connections, as long as it has room."""

    def __init__(self, room: int = 100) -> None:
        self.room = room
        self.taken: list[socket.socket] = []
        self.linked: set[str] = set()

    @property
    def load(self) -> int:
        return len(self.taken)

    def linked_with(self, host: str) -> bool:
        return host in self.linked

    def take(self, port: int, connection: socket.socket) -> bool:
        assert port == 3
        if self.load >= self.room:
            return False
        self.taken.append(connection.dup())
        return True


class Port:
    """A handout, its workers and its dialers."""

    def __init__(self, sockets: list[socket.socket]) -> None:
        self.workers: list[Worker] = []
        self.address = sockets[0].getsockname()
        self.dialers: list[socket.socket] = []
        self.handout = Handout(3, self.address, sockets, lambda: self.workers)

    def dial(self) -> None:
        self.dialers.append(socket.create_connection(self.address))

    @property
    def loads(self) -> list[int]:
        return [worker.load for worker in self.workers]


@pytest_asyncio.fixture
async def port() -> AsyncIterator[Port]:
    port = Port(await open_port("127.0.0.1", 0, 1))
    yield port
    port.handout.close()
    taken = [each for worker in port.workers for each in worker.taken]
    for each in port.dialers + taken:
        each.close()


async def test_the_idlest_gets_it(port: Port) -> None:
    port.workers = [Worker(), Worker(), Worker()]
    port.handout.resume()
    for _ in range(30):
        port.dial()
    await until(lambda: sum(port.loads) == 30)
    assert port.loads == [10, 10, 10]
    port.workers.append(Worker())
    for _ in range(10):
        port.dial()
    await until(lambda: sum(port.loads) == 40)
    assert port.loads == [10, 10, 10, 10]


async def test_who_is_linked_with_one_worker_gets_another(port: Port) -> None:
    first, second = port.workers = [Worker(), Worker()]
    port.handout.resume()
    first.linked.add("127.0.0.1")
    for _ in range(4):
        port.dial()
    await until(lambda: sum(port.loads) == 4)
    assert port.loads == [0, 4]
    # The others are better than none, and other hosts are not concerned.
    second.linked.add("127.0.0.1")
    first.linked.add("127.0.0.9")
    for _ in range(4):
        port.dial()
    await until(lambda: sum(port.loads) == 8)
    assert port.loads == [4, 4]


def test_linked_hosts_are_bounded_and_forgotten() -> None:
    now = 0.0
    hosts = LinkedHosts(lambda: now)
    for number in range(MAX_LINKED_HOSTS + 5):
        hosts.add(f"h{number}")
    assert len(hosts) == MAX_LINKED_HOSTS
    assert "h4" not in hosts
    assert "h5" in hosts
    now = LINKED_SECONDS
    assert "h5" not in hosts
    assert len(hosts) == MAX_LINKED_HOSTS - 1
    hosts.add("h6")
    now += LINKED_SECONDS / 2
    assert "h6" in hosts


async def test_one_that_is_full_is_passed_over(port: Port) -> None:
    port.workers = [Worker(2), Worker()]
    port.handout.resume()
    for _ in range(10):
        port.dial()
    await until(lambda: sum(port.loads) == 10)
    assert port.loads == [2, 8]


async def test_connections_wait_for_a_worker(port: Port) -> None:
    port.dial()
    port.handout.resume()
    port.workers = [Worker(1)]
    port.handout.resume()
    port.dial()
    port.dial()
    await until(lambda: port.loads == [1])
    # Two wait: one was accepted, and nobody took it.
    port.workers[0].room = 3
    await until(lambda: port.loads == [3])
    # Likewise where the last worker goes.
    gone = port.workers.pop()
    port.dial()
    port.dial()
    port.workers = [Worker()]
    port.handout.resume()
    await until(lambda: port.loads == [2])
    for each in gone.taken:
        each.close()


async def test_closing_drops_what_waits(port: Port) -> None:
    port.workers = [Worker(0)]
    port.handout.resume()
    port.dial()
    await until(lambda: port.handout._kept)
    port.handout.close()
    port.dialers[0].settimeout(5.0)
    assert port.dialers[0].recv(1) == b""
    with pytest.raises(ConnectionRefusedError):
        port.dial()


# --- the other end ----------------------------------------------------------------


@pytest.fixture
def way() -> Iterator[tuple[socket.socket, Inlet, list[int]]]:
    ours, theirs = socket.socketpair()
    taken: list[int] = []
    inlet = Inlet(theirs, ("10.0.0.5", 15000), lambda: taken.append(1))
    inlet.setblocking(False)
    yield ours, inlet, taken
    ours.close()
    inlet.close()


def test_an_inlet_is_a_listener(way: tuple[socket.socket, Inlet, list[int]]) -> None:
    ours, inlet, taken = way
    assert inlet.getsockname() == ("10.0.0.5", 15000)
    with pytest.raises(BlockingIOError):
        inlet.accept()
    with socket.create_server(("127.0.0.1", 0)) as server:
        dialers = [socket.create_connection(server.getsockname()) for _ in range(2)]
        for _ in dialers:
            with server.accept()[0] as connection:
                socket.send_fds(ours, [b"\0"], [connection.fileno()])
        for dialer in dialers:
            accepted, address = inlet.accept()
            with dialer, accepted:
                assert address == dialer.getsockname()
                assert not accepted.get_inheritable()
                dialer.send(b"x")
                assert accepted.recv(1) == b"x"
    assert len(taken) == 2
    assert not inlet.ended
    ours.close()
    with pytest.raises(EOFError):
        inlet.accept()
    assert inlet.ended


def test_connections_that_are_none_any_more(
    way: tuple[socket.socket, Inlet, list[int]],
) -> None:
    ours, inlet, taken = way
    # The kernel leaves a descriptor out when there is none left for it.
    ours.send(b"\0")
    with pytest.raises(OSError) as raised:
        inlet.accept()
    assert raised.value.errno == errno.EMFILE
    with socket.socket() as never_connected, Path("/dev/null").open() as no_socket:
        for each in (never_connected, no_socket):
            socket.send_fds(ours, [b"\0"], [each.fileno()])
            with pytest.raises(ConnectionAbortedError):
                inlet.accept()
    assert len(taken) == 3
