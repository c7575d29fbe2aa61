"""Services: many instances behind one name, with real nodes and certificates."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import pytest

from fastnode import (
    AcceptorOptions,
    Busy,
    CallError,
    CallTimeout,
    ConfigError,
    LinkClosed,
    LinkLost,
    Message,
    Node,
    NoInstance,
    NoSuchEndpoint,
    PeerNameMismatch,
    RemoteError,
    Reply,
    Retry,
    Service,
)
from fastnode.discovery import StaticDiscovery, Target
from fastnode.limits import EJECT_AFTER_FAILURES
from fastnode.link.link import protocol_of
from helpers.nodes import WAIT_SECONDS, A, introduce, refusing, running, until
from helpers.pki import manager, odd_certificate
from helpers.services import SHOP, shop, target


def states(service: Service) -> Counter[str]:
    """How many instances are in each state."""
    return Counter(each.state for each in service.instances)


async def calls(service: Service, count: int, **options: Any) -> None:
    """Make so many calls, 32 at a time."""
    left = count

    async def one() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await service.call("count", b"", timeout=WAIT_SECONDS, **options)

    async with asyncio.TaskGroup() as group:
        for _ in range(32):
            group.create_task(one())


# --- choosing --------------------------------------------------------------------


async def test_equal_instances_get_a_third_each() -> None:
    async with shop(3) as made:
        service = made.caller.service("shop")
        await service.wait_ready(3, timeout=WAIT_SECONDS)
        await calls(service, 10_000)
        for node in made.nodes:
            assert abs(made.got[node.instance] / 10_000 - 1 / 3) < 0.02
        assert service.stats.calls == 10_000
        assert service.stats.retries == service.stats.failures == 0
        assert states(service) == {"ready": 3}
        assert all(each.outstanding == 0 for each in service.instances)


async def test_weights_of_targets_count() -> None:
    async with shop(2) as made:
        light, heavy = made.nodes
        made.discovery.replace({"shop": [target(light, 50), target(heavy, 150)]})
        service = made.caller.service("shop", policy="weighted")
        await service.wait_ready(2, timeout=WAIT_SECONDS)
        await calls(service, 400)
        assert abs(made.got[heavy.instance] - 300) < 20
        # A target with weight 0 gets nothing, and its calls under way are answered.
        made.discovery.replace({"shop": [target(light, 0), target(heavy)]})
        await until(lambda: {each.weight for each in service.instances} == {0, 100})
        made.got.clear()
        await calls(service, 100)
        assert made.got == {heavy.instance: 100}


async def test_the_same_key_finds_the_same_instance() -> None:
    async with shop(4) as made:
        keys = [b"customer-%d" % number for number in range(64)]
        service = made.caller.service("shop")
        # Not before every target was tried: a key would find another one later.
        first = [await service.call("who", b"", key=key) for key in keys]
        assert len(set(first)) == 4
        async with running("gate@127.0.0.1", discovery=made.discovery) as other:
            elsewhere = other.service("shop")
            assert [await elsewhere.call("who", b"", key=k) for k in keys] == first
            # A str is the same key as its UTF-8.
            key = keys[0].decode()
            assert await elsewhere.call("who", b"", key=key) == first[0]
        gone = made.nodes.pop()
        made.name(made.nodes)
        await until(lambda: len(service.instances) == 3)
        then = [await service.call("who", b"", key=key) for key in keys]
        moved = [was for was, now in zip(first, then, strict=True) if was != now]
        assert set(moved) == {gone.instance.encode()}


async def test_many_targets_are_a_stable_part() -> None:
    async with shop(6) as made:
        service = made.caller.service("shop", max_instances=2)
        await service.wait_ready(2, timeout=WAIT_SECONDS)
        known = {each.address for each in service.instances}
        assert len(known) == 2
        others = [n for n in made.nodes if n.acceptors[0].address not in known]
        made.name([n for n in made.nodes if n is not others[0]])
        await asyncio.wait([service.members.change()], timeout=0.2)
        assert {each.address for each in service.instances} == known
        # One of the part leaves: the others stay, and one more comes.
        stays = min(known)
        made.name(
            n
            for n in made.nodes
            if n is not others[0] and (n.acceptors[0].address == stays or n in others)
        )
        await until(lambda: states(service) == {"ready": 2})
        assert stays in {each.address for each in service.instances}
        assert len(made.caller.links) <= 3  # the one that left is closed later


async def test_targets_that_cannot_be_reached_make_room() -> None:
    async with shop(2) as made:
        with refusing() as nowhere:
            good = [target(each) for each in made.nodes]
            made.discovery.replace({"shop": [Target(*nowhere), *good]})
            service = made.caller.service("shop", max_instances=2)
            await service.wait_ready(2, timeout=WAIT_SECONDS)
            await calls(service, 20)


# --- instances that leave ----------------------------------------------------------


async def test_a_rolling_restart_under_load_loses_no_call() -> None:
    async with shop(3) as made:
        service = made.caller.service("shop")
        await service.wait_ready(3, timeout=WAIT_SECONDS)
        done, stop = 0, False

        async def load() -> None:
            nonlocal done
            while not stop:
                await service.call("count", b"", timeout=WAIT_SECONDS)
                done += 1

        tasks = [asyncio.create_task(load()) for _ in range(16)]
        nodes = made.nodes
        async with AsyncExitStack() as stack:
            for old in made.nodes:
                new = await stack.enter_async_context(running(SHOP))
                made.serve(new)
                nodes = [new if each is old else each for each in nodes]
                made.name(nodes)
                await until(
                    partial(more_than, partial(made.got.__getitem__, new.instance))
                )
                await old.stop()
                await until(partial(more_than, lambda: done, done + 50))
            stop = True
            await asyncio.gather(*tasks)
            assert service.stats.failures == 0
            await service.close()


def more_than(count: Callable[[], int], least: int = 20) -> bool:
    """Whether something has happened more often."""
    return count() > least


async def test_an_instance_that_stops_is_left_in_order() -> None:
    """Without news from the discovery: the instance says that it leaves."""
    async with shop(2) as made:
        service = made.caller.service("shop")
        await service.wait_ready(2, timeout=WAIT_SECONDS)
        begun, go_on = asyncio.Event(), asyncio.Event()

        for node in made.nodes:

            @node.handler("slow")
            async def slow(message: Message) -> bytes:
                begun.set()
                await go_on.wait()
                return b"done"

        call = asyncio.create_task(service.call("slow", b"", timeout=WAIT_SECONDS))
        await begun.wait()
        busy = next(each for each in service.instances if each.outstanding)
        node = next(each for each in made.nodes if each.instance == busy.instance)
        stopping = asyncio.create_task(node.stop(WAIT_SECONDS))
        await until(lambda: states(service)["leaving"] == 1)
        made.got.clear()
        await calls(service, 200)
        assert node.instance not in made.got
        go_on.set()
        assert await call == b"done"
        await stopping


async def test_a_lost_link_ends_only_what_was_on_it() -> None:
    async with shop(2) as made:
        for node in made.nodes:

            @node.handler("stuck")
            async def stuck(message: Message, node: Node = node) -> bytes:
                if message.attempt > 1:
                    return node.instance.encode()
                await asyncio.sleep(WAIT_SECONDS)
                return b""

        service = made.caller.service("shop")
        await service.wait_ready(2, timeout=WAIT_SECONDS)
        plain = asyncio.create_task(service.call("stuck", b"", timeout=WAIT_SECONDS))
        await until(lambda: any(each.outstanding for each in service.instances))
        hit = next(each for each in service.instances if each.outstanding)
        for link in made.caller.links:
            if link.peer.instance == hit.instance:
                break
        await cut(link)
        with pytest.raises(LinkLost) as caught:
            await plain
        assert caught.value.begun == "maybe"
        # An idempotent one goes on elsewhere.
        await service.wait_ready(2, timeout=WAIT_SECONDS)
        safe = asyncio.create_task(
            service.request("stuck", b"", timeout=WAIT_SECONDS, idempotent=True)
        )
        await until(lambda: any(each.outstanding for each in service.instances))
        hit = next(each for each in service.instances if each.outstanding)
        for link in made.caller.links:
            if link.peer.instance == hit.instance:
                break
        await cut(link)
        reply = await safe
        assert isinstance(reply, Reply)
        assert reply.attempts == 2
        assert reply.payload.decode() != hit.instance
        assert service.stats.retries == 1


async def cut(link: Any) -> None:
    """Break a connection, as a cable that is pulled."""
    protocol = protocol_of(link)
    protocol.terminate(LinkLost("the test cut the connection", peer=link.peer))
    await asyncio.wait([protocol.gone], timeout=WAIT_SECONDS)


async def test_an_instance_that_comes_back_is_found() -> None:
    """The process at an address is another one: a new instance."""
    async with shop(1) as made:
        service = made.caller.service("shop")
        before = await service.call("who", b"", timeout=WAIT_SECONDS)
        host, port = made.nodes[0].acceptors[0].address
        await made.nodes[0].stop()
        async with running(
            SHOP, acceptors=[AcceptorOptions(host=host, port=port)]
        ) as again:
            made.serve(again)
            after = await service.call(
                "who", b"", timeout=WAIT_SECONDS, wait_for_ready=True
            )
            assert after == again.instance.encode() != before
            await service.close()


# --- retries -----------------------------------------------------------------------


async def test_a_busy_instance_is_passed_over() -> None:
    async with shop(2) as made:
        for node in made.nodes:

            @node.handler("one", concurrency=1, max_waiting=0)
            async def one(message: Message, node: Node = node) -> bytes:
                made.got[node.instance] += 1
                if message.payload == b"wait":
                    await asyncio.sleep(WAIT_SECONDS)
                return node.instance.encode()

        service = made.caller.service("shop")
        await service.wait_ready(2, timeout=WAIT_SECONDS)
        waits = asyncio.create_task(service.call("one", b"wait"))
        await until(lambda: made.got.total() == 1)
        blocked = next(iter(made.got))
        for _ in range(30):
            answered = await service.request("one", b"", timeout=WAIT_SECONDS)
            assert answered.payload.decode() != blocked
            assert answered.attempts in (1, 2)
        # When all have refused it, the caller hears so.
        other = asyncio.create_task(service.call("one", b"wait"))
        await until(lambda: made.got.total() == 32)
        with pytest.raises(Busy) as caught:
            await service.call("one", b"", timeout=WAIT_SECONDS)
        assert caught.value.begun == "no"
        for task in (waits, other):
            task.cancel()
        await asyncio.gather(waits, other, return_exceptions=True)


async def test_retries_keep_id_and_metadata_and_count_attempts() -> None:
    async with shop(3) as made:
        seen: list[tuple[str | None, str, int]] = []
        for node in made.nodes:

            @node.handler("flaky")
            def flaky(message: Message) -> bytes:
                seen.append((message.id, message.metadata["user"], message.attempt))
                if len(seen) < 3:
                    raise CallError("unavailable", "not now")
                return b"at last"

        service = made.caller.service("shop")
        await service.wait_ready(3, timeout=WAIT_SECONDS)
        reply = await service.request(
            "flaky", b"", metadata={"user": "7"}, idempotent=True, timeout=WAIT_SECONDS
        )
        assert reply.payload == b"at last"
        assert reply.attempts == 3
        assert [attempt for _, _, attempt in seen] == [1, 2, 3]
        assert {user for _, user, _ in seen} == {"7"}
        assert len({each for each, _, _ in seen}) == 1
        assert seen[0][0] is not None
        # A call that is not idempotent is not sent again: its handler has run.
        seen.clear()
        with pytest.raises(RemoteError, match="not now"):
            await service.call("flaky", b"", metadata={"user": "7"})
        assert len(seen) == 1


async def test_what_other_instances_would_refuse_too_is_not_sent_again() -> None:
    async with shop(3) as made:
        service = made.caller.service("shop")
        await service.wait_ready(3, timeout=WAIT_SECONDS)
        with pytest.raises(NoSuchEndpoint):
            await service.call("nothing", b"", idempotent=True)
        with pytest.raises(TypeError):
            await service.call("count", "text")  # type: ignore[arg-type]
        assert service.stats.retries == 0
        assert service.stats.failures == 2


async def test_the_budget_bounds_retries() -> None:
    async with shop(2) as made:
        for node in made.nodes:

            @node.handler("broken")
            def broken(message: Message) -> bytes:
                made.got[message.endpoint] += 1
                raise CallError("unavailable")

        retry = Retry(budget=0.0, budget_per_second=2.0)
        service = made.caller.service("shop", retry=retry)
        await service.wait_ready(2, timeout=WAIT_SECONDS)
        for _ in range(100):
            with pytest.raises(RemoteError):
                await service.call("broken", b"", idempotent=True)
        assert service.stats.retries < 50
        assert service.stats.budget_exhausted >= 50
        assert made.got["broken"] == 100 + service.stats.retries


async def test_a_failing_instance_is_ejected_and_comes_back() -> None:
    async with shop(3) as made:
        broken = made.nodes[0]
        service = made.caller.service("shop")
        await service.wait_ready(3, timeout=WAIT_SECONDS)
        fails = True

        for node in made.nodes:

            @node.handler("work")
            def work(message: Message, node: Node = node) -> bytes:
                made.got[node.instance] += 1
                if node is broken and fails:
                    raise RuntimeError("the disk is full")
                return b""

        failed = 0
        logging.getLogger("fastnode.link").setLevel(logging.CRITICAL)
        try:
            while not states(service)["ejected"]:
                try:
                    await service.call("work", b"")
                except RemoteError:
                    failed += 1
        finally:
            logging.getLogger("fastnode.link").setLevel(logging.NOTSET)
        assert failed == EJECT_AFTER_FAILURES
        made.got.clear()
        for _ in range(60):
            await service.call("work", b"")
        if states(service)["ejected"]:  # a slow machine may be past its second
            assert broken.instance not in made.got
        status = next(e for e in service.instances if e.instance == broken.instance)
        assert isinstance(status.last_error, RemoteError)
        assert status.failures == EJECT_AFTER_FAILURES
        assert service.stats.ejections == 1
        fails = False
        await until(lambda: states(service) == {"ready": 3})
        while broken.instance not in made.got:
            await service.call("work", b"")


async def test_a_hedge_answers_when_the_first_attempt_is_slow() -> None:
    async with shop(2) as made:
        cancelled: list[str] = []
        slow = made.nodes[0]
        for node in made.nodes:

            @node.handler("lookup")
            async def lookup(message: Message, node: Node = node) -> bytes:
                if node is slow:
                    try:
                        await asyncio.sleep(WAIT_SECONDS)
                    except asyncio.CancelledError:
                        cancelled.append(message.id or "")
                        raise
                return f"{message.id} {message.attempt}".encode()

        service = made.caller.service("shop", policy="round_robin")
        await service.wait_ready(2, timeout=WAIT_SECONDS)
        found = [
            await service.call(
                "lookup", b"", idempotent=True, hedge_after=0.02, timeout=WAIT_SECONDS
            )
            for _ in range(4)
        ]
        assert service.stats.hedges >= 1
        assert {each.split()[1] for each in found} == {b"1", b"2"}
        await until(lambda: len(cancelled) == service.stats.hedges)
        # The hedge is known to be the same call. On a busy machine the fast instance is
        # hedged too now and then.
        assert set(cancelled) >= {
            each.split()[0].decode() for each in found if each.endswith(b"2")
        }


async def test_attempt_timeout_and_hedges_are_for_idempotent_calls() -> None:
    async with shop(1) as made:
        service = made.caller.service("shop")
        await service.wait_ready(timeout=WAIT_SECONDS)
        both: tuple[dict[str, Any], ...] = ({"attempt_timeout": 1}, {"hedge_after": 1})
        for options in both:
            with pytest.raises(ConfigError) as caught:
                await service.call("count", b"", **options)
            assert "idempotent=True" in (caught.value.hint or "")


async def test_a_slow_attempt_is_given_up_for_another_instance() -> None:
    async with shop(2) as made:
        for node in made.nodes:

            @node.handler("sometimes")
            async def sometimes(message: Message) -> bytes:
                if message.attempt == 1:
                    await asyncio.sleep(WAIT_SECONDS)
                return b"%d" % message.attempt

        service = made.caller.service("shop")
        await service.wait_ready(2, timeout=WAIT_SECONDS)
        reply = await service.call(
            "sometimes",
            b"",
            idempotent=True,
            attempt_timeout=0.05,
            timeout=WAIT_SECONDS,
        )
        assert reply == b"2"


# --- waiting -----------------------------------------------------------------------


async def test_no_instance_is_told_at_once() -> None:
    async with shop(0) as made:
        service = made.caller.service("shop")
        with pytest.raises(NoInstance) as caught:
            await service.call("count", b"", timeout=WAIT_SECONDS)
        assert caught.value.begun == "no"
        assert caught.value.code == "unavailable"
        assert "names no target" in str(caught.value)
        with pytest.raises(NoInstance):
            await service.send("count", b"")
        with pytest.raises(NoInstance):
            await service.broadcast("count", b"")
        with refusing() as nowhere:
            made.discovery.replace({"shop": [Target(*nowhere)]})
            await until(lambda: states(service) == {"down": 1})
            with pytest.raises(NoInstance, match=str(nowhere[1])):
                await service.call("count", b"", timeout=WAIT_SECONDS)


async def test_wait_for_ready_waits_on() -> None:
    async with shop(0) as made, running(SHOP) as late:
        made.serve(late)
        service = made.caller.service("shop")
        waiting = asyncio.create_task(
            service.call("who", b"", wait_for_ready=True, timeout=WAIT_SECONDS)
        )
        with pytest.raises(CallTimeout) as caught:
            await service.call("who", b"", wait_for_ready=True, timeout=0.05)
        assert caught.value.begun == "no"
        assert isinstance(caught.value.__cause__, NoInstance)
        made.name([late])
        assert await waiting == late.instance.encode()


async def test_wait_ready() -> None:
    async with shop(2) as made:
        service = made.caller.service("shop")
        with pytest.raises(CallTimeout, match="not 3") as caught:
            await service.wait_ready(3, timeout=0.3)
        assert caught.value.begun == "no"
        await service.wait_ready(2)
        for wrong in (0, -1, True, 1.5):
            with pytest.raises(ConfigError):
                await service.wait_ready(wrong)  # type: ignore[arg-type]


async def test_the_timeout_covers_everything() -> None:
    class Silent:
        async def watch(self, service: str) -> AsyncIterator[Sequence[Target]]:
            await asyncio.sleep(WAIT_SECONDS)
            yield []

    async with running(A) as caller:
        service = caller.service("shop", discovery=Silent())
        loop = asyncio.get_running_loop()
        began = loop.time()
        for ask in (service.call, service.request):
            with pytest.raises(CallTimeout) as caught:
                await ask("count", b"", timeout=0.05)
            assert caught.value.begun == "no"
        with pytest.raises(CallTimeout):
            await service.send("count", b"", timeout=0.05)
        with pytest.raises(CallTimeout):
            await service.broadcast("count", b"", timeout=0.05)
        assert loop.time() - began < WAIT_SECONDS / 2


async def test_the_deadline_of_a_handler_bounds_its_calls() -> None:
    async with shop(1) as made:
        service = made.caller.service("shop")
        await service.wait_ready(timeout=WAIT_SECONDS)
        left: list[float | None] = []

        @made.nodes[0].handler("how long")
        async def how_long(message: Message) -> bytes:
            left.append(message.time_left)
            return b""

        @made.caller.handler("front")
        async def front(message: Message) -> bytes:
            ways: list[dict[str, Any]] = [{}, {"key": b"k"}, {"idempotent": True}]
            for options in ways:
                await service.call("how long", b"", **options)
            return b""

        async with running("user@127.0.0.1") as user:
            introduce(user, made.caller)
            await user.call(A, "front", b"", timeout=20.0)
        assert len(left) == 3
        assert all(each is not None and 0 < each <= 20 for each in left)


# --- one way, and to all -----------------------------------------------------------


async def test_messages_one_way() -> None:
    async with shop(2) as made:
        service = made.caller.service("shop")
        for _ in range(20):
            await service.send("count", b"")
        await service.send("count", b"", confirm=True)
        await until(lambda: made.got.total() == 21)
        await service.send("count", b"", key=b"k", confirm=True, timeout=WAIT_SECONDS)
        assert service.stats.messages == 20
        assert service.stats.calls == 2
        with pytest.raises(ConfigError):
            await service.send("count", b"", priority="urgent")  # type: ignore[arg-type]


async def test_broadcast_has_a_result_for_each() -> None:
    async with shop(3) as made:
        service = made.caller.service("shop")

        @made.nodes[1].handler("reload")
        def reload(message: Message) -> bytes:
            return message.payload + b"!"

        with refusing() as nowhere:
            named = [*map(target, made.nodes), Target(*nowhere)]
            made.discovery.replace({"shop": named})
            results = await service.broadcast("reload", b"now", timeout=WAIT_SECONDS)
        assert len(results) == 4
        good = [each for each in results if each.error is None]
        assert [each.reply for each in good] == [b"now!"]
        assert good[0].instance.instance == made.nodes[1].instance
        kinds = Counter(type(each.error).__name__ for each in results if each.error)
        assert kinds["NoSuchEndpoint"] == 2
        lost = next(each for each in results if each.instance.address == nowhere)
        assert lost.error is not None
        assert lost.reply is None


# --- trust -------------------------------------------------------------------------


@asynccontextmanager
async def stranger(name: str, **details: Any) -> AsyncIterator[Node]:
    """A node of the same authority whose certificate does not name the service."""
    shown = odd_certificate(name, **details)
    async with running(name, manager=manager(name, shows=shown)) as node:
        yield node


async def test_guarantee_4_discovery_never_says_what_to_verify() -> None:
    """A poisoned directory names hosts whose owners have good certificates of the same
    authority. They can call themselves shop@host, and are no instances of shop."""
    async with (
        shop(1) as made,
        stranger("evil@127.0.0.1") as other_name,
        stranger("shop@localhost", uri=False) as other_host,
    ):
        for node in (other_name, other_host):
            made.serve(node)
        addresses = [
            ("127.0.0.1", each.acceptors[0].address[1])
            for each in (other_name, other_host, made.nodes[0])
        ]
        made.discovery.replace({"shop": [Target(*each) for each in addresses]})
        service = made.caller.service("shop")
        await until(lambda: states(service) == {"ready": 1, "down": 2})
        await calls(service, 100)
        assert made.got == {made.nodes[0].instance: 100}
        for each in service.instances:
            if each.state == "down":
                assert "does not belong to service shop" in str(each.last_error)
                assert isinstance(each.last_error, PeerNameMismatch)
                assert each.last_error.hint
        # The two of them alone can deny service, and nothing more.
        made.discovery.replace({"shop": [Target(*each) for each in addresses[:2]]})
        await until(lambda: states(service) == {"down": 2})
        with pytest.raises(NoInstance, match="does not belong"):
            await service.call("count", b"", timeout=WAIT_SECONDS)
        assert other_name.instance not in made.got
        assert other_host.instance not in made.got


async def test_a_host_that_the_caller_fixes_makes_an_instance() -> None:
    async with shop(0) as made, stranger("shop@localhost", uri=False) as node:
        made.serve(node)
        port = node.acceptors[0].address[1]
        made.discovery.replace({"shop": [Target("127.0.0.1", port)]})
        good = made.caller.service("shop", server_name="localhost")
        assert await good.call("who", b"", timeout=WAIT_SECONDS)
        wrong = made.caller.service("shop", server_name="shop.example")
        with pytest.raises(NoInstance, match=r"does not cover shop\.example"):
            await wrong.call("who", b"", timeout=WAIT_SECONDS)
        # The link of the good one does not make the wrong one work.
        assert await good.call("who", b"", timeout=WAIT_SECONDS)


# --- discovery ---------------------------------------------------------------------


async def test_the_last_targets_stay_while_the_discovery_fails() -> None:
    class Fails:
        def __init__(self, targets: Sequence[Target]) -> None:
            self.targets = targets
            self.asked = 0

        async def watch(self, service: str) -> AsyncIterator[Sequence[Target]]:
            self.asked += 1
            if self.asked == 1:
                yield self.targets
            raise OSError("the directory is away")

    async with shop(2) as made:
        discovery = Fails([target(each) for each in made.nodes])
        service = made.caller.service("shop", discovery=discovery)
        await service.wait_ready(2, timeout=WAIT_SECONDS)
        await until(lambda: discovery.asked > 1)
        await calls(service, 50)
        assert states(service) == {"ready": 2}


async def test_a_discovery_that_raises_harms_nobody() -> None:
    class Wrong:
        def __init__(self, error: BaseException) -> None:
            self.error = error

        async def watch(self, service: str) -> AsyncIterator[Sequence[Target]]:
            raise self.error
            yield []

    class Odd:
        async def watch(self, service: str) -> AsyncIterator[Any]:
            yield ["10.0.0.7:15000"]

    async with running(A) as caller:
        for discovery in (
            Wrong(OSError("away")),
            Wrong(asyncio.CancelledError()),
            Odd(),
        ):
            service = caller.service("shop", discovery=discovery)
            with pytest.raises(NoInstance, match="the discovery does not answer"):
                await service.call("count", b"", timeout=WAIT_SECONDS)


async def test_the_same_arguments_give_the_same_service() -> None:
    async with shop(1) as made:
        service = made.caller.service("shop")
        assert made.caller.service("shop") is service
        assert made.caller.service("shop", retry=Retry()) is not service
        assert made.caller.service("shop", policy="round_robin") is not service
        await service.close()
        again = made.caller.service("shop")
        assert again is not service
        with pytest.raises(LinkClosed, match="was closed") as caught:
            await service.call("count", b"")
        assert caught.value.begun == "no"
        await again.call("count", b"", timeout=WAIT_SECONDS)


async def test_closing_a_service_closes_its_links_in_order() -> None:
    async with shop(2) as made:
        async with made.caller.service("shop") as service:
            other = made.caller.service("shop", policy="round_robin")
            await service.wait_ready(2, timeout=WAIT_SECONDS)
            await other.wait_ready(2, timeout=WAIT_SECONDS)
        # The other one still uses them.
        await calls(other, 10)
        assert len(made.caller.links) == 2
        await other.close()
        await until(lambda: not made.caller.links)


async def test_stopping_the_node_ends_waiting_calls() -> None:
    async with running(A, discovery=StaticDiscovery({})) as caller:
        service = caller.service("shop")
        waiting = asyncio.create_task(service.call("x", b"", wait_for_ready=True))
        await asyncio.sleep(0)
        await caller.stop()
        with pytest.raises(LinkClosed):
            await waiting
        with pytest.raises(LinkClosed):
            caller.service("shop")


async def test_arguments_are_checked() -> None:
    async with running(A) as caller:
        with pytest.raises(ConfigError, match="no discovery"):
            caller.service("shop")
        discovery = StaticDiscovery({})
        wrongs: tuple[dict[str, Any], ...] = (
            {"policy": "fastest"},
            {"max_instances": 0},
            {"max_instances": True},
            {"retry": 3},
            {"server_name": "not a host"},
            {"discovery": object()},
        )
        for wrong in wrongs:
            with pytest.raises(ConfigError) as caught:
                caller.service("shop", **({"discovery": discovery} | wrong))
            assert caught.value.hint
        for name in ("shop@127.0.0.1", "", "a b", 7):
            with pytest.raises(ConfigError):
                caller.service(name, discovery=discovery)  # type: ignore[arg-type]
        service = caller.service("shop", discovery=discovery)
        with pytest.raises(ConfigError, match="key"):
            await service.call("x", b"", key=7)  # type: ignore[arg-type]
        with pytest.raises(ConfigError):
            await service.call("x", b"", timeout=-1)
        with pytest.raises(ConfigError):
            await service.send("x", b"", timeout=-1)
