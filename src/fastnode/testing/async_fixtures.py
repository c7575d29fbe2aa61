"""The asynchronous fixtures of the pytest plugin, for pytest-asyncio."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, TypeAlias

import pytest_asyncio

from fastnode import Node, NodeOptions
from fastnode.testing import FakeClock, Network, ThrowawayAuthority, cluster, pair

if TYPE_CHECKING:
    import pytest

__all__ = ["fastnode_clock", "fastnode_cluster", "fastnode_network", "fastnode_pair"]

#: What `fastnode_cluster` gives to a test.
StartCluster: TypeAlias = Callable[..., Awaitable[tuple[Node, ...]]]


@pytest_asyncio.fixture
async def fastnode_network() -> AsyncIterator[Network]:
    """A network, in which the test can make faults.

    In a test that uses it, the nodes of `fastnode_pair` and `fastnode_cluster` connect
    through it.
    """
    async with Network() as network:
        yield network


@pytest_asyncio.fixture
async def fastnode_pair(
    request: pytest.FixtureRequest,
    fastnode_authority: ThrowawayAuthority,
    fastnode_options: NodeOptions | None,
) -> AsyncIterator[tuple[Node, Node]]:
    """Two nodes, ``alpha@127.0.0.1`` and ``beta@127.0.0.1``, as of `pair`."""
    async with pair(
        options=fastnode_options,
        authority=fastnode_authority,
        network=_network_of(request),
    ) as nodes:
        yield nodes


@pytest_asyncio.fixture
async def fastnode_cluster(
    request: pytest.FixtureRequest,
    fastnode_authority: ThrowawayAuthority,
    fastnode_options: NodeOptions | None,
) -> AsyncIterator[StartCluster]:
    """A function that starts a cluster, which stops at the end of the test.

    It takes the arguments of `cluster`: ``nodes = await fastnode_cluster(5)``.
    """
    network = _network_of(request)
    async with AsyncExitStack() as stack:

        async def start(*args: object, **options: object) -> tuple[Node, ...]:
            options = {
                "options": fastnode_options,
                "authority": fastnode_authority,
                "network": network,
                **options,
            }
            return await stack.enter_async_context(cluster(*args, **options))  # type: ignore[arg-type]

        yield start


@pytest_asyncio.fixture
async def fastnode_clock() -> AsyncIterator[FakeClock]:
    """Yield a fake clock that controls the event loop of the test."""
    with FakeClock() as clock:
        yield clock


def _network_of(request: pytest.FixtureRequest) -> Network | None:
    """Return the network of the test, if the test asks for one."""
    if "fastnode_network" not in request.fixturenames:
        return None
    network: Network = request.getfixturevalue("fastnode_network")
    return network
