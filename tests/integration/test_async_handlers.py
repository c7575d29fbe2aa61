"""What an asynchronous handler may count on: a task and a context of its own."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Coroutine
from contextvars import ContextVar
from typing import Any

import pytest

from fastnode import CallTimeout, Message, RemoteError
from helpers.nodes import WAIT_SECONDS, B, pair, until

TRACE: ContextVar[str] = ContextVar("trace", default="none")


async def test_a_handler_is_a_task() -> None:
    async with pair() as (a, b):
        tasks: list[asyncio.Task[Any]] = []

        @b.handler("own")
        async def own(message: Message) -> bytes:
            task = asyncio.current_task()
            assert task is not None
            assert task in asyncio.all_tasks()
            await asyncio.sleep(0)
            assert asyncio.current_task() is task
            tasks.append(task)
            # What shows tasks finds the handler, and where it is.
            assert "own()" in repr(task)
            assert task.get_stack()[-1].f_code is own.__code__
            return task.get_name().encode()

        link = await a.connect(B)
        names = {await link.call("own", b"") for _ in range(3)}
        assert len(names) == len(set(tasks)) == 3
        await until(lambda: all(task.done() for task in tasks))
        assert [task.exception() for task in tasks] == [None] * 3


async def test_a_handler_times_out_inside() -> None:
    async with pair() as (a, b):

        @b.handler("patient")
        async def patient(message: Message) -> bytes:
            try:
                async with asyncio.timeout(0.01):
                    await asyncio.Event().wait()
            except TimeoutError:
                return b"enough"
            return b""

        @b.handler("waits for")
        async def waits_for(message: Message) -> None:
            await asyncio.wait_for(asyncio.Event().wait(), 0.01)

        @b.handler("group")
        async def group(message: Message) -> bytes:
            async with asyncio.TaskGroup() as tasks:
                two = [tasks.create_task(asyncio.sleep(0, i)) for i in range(2)]
            return b"%d" % sum(task.result() for task in two)

        link = await a.connect(B)
        assert await link.call("patient", b"", timeout=WAIT_SECONDS) == b"enough"
        assert await link.call("group", b"", timeout=WAIT_SECONDS) == b"1"
        with pytest.raises(RemoteError, match="TimeoutError"):
            await link.call("waits for", b"", timeout=WAIT_SECONDS)


@pytest.mark.parametrize("bound", [None, 1])
async def test_a_handler_that_is_cancelled_here(bound: int | None) -> None:
    async with pair() as (a, b):
        ended: list[bool] = []

        @b.handler("gives up", concurrency=bound)
        async def gives_up(message: Message) -> bytes:
            task = asyncio.current_task()
            assert task is not None
            task.add_done_callback(lambda task: ended.append(task.cancelled()))
            task.cancel()
            if message.payload:
                # It ends well all the same.
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(0)
                task.uncancel()
                return b"well"
            await asyncio.sleep(0)
            return b""

        link = await a.connect(B)
        with pytest.raises(RemoteError, match="it was cancelled"):
            await link.call("gives up", b"", timeout=WAIT_SECONDS)
        assert await link.call("gives up", b"x", timeout=WAIT_SECONDS) == b"well"
        link.send("gives up", b"")
        await until(lambda: ended == [True, False, True])
        # Nothing was logged, and nothing is held.
        (back,) = b.links
        assert back.stats.handler_errors == 0
        await link.close(timeout=WAIT_SECONDS)


@pytest.mark.parametrize("bound", [None, 1])
async def test_a_handler_has_a_context_of_its_own(bound: int | None) -> None:
    async with pair() as (a, b):
        seen: list[str] = []

        @b.handler("sets", concurrency=bound)
        async def sets(message: Message) -> bytes:
            seen.append(TRACE.get())
            TRACE.set(message.payload.decode())
            await asyncio.sleep(0)
            assert TRACE.get() == message.payload.decode()
            return b""

        async def later(message: Message) -> bytes:
            await asyncio.sleep(0)
            return TRACE.get().encode()

        @b.handler("around", concurrency=bound)
        def around(message: Message) -> Coroutine[Any, Any, bytes]:
            token = TRACE.set(message.payload.decode())
            try:
                return later(message)
            finally:
                TRACE.reset(token)

        @b.handler("before", concurrency=bound)
        def before(message: Message) -> Coroutine[Any, Any, bytes]:
            seen.append(TRACE.get())
            return later(message)

        link = await a.connect(B)
        async with asyncio.timeout(WAIT_SECONDS):
            await asyncio.gather(*[link.call("sets", b"%d" % i) for i in range(20)])
            assert seen == ["none"] * 20
            assert await link.call("around", b"x") == b"none"
            replies = [link.call("before", b"") for _ in range(5)]
            assert await asyncio.gather(*replies) == [b"none"] * 5
            assert seen == ["none"] * 25


async def test_a_handler_sees_what_the_function_around_it_set() -> None:
    async with pair() as (a, b):

        async def inner(message: Message) -> bytes:
            await asyncio.sleep(0)
            return TRACE.get().encode()

        @b.handler("traced")
        def traced(message: Message) -> Coroutine[Any, Any, bytes]:
            TRACE.set(message.payload.decode())
            return inner(message)

        link = await a.connect(B)
        async with asyncio.timeout(WAIT_SECONDS):
            replies = [link.call("traced", b"%d" % i) for i in range(20)]
            assert await asyncio.gather(*replies) == [b"%d" % i for i in range(20)]


async def test_what_else_can_be_awaited() -> None:
    class Awaitable:
        def __await__(self) -> Any:
            yield from asyncio.sleep(0).__await__()
            return b"object"

    async with pair() as (a, b):
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bytes] = loop.create_future()
        link = await a.connect(B)
        (back,) = b.links
        a.handler("echo")(lambda m: m.payload)
        b.handler("future")(lambda m: future)
        b.handler("task")(lambda m: loop.create_task(asyncio.sleep(0, b"task")))
        b.handler("object")(lambda m: Awaitable())
        # A compiled coroutine, and a call from within the handler's task.
        b.handler("call")(lambda m: back.call("echo", b"call"))
        loop.call_later(0.01, future.set_result, b"future")
        for name in ("future", "task", "object", "call"):
            reply = await link.call(name, b"", timeout=WAIT_SECONDS)
            assert reply == name.encode()
        # One that is cancelled cancels what it waits for.
        future = loop.create_future()
        with pytest.raises(CallTimeout):
            await link.call("future", b"", timeout=0.05)
        await until(future.cancelled)


async def test_the_loops_factory_makes_the_tasks() -> None:
    made: list[asyncio.Task[Any]] = []

    class OwnTask(asyncio.Task[Any]):
        pass

    def factory(
        loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any
    ) -> asyncio.Task[Any]:
        made.append(OwnTask(coroutine, loop=loop, **options))
        return made[-1]

    async with pair() as (a, b):

        @b.handler("own")
        async def own(message: Message) -> bytes:
            assert isinstance(asyncio.current_task(), OwnTask)
            await asyncio.sleep(0)
            return b"own"

        link = await a.connect(B)
        loop = asyncio.get_running_loop()
        loop.set_task_factory(factory)
        try:
            assert await link.call("own", b"", timeout=WAIT_SECONDS) == b"own"
        finally:
            loop.set_task_factory(None)
        assert made


def begun_at_once(
    loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any
) -> asyncio.Task[Any]:
    """As `asyncio.eager_task_factory`, which not every uvloop can call."""
    return asyncio.Task(coroutine, loop=loop, **{**options, "eager_start": True})


@pytest.mark.skipif(sys.version_info < (3, 12), reason="tasks begin in the next turn")
@pytest.mark.parametrize("bound", [None, 1])
async def test_tasks_that_begin_at_once(bound: int | None) -> None:
    async with pair() as (a, b):
        got: list[bytes] = []

        @b.handler("at once", concurrency=bound)
        async def at_once(message: Message) -> bytes:
            assert asyncio.current_task() is not None
            got.append(message.payload)
            return message.payload

        @b.handler("waits", concurrency=bound)
        async def waits(message: Message) -> bytes:
            await asyncio.sleep(0)
            return message.payload

        @b.handler("batch", concurrency=bound, batch=True)
        async def batch(messages: list[Message]) -> None:
            got.extend(message.payload for message in messages)

        @b.handler("for ever", concurrency=bound)
        async def for_ever(message: Message) -> bytes:
            try:
                await asyncio.Event().wait()
            finally:
                got.append(b"cancelled")
            return b""

        link = await a.connect(B)
        loop = asyncio.get_running_loop()
        loop.set_task_factory(begun_at_once)
        numbers = [b"%d" % i for i in range(50)]
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                for name in ("at once", "waits"):
                    calls = [link.call(name, number) for number in numbers]
                    assert await asyncio.gather(*calls) == numbers
                assert got == numbers
                for name in ("at once", "batch"):
                    got.clear()
                    for number in numbers:
                        link.send(name, number)
                    await until(lambda: got == numbers)
            got.clear()
            with pytest.raises(CallTimeout):
                await link.call("for ever", b"", timeout=0.05)
            await until(lambda: got == [b"cancelled"])
            await link.close(timeout=WAIT_SECONDS)
        finally:
            loop.set_task_factory(None)
