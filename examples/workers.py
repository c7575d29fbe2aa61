"""A node in two processes: links spread over them, and a restart without a failed call.

Run: python examples/workers.py
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections import Counter
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

from fastnode import (
    AcceptorOptions,
    CertAuthManager,
    Certificate,
    CertPool,
    ClientAuth,
    NetworkOptions,
    Node,
    NodeOptions,
    Route,
    WorkerGroup,
    run,
    start_node,
)
from fastnode.certs.authority import Authority
from fastnode.names import NodeName

SHOP = "shop@127.0.0.1"
CUSTOMERS = [f"customer{number}@127.0.0.1" for number in range(8)]


def manager(folder: Path, name: str) -> CertAuthManager:
    """Mutual TLS with the files of a folder."""
    pool = CertPool.load(folder / "ca.pem")
    return CertAuthManager(
        Certificate.load(folder / f"{name}.pem", folder / f"{name}-key.pem"),
        client_cas=pool,
        client_auth=ClientAuth.REQUIRE_AND_VERIFY_CLIENT_CERT,
        root_cas=pool,
    )


def options(folder: Path) -> NodeOptions:
    """Runs in each worker: certificate and key are loaded there."""
    network = NetworkOptions(acceptors=[AcceptorOptions(port=0)])
    return NodeOptions(cert_manager=manager(folder, SHOP), network=network)


def setup(node: Node) -> None:
    """Runs in each worker, with its node."""
    node.handler("who")(lambda _: str(os.getpid()).encode())


async def ask(customers: list[Node]) -> Counter[bytes]:
    """How many customers each worker answers."""
    calls = [node.call(SHOP, "who", b"", timeout=10.0) for node in customers]
    return Counter(await asyncio.gather(*calls))


async def main(folder: Path) -> None:
    """A group, its customers, and a restart between their calls."""
    made = WorkerGroup(SHOP, partial(options, folder), setup, workers=2)
    async with made as group, AsyncExitStack() as stack:
        customers = []
        for name in CUSTOMERS:
            routes = [Route("^shop@", *group.addresses[0])]
            network = NetworkOptions(acceptors=(), routes=routes)
            node = await start_node(
                name, NodeOptions(cert_manager=manager(folder, name), network=network)
            )
            customers.append(await stack.enter_async_context(node))

        before = await ask(customers)
        print(f"customers of each worker: {sorted(before.values())}")

        await group.restart()
        after = await ask(customers)
        print(f"after a restart: {sorted(after.values())}")
        print(f"by other processes: {not before.keys() & after.keys()}")


if __name__ == "__main__":  # workers import this file
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        authority = Authority.create()
        authority.save(folder)
        for each in (SHOP, *CUSTOMERS):
            issued = authority.issue(NodeName.parse(each))
            issued.save(folder / f"{each}.pem", folder / f"{each}-key.pem")
        run(main(folder))
