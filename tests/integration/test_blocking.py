"""`fastnode.blocking.Client`: from many threads, after a fork, at the end of Python."""

from __future__ import annotations

import _thread
import asyncio
import gc
import json
import os
import socket
import subprocess
import sys
import threading
import time
import traceback
import weakref
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import pytest

from fastnode import (
    AcceptorOptions,
    CallTimeout,
    CertificateExpired,
    CertManager,
    ConfigError,
    FastnodeError,
    Link,
    LinkClosed,
    Message,
    MessageTooLarge,
    NetworkOptions,
    Node,
    NodeOptions,
    NoRoute,
    NoSuchEndpoint,
    Peer,
    RemoteError,
    Reply,
    Route,
)
from fastnode.blocking import Client, loop_thread
from helpers.child import manager_of, write_certificates
from helpers.nodes import WAIT_SECONDS, A, B, running
from helpers.pki import manager as make_manager
from helpers.pki import odd_certificate

Result = TypeVar("Result")


def loop_kind() -> Literal["asyncio", "uvloop"]:
    """The loop of this test, for the client too."""
    module = type(asyncio.get_running_loop()).__module__.partition(".")[0]
    return "uvloop" if module == "uvloop" else "asyncio"


async def in_thread(work: Callable[..., Result], *args: Any, **options: Any) -> Result:
    """Run something that blocks, in a thread of its own."""
    with ThreadPoolExecutor(1) as executor:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(executor, partial(work, *args, **options))


