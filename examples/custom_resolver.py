"""A resolver finds nodes in a directory of your own; routes go before it.

Run: python examples/custom_resolver.py
"""

from __future__ import annotations

import asyncio

from fastnode import (
    AcceptorOptions,
    CertAuthManager,
    ClientAuth,
    Message,
    NetworkOptions,
    Node,
    NodeOptions,
    NoRoute,
    Resolver,
    Route,
    run,
    start_node,
)
from fastnode.certs.authority import Authority
from fastnode.names import NodeName


class Directory:
    """Stands for etcd, Consul, a database: node name -> addresses."""

    def __init__(self) -> None:
        self._addresses: dict[str, list[tuple[str, int]]] = {}

    def register(self, node: Node) -> None:
        """Say where a node listens."""
        self._addresses[node.name] = [each.address for each in node.acceptors]

    async def __call__(self, name: str, /) -> list[tuple[str, int]]:
        """Resolve a node name; the addresses are tried in this order."""
        await asyncio.sleep(0)  # a real one asks over the network
        print(f"directory: where is {name}?")
        return self._addresses.get(name, [])


async def start(
    name: str, authority: Authority, resolver: Resolver | None = None
) -> Node:
    """A node under a development authority, on any free port."""
    pool = authority.pool()
    manager = CertAuthManager(
        authority.issue(NodeName.parse(name)).certificate(),
        client_cas=pool,
        client_auth=ClientAuth.REQUIRE_AND_VERIFY_CLIENT_CERT,
        root_cas=pool,
    )
    network = NetworkOptions(
        acceptors=[AcceptorOptions(port=0)] if resolver is None else (),
        resolver=resolver,
    )
    return await start_node(name, NodeOptions(cert_manager=manager, network=network))


def who_are_you(message: Message) -> bytes:
    """Answer with the name under which one was called, and by whom."""
    return f"{message.endpoint} for {message.sender.name}".encode()


async def main() -> None:
    """One node by the directory, one by a route, one not at all."""
    authority = Authority.create()
    directory = Directory()
    async with (
        await start("red@127.0.0.1", authority) as red,
        await start("blue@127.0.0.1", authority) as blue,
        await start("asker@127.0.0.1", authority, directory) as asker,
    ):
        for node in (red, blue):
            node.default_handler(who_are_you)
        directory.register(red)

        reply = await asker.call("red@127.0.0.1", "red", b"", timeout=5.0)
        print(f"by the directory: {reply.decode()}")

        asker.add_route(Route("^blue@", *blue.acceptors[0].address))
        reply = await asker.call("blue@127.0.0.1", "blue", b"", timeout=5.0)
        print(f"by a route: {reply.decode()}")

        try:
            await asker.connect("green@127.0.0.1")
        except NoRoute as error:
            print(f"not at all: {error}")


if __name__ == "__main__":
    run(main())
