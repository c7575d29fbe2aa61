"""The health of a node over a real link: its state, its checks, and who may ask."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest

from fastnode import (
    AcceptorOptions,
    Busy,
    CheckResult,
    Message,
    NetworkOptions,
    Node,
    NodeHealth,
    NodeOptions,
    NoSuchEndpoint,
    current_message,
)
from fastnode.node.health import HEALTH_ENDPOINT
from helpers.nodes import WAIT_SECONDS, A, B, introduce, pair, running, until
from helpers.pki import manager

C = "gamma@127.0.0.1"
#: The least window that a node may have, twice: it is full soon.
WINDOW = 1 << 18


async def ask(node: Node, peer: str) -> dict[str, Any]:
    reply = await node.call(peer, HEALTH_ENDPOINT, b"", timeout=WAIT_SECONDS)
    told: dict[str, Any] = json.loads(reply)
    return told


def state(node: Node) -> str:
    # A type checker would take `node.health.state` for a value that never changes.
    return node.health.state


async def checked(node: Node, name: str) -> CheckResult:
    """The result of a check, when it was run."""
    await until(lambda: node.health.checks[name].ok is not None)
    return node.health.checks[name]


# --- the state -----------------------------------------------------------------------


async def test_a_started_node_is_ready() -> None:
    async with pair() as (a, b):
        assert b.health == NodeHealth("ready")
        assert await ask(a, B) == {
            "node": B,
            "instance": b.instance,
            "state": "ready",
            "ok": True,
            "checks": {},
        }


async def test_ready_is_said_and_taken_back() -> None:
    async with pair(second={"node_options": {"ready": False}}) as (a, b):
        heard: list[bool] = []
        b.on_ready_change(heard.append)
        assert (await ask(a, B))["state"] == "starting"
        b.set_ready(True)
        assert (await ask(a, B))["state"] == "ready"
        b.set_ready(True)
        b.set_ready(False)
        told = await ask(a, B)
        assert (told["state"], told["ok"]) == ("starting", False)
        assert heard == [True, False]


async def test_connections_wait_for_accept() -> None:
    """A node can register handlers, and dial, before anyone finds it unprepared."""
    async with running(B) as b, running(C) as c:
        network = NetworkOptions(acceptors=[AcceptorOptions(port=0)])
        a = Node(A, NodeOptions(cert_manager=manager(A), network=network))
        await a.start(accept=False)
        async with a:
            introduce(b, a)
            introduce(a, c)
            calling = asyncio.ensure_future(
                b.call(A, "late", b"", timeout=WAIT_SECONDS)
            )
            assert (await ask(a, C))["ok"]
            assert state(a) == "starting"
            assert a.acceptors[0].stats.connections == 0
            a.handler("late")(lambda message: b"here")
            assert not calling.done()
            a.accept()
            a.accept()
            assert state(a) == "ready"
            assert await calling == b"here"
        a.accept()
        assert state(a) == "stopped"


async def test_leaving_and_stopped() -> None:
    async with pair() as (a, b):
        begun, go_on = asyncio.Event(), asyncio.Event()
        heard: list[tuple[bool, str]] = []
        b.on_ready_change(lambda ready: heard.append((ready, b.health.state)))

        @b.handler("slow")
        async def slow(message: Message) -> bytes:
            begun.set()
            await go_on.wait()
            return message.payload

        link = await a.connect(B)
        call = asyncio.ensure_future(link.call("slow", b"1", timeout=WAIT_SECONDS))
        await begun.wait()
        stopping = asyncio.ensure_future(b.stop())
        await until(lambda: link.leaving)
        assert heard == [(False, "leaving")]
        told = json.loads(await link.call(HEALTH_ENDPOINT, b"", timeout=WAIT_SECONDS))
        assert (told["state"], told["ok"]) == ("leaving", False)
        # What the program says has no effect any more.
        b.set_ready(True)
        assert state(b) == "leaving"
        go_on.set()
        assert await call == b"1"
        await stopping
        assert state(b) == "stopped"
        assert heard == [(False, "leaving")]


async def test_a_listener_that_raises(caplog: pytest.LogCaptureFixture) -> None:
    async with running(A) as a:
        heard: list[bool] = []

        def broken(ready: bool) -> None:
            raise BaseExceptionGroup("x", [asyncio.CancelledError()])

        a.on_ready_change(broken)
        a.on_ready_change(heard.append)
        a.set_ready(False)
        assert heard == [False]
        assert "a callback of on_ready_change raised" in caplog.text


# --- checks --------------------------------------------------------------------------


async def test_results_of_checks(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fastnode.node")

    async def asynchronous() -> str:
        await asyncio.sleep(0)
        return "PONG"

    async def refused() -> None:
        raise ConnectionRefusedError("postgres://user:secret@db refused")

    async with pair() as (a, b):
        b.add_check("none", lambda: None)
        b.add_check("true", lambda: True)
        b.add_check("text", asynchronous)
        b.add_check("false", lambda: False)
        b.add_check("zero", lambda: 0)
        b.add_check("refused", refused)
        good = [(await checked(b, name)).ok for name in ("none", "true", "text")]
        assert good == [True, True, True]
        for name in ("false", "zero"):
            assert (await checked(b, name)).reason == "it returned a false value"
        result = await checked(b, "refused")
        assert result.reason == "ConnectionRefusedError"
        assert "secret" in str(result.error)
        assert "the check 'refused' fails: ConnectionRefusedError: post" in caplog.text
        assert (b.health.state, b.health.ok) == ("ready", False)
        told = await ask(a, B)
        assert (told["state"], told["ok"]) == ("ready", False)
        assert told["checks"]["refused"]["reason"] == "ConnectionRefusedError"
        # The text of an exception may be a secret.
        assert "secret" not in json.dumps(told)


async def test_a_check_that_comes_back(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fastnode.node")
    works, runs = False, 0

    def check() -> bool:
        nonlocal runs
        runs += 1
        return works

    async with pair() as (a, b):
        b.add_check("database", check, interval=0.01)
        await until(lambda: runs >= 3)
        assert not (await ask(a, B))["ok"]
        works = True
        await until(lambda: b.health.ok)
        assert (await ask(a, B))["ok"]
    said = [line for line in caplog.messages if "database" in line]
    assert [line.partition("'database' ")[2] for line in said] == [
        "fails: it returned a false value",
        "passes again",
    ]
    # The results stay, and nothing is run any more.
    assert b.health.checks["database"].ok
    assert state(b) == "stopped"


async def test_a_check_that_was_added_before_the_start() -> None:
    node = Node(A, NodeOptions(network=NetworkOptions(plaintext=True, acceptors=())))
    node.add_check("early", lambda: True)
    assert node.health.checks == {"early": CheckResult()}
    async with await node.start():
        assert not node.health.ok
        assert (await checked(node, "early")).ok


async def test_checks_are_bounded_in_time() -> None:
    stuck = asyncio.Event()
    runs = hung = 0

    async def hangs() -> None:
        nonlocal hung
        hung += 1
        await asyncio.Event().wait()

    async def swallows() -> None:
        nonlocal runs
        runs += 1
        while not stuck.is_set():
            try:
                await stuck.wait()
            except asyncio.CancelledError:
                continue

    async with running(A) as a:
        a.add_check("hangs", hangs, timeout=0.02, interval=0.01)
        a.add_check("swallows", swallows, timeout=0.02, interval=0.01)
        a.add_check("good", lambda: True)
        try:
            for name in ("hangs", "swallows"):
                assert (await checked(a, name)).reason == "no answer within 0.02 s"
            assert (await checked(a, "good")).ok
            # It is not run again while the first run goes on.
            await until(lambda: hung > 3)
            assert runs == 1
        finally:
            stuck.set()
        await until(lambda: a.health.checks["swallows"].ok)


async def test_whatever_a_check_raises() -> None:
    class Odd(BaseException):
        def __str__(self) -> str:
            raise LookupError

    class NoBool:
        def __bool__(self) -> bool:
            raise ValueError("neither")

    async def cancels_itself() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    def cancelled() -> None:
        raise asyncio.CancelledError

    def odd() -> None:
        raise Odd

    async with running(A) as a:
        a.add_check("odd", odd)
        a.add_check("no bool", NoBool)
        a.add_check("cancelled", cancelled)
        a.add_check("cancels itself", cancels_itself)
        assert (await checked(a, "odd")).error == "Odd: Odd"
        assert (await checked(a, "no bool")).error == "ValueError: neither"
        assert (await checked(a, "cancelled")).reason == "CancelledError"
        assert (await checked(a, "cancels itself")).reason == "it was cancelled"


async def test_a_check_runs_in_the_node_s_context() -> None:
    """A handler may add a check. Its message is nothing for the check."""
    async with pair() as (a, b):
        seen: list[object] = []

        @b.handler("add")
        async def add(message: Message) -> bytes:
            assert current_message() is message
            b.add_check("late", lambda: seen.append(current_message()))
            return b""

        await a.call(B, "add", b"", timeout=WAIT_SECONDS)
        assert (await checked(b, "late")).ok
        assert seen == [None]


# --- who may ask, and when -----------------------------------------------------------


async def test_a_default_handler_does_not_get_reserved_names() -> None:
    async with pair() as (a, b):
        got: list[str] = []
        b.default_handler(lambda message: got.append(message.endpoint))
        assert (await ask(a, B))["ok"]
        with pytest.raises(NoSuchEndpoint):
            await a.call(B, "fastnode.later", b"", timeout=WAIT_SECONDS)
        await a.send(B, "other", b"", confirm=True, timeout=WAIT_SECONDS)
        assert got == ["other"]


async def test_health_answers_while_another_endpoint_is_full() -> None:
    """Its handler is stuck, its window is full, and its calls are refused."""
    async with pair(second={"window": WINDOW, "max_window": WINDOW}) as (a, b):
        go_on = asyncio.Event()

        @b.handler("stuck", concurrency=1, max_waiting=0)
        async def stuck(message: Message) -> bytes:
            await go_on.wait()
            return b""

        link = await a.connect(B)
        for _ in range(2 * WINDOW // 4096):
            link.send("stuck", bytes(4096))
        assert (await ask(a, B))["ok"]
        assert b._endpoints.unfinished()["stuck"]["running"] == 1
        go_on.set()


async def test_health_answers_while_the_loop_is_late() -> None:
    """Calls are shed, but who asks for the health learns how things are."""
    async with pair(second={"node_options": {"shed_above": 0.001}}) as (a, b):
        b.handler("echo")(lambda message: message.payload)
        link = await a.connect(B)
        lag = b._lag
        assert lag is not None
        lag.stop()
        loop: Any = NoTimers()
        lag.start(loop)
        with pytest.raises(Busy):
            async with asyncio.timeout(WAIT_SECONDS):
                while True:
                    await link.call("echo", b"")
        assert (await ask(a, B))["ok"]
        lag.stop()


class NoTimers:
    """A loop that is so late that no timer comes."""

    def call_later(self, delay: float, callback: Any) -> Any:
        return asyncio.get_running_loop().create_future()


async def test_one_way_messages_to_the_endpoint_are_dropped() -> None:
    async with pair() as (a, b):
        await a.send(B, HEALTH_ENDPOINT, b"", confirm=True, timeout=WAIT_SECONDS)
        assert b.links[0].stats.unhandled_messages == 0