class Beta:
    """What the node beta saw."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.kept: list[bytes] = []
        self.began = asyncio.Semaphore(0)
        self.cancelled = asyncio.Semaphore(0)
        self._released = asyncio.Event()
        node.handler("echo")(lambda message: message.payload)
        node.handler("keep")(lambda message: self.kept.append(message.payload))
        node.handler("fail")(lambda message: {}[message.payload])
        node.handler("never")(self.never)
        node.handler("begun")(self.begun)
        node.handler("wait")(self.wait)
        node.handler("ended")(self.ended)
        node.handler("release")(self.release)
        node.handler("stuck", concurrency=1)(self.never)

    async def never(self, message: object) -> None:
        self.began.release()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.release()
            raise

    async def begun(self, message: object) -> bytes:
        await self.began.acquire()
        return b""

    async def ended(self, message: object) -> bytes:
        await self.cancelled.acquire()
        return b""

    async def wait(self, message: object) -> bytes:
        self.began.release()
        await self._released.wait()
        return b"released"

    def release(self, message: object) -> bytes:
        self._released.set()
        return b""


@asynccontextmanager
async def beta(**options: Any) -> AsyncIterator[Beta]:
    async with running(B, **options) as node:
        yield Beta(node)


def options_for(
    node: Node | tuple[str, int],
    *,
    manager: CertManager | None = None,
    **network: Any,
) -> NodeOptions:
    host, port = node.acceptors[0].address if isinstance(node, Node) else node
    network.setdefault("routes", [Route(f"^{B}$", host, port)])
    network.setdefault("slow_callback_seconds", 60.0)
    return NodeOptions(
        cert_manager=manager or make_manager(A), network=NetworkOptions(**network)
    )


@asynccontextmanager
async def client_of(
    node: Node | tuple[str, int], **options: Any
) -> AsyncIterator[Client]:
    client = Client(A, options_for(node, **options), loop=loop_kind())
    try:
        yield client
    finally:
        await in_thread(client.close, 5.0)
        assert not client_threads()


def client_threads() -> list[str]:
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith("fastnode-client")]


# --- calls and messages ------------------------------------------------------------


async def test_calls_and_messages() -> None:
    async with beta() as peer, client_of(peer.node) as client:
        assert "not started" in repr(client)
        assert not client_threads()
        assert client.stats() == ()

        def use() -> None:
            assert client.call(B, "echo", b"hello", timeout=WAIT_SECONDS) == b"hello"
            assert client.call(B, "echo", memoryview(b"ab")[::-1]) == b"ba"
            client.send(B, "keep", b"first")
            client.send(B, "keep", bytearray(b"second"), priority="normal")
            client.send(B, "keep", b"third", confirm=True, timeout=WAIT_SECONDS)
            found = client.connect(B, timeout=WAIT_SECONDS)
            assert isinstance(found, Peer)
            assert (found.name, found.verified) == (B, True)
            [(same, stats)] = client.stats()
            assert same is found
            assert (stats.messages_sent, stats.calls_sent) == (3, 2)

        await in_thread(use)
        assert peer.kept == [b"first", b"second", b"third"]
        assert client_threads() == [f"fastnode-client {A}"]
        assert (client.node_name, client.closed) == (A, False)
        assert "running" in repr(client)
    assert "closed" in repr(client)


async def test_requests_and_metadata() -> None:
    async with beta() as peer, client_of(peer.node) as client:
        seen: list[dict[str, str]] = []

        @peer.node.handler("metadata")
        def metadata(message: Message) -> Reply:
            seen.append(dict(message.metadata))
            return Reply(message.payload, {"answer": "42"})

        def use() -> None:
            given = {"Trace-Id": "7"}
            reply = client.request(B, "metadata", b"1", metadata=given)
            assert (reply.payload, dict(reply.metadata)) == (b"1", {"answer": "42"})
            assert reply.peer is not None
            assert (reply.peer.name, reply.attempts) == (B, 1)
            assert client.call(B, "metadata", b"2", metadata=given) == b"2"
            client.send(B, "metadata", b"3", metadata=given, confirm=True)
            with pytest.raises(ConfigError, match="metadata"):
                client.request(B, "metadata", b"", metadata=[])  # type: ignore[arg-type]

        await in_thread(use)
        assert seen == [{"trace-id": "7"}] * 3


async def test_errors_are_raised_where_the_call_is() -> None:
    async with beta() as peer, client_of(peer.node, max_message_size=1000) as client:

        def place(error: type[Exception], work: Callable[[], object]) -> str:
            with pytest.raises(error) as caught:
                work()
            return "".join(traceback.format_exception(caught.value))

        def use() -> None:
            told = place(RemoteError, lambda: client.call(B, "fail", b"x"))
            assert "KeyError" in told
            assert "in <lambda>" in told  # where it was called
            assert "calling.py" in told  # and where it came from
            place(NoSuchEndpoint, lambda: client.call(B, "none", b""))
            place(MessageTooLarge, lambda: client.send(B, "echo", bytes(1001)))
            place(ConfigError, lambda: client.call("no name", "echo", b""))
            place(ConfigError, lambda: client.call(B, "echo", b"", timeout=-1))
            place(
                ConfigError, lambda: client.call(B, "echo", b"", timeout=float("nan"))
            )
            place(ConfigError, lambda: client.close(-1))
            place(TypeError, lambda: client.call(B, "echo", cast("bytes", "text")))
            place(NoRoute, lambda: client.connect("gamma@127.0.0.1", timeout=1))
            assert client.call(B, "echo", b"still") == b"still"

        await in_thread(use)


async def test_32_threads() -> None:
    async with beta() as peer, client_of(peer.node) as client:

        def work(thread: int) -> list[bytes]:
            barrier.wait(WAIT_SECONDS)
            sent = [b"%d %d" % (thread, each) for each in range(20)]
            got = [client.call(B, "echo", each, timeout=WAIT_SECONDS) for each in sent]
            client.send(B, "keep", b"%d" % thread)
            assert got == sent
            return got

        barrier = threading.Barrier(32)
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(32) as executor:
            waits = [loop.run_in_executor(executor, work, each) for each in range(32)]
            assert len(set(chain(*await asyncio.gather(*waits)))) == 640
        await in_thread(client.send, B, "keep", b"last", confirm=True)
        assert sorted(peer.kept) == sorted([b"%d" % n for n in range(32)] + [b"last"])
        assert len(peer.node.links) == 1


async def test_a_thread_that_runs_a_loop() -> None:
    """As in a notebook."""
    async with beta() as peer, client_of(peer.node) as client:

        async def cell() -> bytes:
            return client.call(B, "echo", b"cell", timeout=WAIT_SECONDS)

        assert await in_thread(asyncio.run, cell()) == b"cell"


async def test_the_loop_of_the_client_itself_cannot_wait_for_it() -> None:
    told: list[str] = []

    def hook(peer: Peer) -> bool:
        for use in (partial(client.call, B, "echo", b""), client.close):
            try:
                use()
            except ConfigError as error:
                told.append(str(error))
        return True

    async with beta() as peer, client_of(peer.node, authorize=hook) as client:
        assert await in_thread(client.call, B, "echo", b"x") == b"x"
        assert len(told) == 2
        assert all("wait for itself" in each for each in told)


# --- time --------------------------------------------------------------------------


async def test_the_timeout_of_a_call() -> None:
    async with beta() as peer, client_of(peer.node) as client:
        await in_thread(client.connect, B)
        with pytest.raises(CallTimeout, match=r"no reply from 'never' within 0\."):
            await in_thread(client.call, B, "never", b"", timeout=0.1)
        async with asyncio.timeout(WAIT_SECONDS):
            await peer.cancelled.acquire()


async def test_the_timeout_counts_from_the_call() -> None:
    """The client has to start and to connect, with a peer that says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with client_of(silent.getsockname()) as client:
            began = time.monotonic()
            uses = [
                in_thread(client.call, B, "echo", b"", timeout=0.1),
                in_thread(client.send, B, "echo", b"", timeout=0.1),
                in_thread(client.connect, B, timeout=0.1),
            ]
            errors = await asyncio.gather(*uses, return_exceptions=True)
            for error in errors:
                assert isinstance(error, CallTimeout)
                assert error.timeout == 0.1
            assert cast("CallTimeout", errors[0]).begun == "no"
            assert time.monotonic() - began < 5  # not handshake_timeout


