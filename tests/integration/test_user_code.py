"""Guarantee 11: whatever user code raises ends at most its own call.

`BaseException` included, and also where the exception cannot be shown.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
from collections.abc import Callable
from typing import Any

import pytest

from fastnode import (
    Message,
    Node,
    NoRoute,
    NotAuthorized,
    RemoteError,
    Side,
)
from helpers.nodes import WAIT_SECONDS, A, B, pair, running, until


class Strange(BaseException):
    """What no library expects."""


class Unprintable(Exception):
    """Its text cannot be had."""

    def __str__(self) -> str:
        raise ValueError("no text")


class Hostile(Exception):
    """Even showing it ends programs that are not careful."""

    def __str__(self) -> str:
        raise SystemExit(99)

    __repr__ = __str__


class NoText(Exception):
    """Its text is no `str`."""

    def __str__(self) -> str:
        return 5  # type: ignore[return-value]  # noqa: PLE0307


class Surrogates(Exception):
    """Its text cannot be encoded."""

    def __str__(self) -> str:
        return "half a \ud83d character"


class Text(str):
    """Text whose methods raise."""

    __slots__ = ()

    def encode(self, *args: Any, **kwargs: Any) -> bytes:
        raise ValueError("no bytes")


class OddText(Exception):
    """Its text is of another class than `str`."""

    def __str__(self) -> str:
        return Text("odd")


RAISED: list[Callable[[], BaseException]] = [
    asyncio.CancelledError,
    GeneratorExit,
    Strange,
    Unprintable,
    Hostile,
    NoText,
    OddText,
    lambda: StopAsyncIteration("early"),
]


def name_of(make: Callable[[], BaseException]) -> str:
    return type(make()).__name__


@pytest.fixture(params=RAISED, ids=name_of)
def make(request: pytest.FixtureRequest) -> Callable[[], BaseException]:
    made: Callable[[], BaseException] = request.param
    return made


async def answered(node: Node, endpoint: str, name: str, **options: Any) -> None:
    with pytest.raises(RemoteError) as caught:
        await node.call(B, endpoint, b"", timeout=WAIT_SECONDS, **options)
    assert caught.value.type_name == name
    assert caught.value.side is Side.REMOTE


@pytest.mark.parametrize("concurrency", [None, 1])
@pytest.mark.parametrize("how", ["plain", "async", "async, later"])
async def test_guarantee_11_a_handler_that_raises_anything_ends_its_own_call(
    make: Callable[[], BaseException],
    how: str,
    concurrency: int | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    def plain(message: Message) -> bytes:
        raise make()

    async def later(message: Message) -> bytes:
        if how == "async, later":
            await asyncio.sleep(0)
        raise make()

    async def other(message: Message) -> bytes:
        begun.set()
        await go_on.wait()
        return b"unhurt"

    async with pair() as (a, b):
        b.handler("raises", concurrency=concurrency)(plain if how == "plain" else later)
        b.handler("other")(other)
        link = await a.connect(B)
        unhurt = asyncio.ensure_future(link.call("other", b"", timeout=WAIT_SECONDS))
        await begun.wait()
        name = name_of(make)
        for _ in range(3):
            await answered(a, "raises", name)
        await asyncio.gather(*(answered(a, "raises", name) for _ in range(5)))
        link.send("raises", b"")
        if how == "plain":
            with pytest.raises(RemoteError):
                await link.send_confirmed("raises", b"", timeout=WAIT_SECONDS)
        await answered(a, "raises", name)
        go_on.set()
        assert await unhurt == b"unhurt"
        assert not link.closed
        await until(lambda: b.links[0].stats.handler_errors >= 10)
    assert "the handler of 'raises' raised" in caplog.text


async def test_guarantee_11_an_exception_whose_text_cannot_be_encoded() -> None:
    def raises(message: Message) -> bytes:
        raise Surrogates

    # What pytest keeps of the log could not be encoded either.
    logging.disable(logging.CRITICAL)
    try:
        async with pair() as (a, b):
            b.handler("raises")(raises)
            await answered(a, "raises", "Surrogates")
            await answered(a, "raises", "Surrogates")
    finally:
        logging.disable(logging.NOTSET)


async def test_guarantee_11_cancelled_error_when_begun_from_the_queue() -> None:
    """As ``.result()`` of a cancelled future raises it; once that endpoint was dead."""
    go_on = asyncio.Event()
    dead: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    dead.cancel()

    def raises(message: Message) -> Any:
        if message.payload == b"wait":
            return go_on.wait()
        if message.payload == b"raise":
            return dead.result()
        return b"well"

    async with pair() as (a, b):
        b.handler("bounded", concurrency=1)(raises)
        link = await a.connect(B)
        first = asyncio.ensure_future(link.call("bounded", b"wait"))
        queued = [
            asyncio.ensure_future(link.call("bounded", b"raise")) for _ in range(3)
        ]
        await until(lambda: b.links[0].stats.calls_received == 4)
        go_on.set()
        with pytest.raises(RemoteError, match="TypeError"):
            await first  # it returned True, which is no reply
        for call in queued:
            with pytest.raises(RemoteError, match="CancelledError"):
                await call
        well = await link.call("bounded", b"", timeout=WAIT_SECONDS)
        assert well == b"well"


async def test_guarantee_11_a_batch_handler_that_raises_anything(
    make: Callable[[], BaseException],
) -> None:
    def batch(messages: list[Message]) -> None:
        raise make()

    async def later(messages: list[Message]) -> None:
        await asyncio.sleep(0)
        raise make()

    async with pair() as (a, b):
        b.handler("plain", batch=True)(batch)
        b.handler("async", batch=True, concurrency=1)(later)
        b.handler("well")(lambda message: b"well")
        link = await a.connect(B)
        for _ in range(3):
            link.send("plain", b"")
            link.send("async", b"")
            with pytest.raises(RemoteError) as caught:
                await link.send_confirmed("plain", b"", timeout=WAIT_SECONDS)
            assert caught.value.type_name == name_of(make)
        assert await link.call("well", b"", timeout=WAIT_SECONDS) == b"well"
        await until(lambda: b.links[0].stats.handler_errors >= 4)
        assert not link.closed


@pytest.mark.parametrize("how", ["plain", "async"])
async def test_guarantee_11_authorize_that_raises_anything_refuses_at_once(
    make: Callable[[], BaseException], how: str, caplog: pytest.LogCaptureFixture
) -> None:
    def plain(peer: Any) -> bool:
        raise make()

    async def later(peer: Any) -> bool:
        await asyncio.sleep(0)
        raise make()

    hook = plain if how == "plain" else later
    async with pair(second={"authorize": hook}) as (a, b):
        with pytest.raises(NotAuthorized) as caught:
            await a.connect(B)
        assert caught.value.side is Side.REMOTE
        await until(lambda: b.acceptors[0].stats.refused["NotAuthorized"] == 1)
        await until(lambda: b.acceptors[0].arriving == 0)
    assert "the authorize hook raised" in caplog.text


async def test_guarantee_11_on_the_dialer_authorize_may_raise_anything_too(
    make: Callable[[], BaseException],
) -> None:
    def hook(peer: Any) -> bool:
        raise make()

    async with pair(first={"authorize": hook}) as (a, _b):
        with pytest.raises(NotAuthorized) as caught:
            await a.connect(B)
        assert caught.value.side is Side.LOCAL


@pytest.mark.parametrize("how", ["plain", "async", "entries"])
async def test_guarantee_11_a_resolver_that_raises_anything(
    make: Callable[[], BaseException], how: str
) -> None:
    def plain(name: str) -> Any:
        raise make()

    async def later(name: str) -> Any:
        await asyncio.sleep(0)
        raise make()

    def entries(name: str) -> Any:
        def addresses() -> Any:
            yield "127.0.0.1", 1
            raise make()

        return addresses()

    hook = {"plain": plain, "async": later, "entries": entries}[how]
    async with running(A, resolver=hook, listens=False) as a:
        with pytest.raises(NoRoute, match="the resolver failed") as caught:
            await a.connect(B)
        assert caught.value.side is Side.LOCAL
        assert caught.value.hint
    gc.collect()


async def test_guarantee_11_a_shared_look_up_that_somebody_cancelled() -> None:
    """The dial fails, and `keep_connected` tries again."""
    loop = asyncio.get_running_loop()
    shared: asyncio.Future[list[tuple[str, int]]] = loop.create_future()
    shared.cancel()
    found: list[asyncio.Future[list[tuple[str, int]]]] = [shared]

    async def resolve(name: str) -> list[tuple[str, int]]:
        return await found[0]

    async with running(B) as b, running(A, resolver=resolve, listens=False) as a:
        with pytest.raises(NoRoute, match="CancelledError"):
            await a.connect(B)
        keeper = a.keep_connected(B)
        await until(lambda: keeper.error)
        assert isinstance(keeper.error, NoRoute)
        assert not keeper.closed
        good: asyncio.Future[list[tuple[str, int]]] = loop.create_future()
        good.set_result([b.acceptors[0].address])
        found[0] = good
        async with asyncio.timeout(WAIT_SECONDS):
            link = await keeper.connected()
        assert link.peer.name == B
        await keeper.close()


@pytest.mark.parametrize("hook", ["on_link_up", "on_link_down", "on_refused"])
async def test_guarantee_11_hooks_that_hear_of_links_may_raise_anything(
    hook: str, make: Callable[[], BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    told = 0

    def raises(*what: Any) -> None:
        nonlocal told
        told += 1
        raise make()

    refusing = {"authorize": lambda peer: False} if hook == "on_refused" else {}
    async with pair(second={hook: raises, **refusing}) as (a, b):
        if refusing:
            with pytest.raises(NotAuthorized):
                await a.connect(B)
        else:
            link = await a.connect(B)
            await until(lambda: b.links)
            assert await link.ping() > 0
            await link.close()
        await until(lambda: told)
    assert "raised" in caplog.text


def test_guarantee_11_what_is_cancelled_goes_on_being_cancelled() -> None:
    """A cancellation of our own is no error of the hook."""

    async def main() -> None:
        begun = asyncio.Event()

        async def never(name: str) -> Any:
            begun.set()
            await asyncio.Event().wait()

        async with running(A, resolver=never, listens=False) as a:
            task = asyncio.ensure_future(a.connect(B))
            await begun.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert task.cancelled()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("endpoint", "name", "status", "words"),
    [
        ("plain exit", "SystemExit", 7, ["cancelled"]),
        ("async exit", "SystemExit", 7, ["cancelled"]),
        ("batch exit", "SystemExit", 7, ["cancelled"]),
        ("interrupt", "KeyboardInterrupt", 8, ["cancelled", "interrupted"]),
    ],
)
async def test_guarantee_11_a_handler_that_ends_the_program(
    endpoint: str, name: str, status: int, words: list[str]
) -> None:
    """The caller is answered, then the program stops in order, on both loops."""
    loop = type(asyncio.get_running_loop()).__module__.partition(".")[0]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-m", "helpers.ending_main", loop),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sys.path))},
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            port = int(await process.stdout.readline())
            async with running(
                A,
                listens=False,
                plaintext=True,
                resolver=lambda _: [("127.0.0.1", port)],
            ) as a:
                link = await a.connect("child@127.0.0.1")
                with pytest.raises(RemoteError) as caught:
                    if endpoint == "batch exit":
                        await link.send_confirmed(endpoint, b"")
                    else:
                        await link.call(endpoint, b"")
                assert caught.value.type_name == name
                await link.wait_closed()
                assert "the node stops" in str(link.error)
            printed = (await process.stdout.read()).decode().split()
            assert printed == words
            assert await process.wait() == status
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
