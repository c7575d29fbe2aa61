"""Nodes for tests: free ports, mutual TLS, routes to each other."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any
from unittest import mock

from fastnode import (
    AcceptorOptions,
    CertManager,
    NetworkOptions,
    Node,
    NodeOptions,
    start_node,
    testing,
)
from fastnode.node.maintenance import ExpiryCheck
from fastnode.testing.routes import introduce
from helpers.pki import manager as make_manager

__all__ = [
    "WAIT_SECONDS",
    "A",
    "B",
    "all_at_once",
    "forget",
    "introduce",
    "options_of",
    "pair",
    "refusing",
    "running",
    "start",
    "started_in_time",
    "until",
]

A = "alpha@127.0.0.1"
B = "beta@127.0.0.1"

#: No wait of a test is longer: what a machine takes that is ten times slower and busy
#: with other things, within the time limit of a test.
WAIT_SECONDS = 45.0


async def start(name: str, *, refuses_expired: bool = False, **details: Any) -> Node:
    """A node on a free port, with the options of `options_of`.

    Args:
        refuses_expired: False: as if it had been started before its certificate
            expired, so that tests see what handshakes say of it.
    """
    options = options_of(name, **details)
    if refuses_expired:
        return await start_node(name, options)
    with started_in_time():
        return await start_node(name, options)


def options_of(
    name: str,
    *,
    manager: CertManager | None = None,
    listens: bool = True,
    shutdown_timeout: float = 5.0,
    node_options: dict[str, Any] | None = None,
    **network: Any,
) -> NodeOptions:
    """Options for a node on a free port; `network` as `NetworkOptions`.

    Args:
        node_options: further `NodeOptions`.
    """
    if manager is None and not network.get("plaintext"):
        manager = make_manager(name)
    if not listens:
        network["acceptors"] = ()
    network.setdefault("acceptors", (AcceptorOptions(port=0),))
    # A busy machine leaves a handler waiting for a processor; no test is about that.
    network.setdefault("slow_callback_seconds", 60.0)
    return NodeOptions(
        cert_manager=manager,
        network=NetworkOptions(**network),
        shutdown_timeout=shutdown_timeout,
        **(node_options or {}),
    )


#: One entry for each open block of `started_in_time`. Those of several tasks overlap.
_open_blocks: list[None] = []


def _refuse_nothing(*_: object) -> None:
    """Stand for `ExpiryCheck.refuse`. A `Mock` would take as long to make as a node."""


_refusing = mock.patch.object(ExpiryCheck, "refuse", new=_refuse_nothing)


@contextmanager
def started_in_time() -> Iterator[None]:
    """Nodes that start in here find no certificate expired; handshakes do."""
    _open_blocks.append(None)
    if len(_open_blocks) == 1:
        _refusing.start()
    try:
        yield
    finally:
        _open_blocks.pop()
        if not _open_blocks:
            _refusing.stop()


async def all_at_once(
    test: Callable[..., Coroutine[Any, Any, None]], *cases: tuple[Any, ...]
) -> None:
    """Run a test for all cases at the same time, because each mostly waits for timers.

    An error names its case.
    """

    async def run(case: tuple[Any, ...]) -> None:
        try:
            await test(*case)
        except BaseException as error:
            error.add_note(f"in the case {case}")
            raise

    async with asyncio.TaskGroup() as group:
        for case in cases:
            group.create_task(run(case))


def forget(node: Node, name: str) -> None:
    """Remove the routes for a name, as `introduce` added them."""
    for route in node.routes(name):
        node.remove_route(route.match)


@asynccontextmanager
async def running(name: str, **options: Any) -> AsyncIterator[Node]:
    """`start`, and stopped afterwards."""
    node = await start(name, **options)
    async with node:
        yield node


@asynccontextmanager
async def pair(
    first: dict[str, Any] | None = None, second: dict[str, Any] | None = None
) -> AsyncIterator[tuple[Node, Node]]:
    """Two nodes, alpha and beta, that know where the other is.

    Args:
        first, second: as of `options_of`.
    """
    options = (options_of(A, **(first or {})), options_of(B, **(second or {})))
    async with AsyncExitStack() as stack:
        with started_in_time():
            nodes = await stack.enter_async_context(testing.pair(A, B, options=options))
        yield nodes


@contextmanager
def refusing() -> Iterator[tuple[str, int]]:
    """An address where nobody listens, nor can meanwhile."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        host, port = held.getsockname()
        yield host, port


async def until(condition: Callable[[], object]) -> None:
    """Let the loop turn until a condition holds; bounded."""
    async with asyncio.timeout(WAIT_SECONDS):
        # The condition is a plain attribute of a product object: no event tells of it.
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)