async def test_a_blocked_loop_delays_nobody_beyond_the_timeout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loop_thread, "LATE_SECONDS", 0.1)
    monkeypatch.setattr(loop_thread, "CLOSE_GRACE_SECONDS", 0.1)
    entered, go_on = threading.Event(), threading.Event()

    def hook(peer: Peer) -> bool:
        entered.set()
        return go_on.wait(WAIT_SECONDS)

    async with beta() as peer, client_of(peer.node, authorize=hook) as client:
        first = asyncio.create_task(in_thread(client.call, B, "echo", b"first"))
        assert await in_thread(entered.wait, WAIT_SECONDS)
        with pytest.raises(CallTimeout, match="did not run within"):
            await in_thread(client.call, B, "keep", b"", timeout=0.1)
        go_on.set()
        assert await first == b"first"
        assert peer.kept == []
        # The same for close.
        entered.clear()
        go_on.clear()
        await in_thread(client.close)
        blocked = Client(A, options_for(peer.node, authorize=hook), loop=loop_kind())
        second = asyncio.create_task(in_thread(blocked.connect, B))
        assert await in_thread(entered.wait, WAIT_SECONDS)
        with pytest.raises(CallTimeout, match="did not close within"):
            await in_thread(blocked.close, 0.1)
        go_on.set()
        with pytest.raises(LinkClosed):
            await second
        await in_thread(blocked.close)


# --- close -------------------------------------------------------------------------


async def test_close_while_others_call() -> None:
    async with beta() as peer, client_of(peer.node) as client:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(12) as executor:
            waits = [
                loop.run_in_executor(executor, client.call, B, "never", b"")
                for _ in range(8)
            ]
            for _ in waits:
                await peer.began.acquire()
            ends = [loop.run_in_executor(executor, client.close) for _ in range(3)]
            async with asyncio.timeout(WAIT_SECONDS):
                for error in await asyncio.gather(*waits, return_exceptions=True):
                    assert type(error) is LinkClosed
                    assert f"client {A} was closed" in str(error)
                    assert error.begun == "maybe"
                for _ in waits:
                    await peer.cancelled.acquire()
                assert await asyncio.gather(*ends) == [()] * 3
        assert not client_threads()
        for use in (
            partial(client.call, B, "echo", b""),
            partial(client.send, B, "echo", b""),
            partial(client.connect, B),
            client.reconnect,
            client.stats,
            client.__enter__,
        ):
            with pytest.raises(LinkClosed, match="was closed") as caught:
                await in_thread(use)
            assert caught.value.begun == "no"
        assert await in_thread(client.close) == ()


async def test_close_races_with_calls() -> None:
    """Whatever the moment, each call ends at once."""

    def go_on(client: Client) -> int:
        done = 0
        while True:
            try:
                client.call(B, "echo", b"x")
                done += 1
            except LinkClosed:
                return done

    async with beta() as peer:
        loop = asyncio.get_running_loop()
        for turn in range(8):
            async with client_of(peer.node) as client:
                with ThreadPoolExecutor(6) as executor:
                    waits = [
                        loop.run_in_executor(executor, go_on, client) for _ in range(6)
                    ]
                    for _ in range(turn):
                        await in_thread(client.call, B, "echo", b"")
                    await in_thread(client.close)
                    async with asyncio.timeout(WAIT_SECONDS):
                        await asyncio.gather(*waits)


async def test_what_was_sent_leaves_before_the_end() -> None:
    sent = [b"%d" % number for number in range(500)]

    def use(options: NodeOptions, loop: Literal["asyncio", "uvloop"]) -> None:
        with Client(A, options, loop=loop) as client:
            assert client_threads()
            for each in sent:
                client.send(B, "keep", each)

    async with beta() as peer:
        await in_thread(use, options_for(peer.node), loop_kind())
        assert peer.kept == sent
        assert not client_threads()


