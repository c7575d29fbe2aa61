"""A service finds its instances by each discovery, and follows them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TypeAlias

import pytest

from fastnode import Node
from fastnode.discovery import (
    Discovery,
    DnsDiscovery,
    EtcdDiscovery,
    LocalDiscovery,
    StaticDiscovery,
)
from helpers.dns_server import DnsServer, needs_dnsmasq
from helpers.etcd_server import make_cluster, needs_etcd
from helpers.nodes import WAIT_SECONDS, running, until

#: Tells the directory which nodes run, where nodes do not do so themselves.
Tell: TypeAlias = Callable[[Sequence[Node]], Awaitable[None]]


def addresses(nodes: Sequence[Node]) -> list[tuple[str, int]]:
    return [each.acceptors[0].address for each in nodes]


@asynccontextmanager
async def static(folder: Path) -> AsyncIterator[tuple[Discovery, Tell]]:
    discovery = StaticDiscovery({})

    async def tell(nodes: Sequence[Node]) -> None:
        discovery.replace({"billing": addresses(nodes)})

    yield discovery, tell


@asynccontextmanager
async def local(folder: Path) -> AsyncIterator[tuple[Discovery, Tell]]:
    yield LocalDiscovery(folder / "nodes"), nothing


@asynccontextmanager
async def dns(folder: Path) -> AsyncIterator[tuple[Discovery, Tell]]:
    server = DnsServer(folder)
    await server.start()

    async def tell(nodes: Sequence[Node]) -> None:
        name = "_fastnode._tcp.billing.test"
        await server.set_records(
            ["host-record=here.test,127.0.0.1"]
            + [f"srv-host={name},here.test,{port}" for _, port in addresses(nodes)]
        )

    yield (
        DnsDiscovery(
            srv=True, suffix="test.", nameservers=[server.address], min_ttl=0.02
        ),
        tell,
    )
    await server.stop()


@asynccontextmanager
async def etcd(folder: Path) -> AsyncIterator[tuple[Discovery, Tell]]:
    with make_cluster(folder) as [server]:
        yield EtcdDiscovery([server.url]), nothing


async def nothing(nodes: Sequence[Node]) -> None:
    """The nodes announce themselves."""


@pytest.mark.one_loop
@pytest.mark.parametrize(
    "make",
    [
        static,
        local,
        pytest.param(dns, marks=needs_dnsmasq),
        pytest.param(etcd, marks=needs_etcd),
    ],
)
async def test_a_service_follows_its_instances(
    make: Callable[[Path], AbstractAsyncContextManager[tuple[Discovery, Tell]]],
    tmp_path: Path,
) -> None:
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        discovery, tell = await enter(make(tmp_path))
        nodes: list[Node] = []
        for _ in range(2):
            node = await enter(running("billing@127.0.0.1", discovery=discovery))
            node.handler("which")(lambda message, node=node: node.instance.encode())
            nodes.append(node)
        await tell(nodes)
        gateway = await enter(
            running("gateway@127.0.0.1", discovery=discovery, listens=False)
        )
        service = gateway.service("billing")
        await service.wait_ready(n=2, timeout=WAIT_SECONDS)
        async with asyncio.timeout(WAIT_SECONDS):
            found: set[bytes] = set()
            while len(found) < 2:
                found.add(await service.call("which", b"", timeout=WAIT_SECONDS))
        assert found == {each.instance.encode() for each in nodes}
        # One leaves, and another one comes.
        gone = nodes.pop(0)
        await gone.stop()
        last = await enter(running("billing@127.0.0.1", discovery=discovery))
        last.handler("which")(lambda message: b"the last one")
        await tell([*nodes, last])
        async with asyncio.timeout(WAIT_SECONDS):
            while b"the last one" not in found:
                found.add(await service.call("which", b"", timeout=WAIT_SECONDS))
        expected = {each.instance for each in (*nodes, last)}
        await until(lambda: {s.instance for s in service.instances} == expected)
