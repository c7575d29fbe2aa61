"""The tests of service.py, with real nodes over real TLS.

Run: pip install 'fastnode[pytest]' && pytest
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from service import CATALOG, FRESH_SECONDS, PATIENCE_SECONDS, SHOP, Shop, manager

from fastnode import Message, Node, NodeOptions, RemoteError, UnknownAuthority
from fastnode.testing import FakeClock, Network, authority, cluster, pair

CUSTOMER = "customer@127.0.0.1"


class Catalog:
    """The node that the service depends on, as the tests want it.

    Attributes:
        asked: how often it was asked.
        answers: cleared while it must not answer.
    """

    def __init__(self, node: Node) -> None:
        self.asked = 0
        self.prices = {b"apple": b"3"}
        self.answers = asyncio.Event()
        self.answers.set()
        self.called = asyncio.Event()
        node.handler("look-up")(self.look_up)

    async def look_up(self, message: Message) -> bytes:
        """Answer when the test allows it."""
        self.asked += 1
        self.called.set()
        await self.answers.wait()
        return self.prices[message.payload]


class Town:
    """A customer, the service, and its catalog."""

    def __init__(self, nodes: tuple[Node, ...], network: Network) -> None:
        self.customer, self.shop, self.catalog_node = nodes
        self.network = network
        self.catalog = Catalog(self.catalog_node)
        Shop(self.shop)

    async def price(self) -> bytes:
        """Ask the service as a customer does."""
        return await self.customer.call(SHOP, "price", b"apple", timeout=30.0)

    async def lose_catalog(self) -> None:
        """Cut the service off from its catalog."""
        links = [link for link in self.shop.links if link.peer.name == CATALOG]
        self.network.cut(SHOP, CATALOG)
        for link in links:
            await link.wait_closed()


@pytest_asyncio.fixture
async def town(fastnode_network: Network) -> AsyncIterator[Town]:
    """Three nodes, whose connections the test can cut."""
    names = (CUSTOMER, SHOP, CATALOG)
    async with cluster(names, network=fastnode_network) as nodes:
        yield Town(nodes, fastnode_network)


async def test_a_price_comes_from_the_catalog(town: Town) -> None:
    assert await town.price() == b"3"


async def test_a_price_is_remembered_for_a_minute(
    town: Town, fastnode_clock: FakeClock
) -> None:
    await town.price()
    town.catalog.prices[b"apple"] = b"4"
    await fastnode_clock.advance(FRESH_SECONDS - 1)
    assert await town.price() == b"3"
    await fastnode_clock.advance(1)
    assert await town.price() == b"4"
    assert town.catalog.asked == 2


async def test_the_last_price_is_served_without_the_catalog(
    town: Town, fastnode_clock: FakeClock
) -> None:
    await town.price()
    await town.lose_catalog()
    await fastnode_clock.advance(FRESH_SECONDS)
    assert await town.price() == b"3"


async def test_a_price_that_nobody_knows_is_an_error(town: Town) -> None:
    await town.lose_catalog()
    with pytest.raises(RemoteError) as raised:
        await town.price()
    assert raised.value.code == "unavailable"
    town.network.restore()
    assert await town.price() == b"3"


async def test_a_slow_catalog_is_not_waited_for(
    town: Town, fastnode_clock: FakeClock
) -> None:
    town.catalog.answers.clear()
    price = asyncio.create_task(town.price())
    await town.catalog.called.wait()
    await fastnode_clock.advance(PATIENCE_SECONDS)
    with pytest.raises(RemoteError, match="cannot be asked"):
        await price


async def test_the_service_reads_its_certificate_files(tmp_path: Path) -> None:
    ca = authority()
    ca.write(tmp_path, SHOP)
    options = [NodeOptions(), NodeOptions(cert_manager=manager(tmp_path))]
    async with pair(CUSTOMER, SHOP, options=options, authority=ca) as (customer, shop):
        assert (await customer.connect(shop.name)).peer.verified


async def test_a_stranger_is_refused(tmp_path: Path) -> None:
    authority().write(tmp_path, SHOP)
    options = [NodeOptions(), NodeOptions(cert_manager=manager(tmp_path))]
    async with pair(CUSTOMER, SHOP, options=options) as (customer, shop):
        with pytest.raises(UnknownAuthority):
            await customer.connect(shop.name)