async def test_close_says_what_was_not_done() -> None:
    async with beta(shutdown_timeout=0.1) as peer, client_of(peer.node) as client:
        for _ in range(3):
            await in_thread(client.send, B, "stuck", bytes(700_000))
        [left] = await in_thread(client.close, 0.2)
        assert left.messages > 0


async def test_a_client_that_nobody_refers_to_ends() -> None:
    async with beta() as peer:
        client = Client(A, options_for(peer.node), loop=loop_kind())
        await in_thread(client.connect, B)
        gone = weakref.ref(client)
        [thread] = [t for t in threading.enumerate() if t.name == client_threads()[0]]
        del client
        gc.collect()
        assert gone() is None
        await in_thread(thread.join, WAIT_SECONDS)
        assert not client_threads()


# --- options and certificates ------------------------------------------------------


def test_options_that_cannot_work() -> None:
    good = NodeOptions(cert_manager=make_manager(A))
    assert repr(Client(A, good)) == f"<Client {A}, not started>"
    for make in (
        partial(Client, "no name", good),
        partial(Client, A),
        partial(Client, A, cast("NodeOptions", good.network)),
        partial(Client, A, good, loop=cast("Any", "trio")),
        partial(
            Client,
            A,
            NodeOptions(
                cert_manager=make_manager(A),
                network=NetworkOptions(acceptors=[AcceptorOptions(port=0)]),
            ),
        ),
    ):
        with pytest.raises(ConfigError) as caught:
            make()
        assert caught.value.hint
    assert not client_threads()


