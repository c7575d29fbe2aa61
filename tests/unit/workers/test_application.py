"""What `options` and `setup` may be, in this process."""

from __future__ import annotations

import asyncio
import builtins
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any

import pytest

from fastnode import ConfigError, NetworkOptions, Node, NodeOptions, run
from fastnode.workers.application import Application

PLAIN = NodeOptions(network=NetworkOptions(plaintext=True, acceptors=()))
A = "a@127.0.0.1"


def plain_options() -> NodeOptions:
    return PLAIN


async def asynchronous_options() -> NodeOptions:
    return PLAIN


@pytest.mark.parametrize(
    "options",
    [
        PLAIN,
        plain_options,
        asynchronous_options,
        f"{__name__}:plain_options",
        f"{__name__}:asynchronous_options",
    ],
)
async def test_options(options: Any) -> None:
    application = Application(A, options, None)
    application.check_here()
    assert await application.finished_options() is PLAIN


async def test_options_that_are_none() -> None:
    with pytest.raises(ConfigError, match="no NodeOptions"):
        await Application(A, lambda: 7, None).finished_options()  # type: ignore[arg-type,return-value]


async def set_up(setup: Any) -> AsyncExitStack:
    cleanup = AsyncExitStack()
    await Application(A, PLAIN, setup).set_up(Node(A, PLAIN), cleanup)
    return cleanup


async def test_setups() -> None:
    said: list[str] = []

    def plain(node: Node) -> Callable[[], None]:
        said.append("plain")
        return lambda: None

    async def asynchronous(node: Node) -> None:
        await asyncio.sleep(0)
        said.append("asynchronous")

    @asynccontextmanager
    async def context(node: Node) -> AsyncIterator[None]:
        said.append("enters")
        yield
        said.append("leaves")

    for setup in (plain, asynchronous, context):
        await (await set_up(setup)).aclose()
    assert said == ["plain", "asynchronous", "enters", "leaves"]


async def test_setups_that_would_do_nothing() -> None:
    async def forgotten(node: Node) -> AsyncIterator[None]:
        yield

    def plain(node: Node) -> Iterator[None]:
        yield

    for setup in (forgotten, plain):
        with pytest.raises(ConfigError, match="generator") as caught:
            await set_up(setup)
        assert "@contextlib.asynccontextmanager" in str(caught.value.hint)
    with pytest.raises(ConfigError, match="not asynchronous"):
        await set_up(contextmanager(plain))


def test_without_uvloop(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    real = builtins.__import__

    def missing(name: str, *rest: Any) -> Any:
        if name == "uvloop":
            raise ImportError("No module named 'uvloop'")
        return real(name, *rest)

    async def kind() -> str:
        return type(asyncio.get_running_loop()).__module__

    monkeypatch.setattr(builtins, "__import__", missing)
    assert run(kind()).startswith("asyncio.")
    assert "the loop of asyncio is used" in caplog.text
    monkeypatch.undo()
    assert run(kind()).startswith("uvloop")
