"""What callers of a service can rely on when calls, links and targets go wrong."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastnode import (
    CallError,
    ConfigError,
    LinkClosed,
    LinkLost,
    Message,
    Node,
    NoSuchEndpoint,
    Service,
)
from fastnode.discovery import StaticDiscovery, Target
from fastnode.link.link import protocol_of
from helpers.group import NAME, make_group
from helpers.nodes import WAIT_SECONDS, running, until
from helpers.served import certificates_of_a_group, dialers
from helpers.services import SHOP, shop


def outstanding(service: Service) -> int:
    return sum(each.outstanding for each in service.instances)


async def test_cancelled_callers_leave_nothing_behind() -> None:
    complaints: list[Any] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    async with shop(2) as made:
        service = made.caller.service("shop")
        started = 0

        def serve(node: Node) -> None:
            @node.handler("never")
            async def never(message: Message) -> bytes:
                nonlocal started
                started += 1
                await asyncio.get_running_loop().create_future()
                raise AssertionError

        for node in made.nodes:
            serve(node)
        await service.wait_ready(2, timeout=WAIT_SECONDS)
        states: list[dict[str, Any]] = [
            {},
            {"key": b"k"},
            {"idempotent": True},
            {"idempotent": True, "hedge_after": 0.0},
            {"idempotent": True, "hedge_after": 100.0},
        ]
        callers: list[asyncio.Task[Any]] = [
            asyncio.create_task(service.call("never", b"", **each)) for each in states
        ]
        callers.append(asyncio.create_task(service.request("never", b"")))
        everyone = asyncio.create_task(service.broadcast("never", b""))
        expected = len(callers) + 3
        # One attempt for each, one more for the hedge, and two for the broadcast.
        await until(lambda: started == expected)
        for caller in (*callers, everyone):
            caller.cancel()
        ends = await asyncio.gather(*callers, everyone, return_exceptions=True)
        assert all(isinstance(each, asyncio.CancelledError) for each in ends)
        assert outstanding(service) == 0
        assert service.stats.calls == service.stats.failures == len(callers)

        made.discovery.replace({})
        await until(lambda: not service.instances)
        waiting: list[asyncio.Task[Any]] = [
            asyncio.create_task(service.call("never", b"", wait_for_ready=True)),
            asyncio.create_task(service.send("never", b"", wait_for_ready=True)),
            asyncio.create_task(service.wait_ready()),
        ]
        await asyncio.sleep(0)
        for each in waiting:
            each.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    del callers, everyone, waiting, ends, caller
    gc.collect()
    await asyncio.sleep(0)
    assert not complaints


async def test_begun_speaks_of_all_attempts() -> None:
    async with shop(2) as made:
        service = made.caller.service("shop")
        await service.wait_ready(2, timeout=WAIT_SECONDS)
        chosen = await service.call("who", b"", key=b"k", timeout=WAIT_SECONDS)
        (node,) = [each for each in made.nodes if each.instance.encode() == chosen]

        @node.handler("only here")
        async def cut(message: Message) -> bytes:
            protocol_of(*node.links).terminate(LinkLost("cut by the test"))
            return b""

        # The first attempt has run, and the second one did not begin.
        with pytest.raises(NoSuchEndpoint) as caught:
            await service.call(
                "only here", b"", key=b"k", idempotent=True, timeout=WAIT_SECONDS
            )
        assert caught.value.begun == "maybe"


@pytest.mark.parametrize(
    "wrong",
    [
        {"payload": "text"},
        {"payload": None},
        {"metadata": {"a": 1}},
        {"metadata": 7},
        {"timeout": -1},
        {"timeout": "soon"},
        {"priority": "huge"},
        {"endpoint": ""},
        {"endpoint": None},
    ],
    ids=str,
)
async def test_all_ways_of_a_call_refuse_the_same(wrong: dict[str, Any]) -> None:
    arguments: dict[str, Any] = {"endpoint": "count", "payload": b"", **wrong}
    endpoint, payload = arguments.pop("endpoint"), arguments.pop("payload")
    async with shop(1) as made:
        service = made.caller.service("shop")
        await service.wait_ready(timeout=WAIT_SECONDS)
        (link,) = made.caller.links
        kinds, failures = [], []
        ways: list[Callable[[], Any]] = [
            lambda: link.call(endpoint, payload, **arguments),
            lambda: service.call(endpoint, payload, **arguments),
            lambda: service.call(endpoint, payload, idempotent=True, **arguments),
            lambda: service.call(endpoint, payload, key=b"k", **arguments),
            lambda: service.request(endpoint, payload, **arguments),
            lambda: service.send(endpoint, payload, confirm=True, **arguments),
        ]
        for way in ways:
            with pytest.raises((TypeError, ValueError)) as caught:
                await way()
            kinds.append(caught.type)
            stats = service.stats
            failures.append(stats.calls - stats.failures)
        assert len(set(kinds)) == 1, kinds
        assert not any(failures)
        assert outstanding(service) == 0
        assert not any(made.got.values())


async def test_all_attempts_have_the_payload_of_the_first() -> None:
    async with shop(2) as made:
        service = made.caller.service("shop")
        payload = bytearray(b"first")
        got: list[bytes] = []

        def serve(node: Node) -> None:
            @node.handler("note")
            def note(message: Message) -> bytes:
                got.append(bytes(message.payload))
                payload[:] = b"later"
                if len(got) == 1:
                    raise CallError("unavailable", "again")
                return b""

        for node in made.nodes:
            serve(node)
        await service.wait_ready(2, timeout=WAIT_SECONDS)
        await service.call("note", payload, idempotent=True, timeout=WAIT_SECONDS)
        assert got == [b"first", b"first"]


async def test_a_first_attempt_counts_once_against_the_time_of_a_handler() -> None:
    async with shop(1) as made:
        service = made.caller.service("shop")
        await service.wait_ready(timeout=WAIT_SECONDS)
        left: list[float | None] = []

        @made.nodes[0].handler("ask")
        async def ask(message: Message) -> bytes:
            # As if a first attempt of 10 s had failed.
            began = asyncio.get_running_loop().time() - 10.0
            for timeout in (None, 100.0, 20.0):
                made_ask = service.make_ask(
                    "who",
                    b"",
                    timeout,
                    None,
                    False,
                    None,
                    None,
                    False,
                    0,
                    None,
                    True,
                    False,
                    False,
                    began,
                )
                left.append(made_ask.left())
            return b""

        (link,) = made.caller.links
        await link.call("ask", b"", timeout=60.0)
        of_handler, same, own = map(float, filter(None, left))
        assert 15.0 < of_handler <= 60.0
        assert 15.0 < same <= 60.0
        assert own <= 10.0


async def test_a_key_that_cannot_be_used_is_refused() -> None:
    async with shop(1) as made:
        service = made.caller.service("shop")
        await service.wait_ready(timeout=WAIT_SECONDS)
        assert await service.call("echo", b"1", key="k") == b"1"
        for key in (7, 1.5, object()):
            with pytest.raises(ConfigError):
                await service.call("echo", b"", key=key)  # type: ignore[arg-type]
        with pytest.raises(ConfigError):
            await service.wait_ready(timeout="soon")  # type: ignore[arg-type]


async def test_calls_under_way_are_answered_when_a_service_closes() -> None:
    async with shop(2) as made:
        release = asyncio.Event()
        begun = 0

        def serve(node: Node) -> None:
            @node.handler("slow")
            async def slow(message: Message) -> bytes:
                nonlocal begun
                begun += 1
                await release.wait()
                return b"done"

        for node in made.nodes:
            serve(node)
        service = made.caller.service("shop")
        await service.wait_ready(2, timeout=WAIT_SECONDS)
        calls = [asyncio.create_task(service.call("slow", b"")) for _ in range(10)]
        await until(lambda: begun == 10)
        await service.close()
        with pytest.raises(LinkClosed):
            await service.call("echo", b"")
        with pytest.raises(LinkClosed):
            await service.send("echo", b"")
        release.set()
        assert set(await asyncio.gather(*calls)) == {b"done"}
        await service.close()
        await until(lambda: not made.caller.links)
        assert service.stats.calls == 11
        assert service.stats.failures == 1


async def test_closed_services_are_forgotten() -> None:
    async with shop(1) as made:
        for most in range(1, 20):
            await made.caller.service("shop", max_instances=most).close()
        assert len(made.caller._services._services) == 1


async def test_reconnects_lose_no_call() -> None:
    async with shop(2) as made:
        service = made.caller.service("shop")
        await service.wait_ready(2, timeout=WAIT_SECONDS)
        over = False

        async def caller() -> int:
            count = 0
            while not over:
                await service.call("count", b"", timeout=WAIT_SECONDS)
                count += 1
            return count

        callers = [asyncio.create_task(caller()) for _ in range(8)]
        for _ in range(3):
            await made.caller.reconnect(SHOP, timeout=WAIT_SECONDS)
        over = True
        assert sum(await asyncio.gather(*callers)) == sum(made.got.values())
        assert service.stats.failures == 0
        assert outstanding(service) == 0


async def test_an_instance_that_leaves_alone_still_answers_its_calls() -> None:
    async with shop(1) as made, running(SHOP) as next_one:
        made.serve(next_one)
        service = made.caller.service("shop")
        await service.wait_ready(timeout=WAIT_SECONDS)
        release = asyncio.Event()

        @made.nodes[0].handler("slow")
        async def slow(message: Message) -> bytes:
            await release.wait()
            return b"done"

        call = asyncio.create_task(service.call("slow", b"", timeout=WAIT_SECONDS))
        await until(lambda: outstanding(service) == 1)
        stop = asyncio.create_task(made.nodes[0].stop(WAIT_SECONDS))
        await until(lambda: {each.state for each in service.instances} == {"leaving"})
        made.name([next_one])
        await service.wait_ready(timeout=WAIT_SECONDS)
        reply = await service.call("who", b"", timeout=WAIT_SECONDS)
        assert reply == next_one.instance.encode()
        release.set()
        assert await call == b"done"
        await stop


@pytest.mark.one_loop
async def test_all_workers_of_a_group_get_calls(tmp_path: Path) -> None:
    certificates_of_a_group(tmp_path)
    async with make_group(tmp_path) as group:
        service_name = NAME.partition("@")[0]
        discovery = StaticDiscovery({service_name: [Target(*group.addresses[0])]})
        async with dialers(tmp_path, group.addresses[0], 1) as (caller,):
            service = caller.service(service_name, discovery=discovery)

            def pids() -> set[bytes]:
                return {str(each.pid).encode() for each in group.status()}

            async def answered() -> set[bytes]:
                await service.wait_ready(2, timeout=WAIT_SECONDS)
                ask = service.call("who", b"", timeout=WAIT_SECONDS, idempotent=True)
                many = [
                    service.call("who", b"", timeout=WAIT_SECONDS) for _ in [0] * 20
                ]
                return set(await asyncio.gather(ask, *many))

            def instances() -> set[str | None]:
                return {each.instance for each in service.instances}

            before = pids()
            assert await answered() == before
            linked = instances()
            # A worker that dies is replaced, and the service finds the new one.
            os.kill(int(min(before)), signal.SIGKILL)
            await until(lambda: min(before) not in pids() and len(pids()) == 2)
            await until(lambda: instances() != linked)
            assert await answered() == pids()