def test_green_threads_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of gevent and eventlet, which would wait for each other."""

    def spawn(*args: Any) -> int:
        raise AssertionError

    monkeypatch.setattr(_thread, "start_new_thread", spawn)
    with pytest.raises(ConfigError, match="gevent"):
        Client(A, NodeOptions(cert_manager=make_manager(A))).connect(B)


async def test_a_start_that_fails_is_tried_again() -> None:
    soon = datetime.now(UTC) + timedelta(seconds=-1)
    expired = odd_certificate(A, not_before=soon - timedelta(days=1), not_after=soon)
    async with beta() as peer:
        manager = make_manager(A, shows=expired)
        async with client_of(peer.node, manager=manager) as client:
            loop = asyncio.get_running_loop()
            with ThreadPoolExecutor(4) as executor:
                waits = [
                    loop.run_in_executor(executor, client.connect, B) for _ in range(4)
                ]
                for error in await asyncio.gather(*waits, return_exceptions=True):
                    assert isinstance(error, FastnodeError)
                    assert "expired" in str(error)
            with pytest.raises(FastnodeError, match="expired") as caught:
                await in_thread(client.__enter__)
            assert not isinstance(caught.value, CertificateExpired)  # not the peer's
            manager.update(odd_certificate(A))
            assert await in_thread(client.call, B, "echo", b"x") == b"x"


async def test_a_new_certificate() -> None:
    manager = make_manager(A)
    async with (
        beta() as peer,
        client_of(peer.node, manager=manager) as client,
    ):
        await in_thread(client.connect, B)
        old = peer.node.links[0].peer.certificate
        new = odd_certificate(A)
        manager.update(new)
        await in_thread(client.reconnect, B, timeout=WAIT_SECONDS)
        seen = peer.node.links[0].peer.certificate
        assert seen is not None
        assert old is not None
        assert old.serial_number != seen.serial_number == new.serial_number


async def test_a_link_that_has_ended_is_made_again() -> None:
    async with beta() as peer, client_of(peer.node) as client:
        await in_thread(client.connect, B)
        await peer.node.links[0].close()
        assert await in_thread(client.call, B, "echo", b"again") == b"again"


async def test_a_hook_that_ends_the_loop() -> None:
    asked = []

    def hook(peer: Peer) -> bool:
        asked.append(peer)
        if len(asked) == 1:
            raise SystemExit(9)
        return True

    async with beta() as peer, client_of(peer.node, authorize=hook) as client:
        with pytest.raises(FastnodeError):
            await in_thread(client.call, B, "echo", b"", timeout=WAIT_SECONDS)
        assert await in_thread(client.call, B, "echo", b"x") == b"x"


async def test_clients_of_one_name_keep_their_links() -> None:
    """Processes of one program have clients of one name."""
    async with (
        beta() as peer,
        client_of(peer.node) as one,
    ):
        other = Client(A, options_for(peer.node), loop=loop_kind())
        try:
            links: set[Link] = set()
            for _ in range(3):
                for client in (one, other):
                    assert await in_thread(client.call, B, "echo", b"x") == b"x"
                links.update(peer.node.links)
            assert len(links) == 2
        finally:
            await in_thread(other.close)


# --- processes -----------------------------------------------------------------------


async def run_program(
    folder: Path, peer: Beta, name: str
) -> tuple[int, list[dict[str, Any]], str]:
    """Run a program of `helpers.blocking_main`; its status, and what it said."""
    host, port = peer.node.acceptors[0].address
    done = await asyncio.to_thread(
        subprocess.run,
        [
            sys.executable,
            "-W", "error",
            # Python 3.12 and newer warn of each fork of a process with threads.
            "-W", "ignore:This process:DeprecationWarning",
            "-m", "helpers.blocking_main",
            str(folder), f"{host}:{port}", loop_kind(), name,
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sys.path))},
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        check=False,
    )  # fmt: skip
    said = [json.loads(line) for line in done.stdout.splitlines()]
    return done.returncode, said, done.stderr


@asynccontextmanager
async def program(
    folder: Path, name: str
) -> AsyncIterator[tuple[Beta, int, dict[str, Any], str]]:
    """What a program said, in one dictionary, with lists of what children said."""
    write_certificates(folder, A, B)
    async with beta(manager=manager_of(folder, B)) as peer:
        status, lines, errors = await run_program(folder, peer, name)
        said: dict[str, Any] = {}
        for line in lines:
            for key, value in line.items():
                if key in ("pid", "child"):
                    said.setdefault(key, []).append(value)
                else:
                    said[key] = value
        yield peer, status, said, errors


async def test_exit_with_an_open_client(tmp_path: Path) -> None:
    async with program(tmp_path, "open_at_exit") as (peer, status, said, errors):
        assert (status, errors) == (0, "")
        assert said["echo"] == "hello"
        # The exit function has seen to it that all of them left.
        assert peer.kept == [b"%d" % number for number in range(100)]


@pytest.mark.parametrize(
    ("name", "status"),
    [("exception", 3), ("busy_daemons", 0), ("hard_exit", 5)],
)
async def test_exit_says_nothing(tmp_path: Path, name: str, status: int) -> None:
    async with program(tmp_path, name) as (_, ended, _, errors):
        assert (ended, errors) == (status, "")


async def test_exit_with_a_call_under_way(tmp_path: Path) -> None:
    async with program(tmp_path, "daemon_thread") as (peer, status, said, errors):
        assert (status, errors) == (0, "")
        assert said["echo"] == "hello"  # in an exit function, before the client ended
        assert said["released"]
        assert "was closed" in said["late"]
        async with asyncio.timeout(WAIT_SECONDS):
            await peer.cancelled.acquire()


async def test_exit_with_a_peer_that_takes_nothing(tmp_path: Path) -> None:
    async with program(tmp_path, "stuck_peer") as (_, status, said, errors):
        assert (status, said["queued"]) == (0, True)
        assert said["seconds"] < 10  # and not shutdown_timeout, which is 30 s
        assert "stopped before all was done" in errors


async def test_keyboard_interrupt(tmp_path: Path) -> None:
    async with program(tmp_path, "interrupted") as (_, status, said, errors):
        assert (status, errors) == (0, "")
        assert (said["came"], said["echo"]) == ("KeyboardInterrupt", "hello")


FORKS = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


@FORKS
@pytest.mark.parametrize(
    ("name", "children"),
    [
        ("made_before_fork", 2),
        ("used_before_fork", 1),
        ("idle_child", 0),
        ("fork_from_busy_threads", 3),
        ("fork_while_a_hook_runs", 1),
    ],
)
async def test_fork(tmp_path: Path, name: str, children: int) -> None:
    async with program(tmp_path, name) as (_, status, said, errors):
        assert (status, errors) == (0, "")
        assert said.get("child", []) == ["hello"] * children
        assert said["parent"] == "hello"
        assert set(said["reaped"]) == {7}
        assert said.get("same_link", True)
        assert said.get("stats", 0) == 0
        assert said.get("closed", []) == []


@FORKS
async def test_fork_while_the_thread_waits(tmp_path: Path) -> None:
    async with program(tmp_path, "fork_in_signal_handler") as (_, status, said, errors):
        assert (status, errors) == (0, "")
        assert "was forked" in said["child"][0]
        assert said["echo"] == "hello"
        assert (said["parent"], said["reaped"]) == ("released", [7])


@FORKS
async def test_a_closed_client_is_closed_in_children(tmp_path: Path) -> None:
    async with program(tmp_path, "closed_before_fork") as (_, status, said, errors):
        assert (status, errors, said["reaped"]) == (0, "", [7])
        assert "was closed" in said["child"][0]
