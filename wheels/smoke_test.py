"""A mutual-TLS echo between two nodes, with nothing but the installed wheel."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import fastnode
from fastnode import (
    AcceptorOptions,
    CertAuthManager,
    ClientAuth,
    Message,
    NetworkOptions,
    Node,
    NodeOptions,
    Route,
    run,
    start_node,
)
from fastnode.certs.authority import Authority
from fastnode.names import NodeName


async def start(name: str, authority: Authority) -> Node:
    """A node that demands certificates of this authority, and shows one."""
    pool = authority.pool()
    manager = CertAuthManager(
        authority.issue(NodeName.parse(name)).certificate(),
        client_cas=pool,
        client_auth=ClientAuth.REQUIRE_AND_VERIFY_CLIENT_CERT,
        root_cas=pool,
    )
    network = NetworkOptions(acceptors=[AcceptorOptions(port=0)])
    return await start_node(name, NodeOptions(cert_manager=manager, network=network))


async def echo() -> str:
    """Call from one node to the other; returns what was seen."""
    authority = Authority.create()
    async with (
        await start("echo@127.0.0.1", authority) as server,
        await start("caller@127.0.0.1", authority) as client,
    ):

        @server.handler("echo")
        def answer(message: Message) -> bytes:
            assert message.sender.verified
            return message.sender.name.encode() + b": " + message.payload

        client.add_route(Route("^echo@", *server.acceptors[0].address))
        reply = await client.call("echo@127.0.0.1", "echo", b"hello", timeout=10.0)
        assert reply == b"caller@127.0.0.1: hello", reply
        (link,) = client.links
        assert link.peer.verified
        return f"{link.peer.tls_version} {link.peer.cipher}"


def main() -> None:
    """Run it on both loops."""
    for how in (run, asyncio.run):
        seen = how(echo())
        assert seen.startswith("TLSv1.3"), seen
    where = Path(fastnode.__file__).parent
    version = ".".join(map(str, sys.version_info[:3]))
    print(f"smoke test passed: Python {version}, {seen}, {where.name} from its wheel")


if __name__ == "__main__":
    main()
