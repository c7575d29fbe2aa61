"""Nodes for tests: free ports, mutual TLS, routes to each other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastnode import (
    AcceptorOptions,
    CertManager,
    NetworkOptions,
    Node,
    NodeOptions,
    Route,
    start_node,
)
from helpers.pki import manager as make_manager

A = "alpha@127.0.0.1"
B = "beta@127.0.0.1"

#: No wait of a test is longer.
WAIT_SECONDS = 20.0


async def start(
    name: str,
    *,
    manager: CertManager | None = None,
    listens: bool = True,
    shutdown_timeout: float = 5.0,
    **network: Any,
) -> Node:
    """A node on a free port; `network` as `NetworkOptions`."""
    if manager is None and not network.get("plaintext"):
        manager = make_manager(name)
    if not listens:
        network["acceptors"] = ()
    network.setdefault("acceptors", (AcceptorOptions(port=0),))
    return await start_node(
        name,
        NodeOptions(
            cert_manager=manager,
            network=NetworkOptions(**network),
            shutdown_timeout=shutdown_timeout,
        ),
    )


def introduce(node: Node, other: Node) -> None:
    """Tell a node where another one is."""
    host, port = other.acceptors[0].address
    node.add_route(Route(f"^{other.name}$", host, port))


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
    """Two nodes, alpha and beta, that know where the other is."""
    async with running(A, **(first or {})) as a, running(B, **(second or {})) as b:
        if a.acceptors:
            introduce(b, a)
        if b.acceptors:
            introduce(a, b)
        yield a, b


async def until(condition: Callable[[], object]) -> None:
    """Let the loop turn until a condition holds; bounded."""
    async with asyncio.timeout(WAIT_SECONDS):
        # The condition is a plain attribute of a product object: no event tells of it.
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)
