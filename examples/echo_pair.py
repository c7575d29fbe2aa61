"""Two nodes over mutual TLS; one sends, the other sends everything back.

Run: python examples/echo_pair.py
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
    Route,
    run,
    start_node,
)
from fastnode.certs.authority import Authority
from fastnode.names import NodeName

ECHO = "echo@127.0.0.1"
CALLER = "caller@127.0.0.1"
COUNT = 10_000


async def start(name: str, authority: Authority) -> Node:
    """A node under a development authority, on any free port."""
    pool = authority.pool()
    manager = CertAuthManager(
        authority.issue(NodeName.parse(name)).certificate(),
        client_cas=pool,  # verify who dials us
        client_auth=ClientAuth.REQUIRE_AND_VERIFY_CLIENT_CERT,
        root_cas=pool,  # verify whom we dial
    )
    network = NetworkOptions(acceptors=[AcceptorOptions(port=0)])
    return await start_node(name, NodeOptions(cert_manager=manager, network=network))


async def main() -> None:
    """Send COUNT messages, and count what comes back."""
    authority = Authority.create()
    async with (
        await start(ECHO, authority) as echo,
        await start(CALLER, authority) as caller,
    ):
        # On a free port nobody is found unless it is said where.
        caller.add_route(Route("^echo@", *echo.acceptors[0].address))
        everything_is_back = asyncio.Event()
        came_back: list[bytes] = []

        @echo.handler("echo")
        async def answer(message: Message) -> None:
            # The link that the sender made is used in this direction too.
            await echo.send(message.sender.name, "answer", message.payload)

        @caller.handler("answer")
        def take(message: Message) -> None:
            came_back.append(message.payload)
            if len(came_back) == COUNT:
                everything_is_back.set()

        link = await caller.connect(ECHO)
        print(f"link to {link.peer}, {link.peer.tls_version}")
        for number in range(COUNT):
            link.send("echo", b"%d" % number)
            await link.drain()
        async with asyncio.timeout(30):
            await everything_is_back.wait()
        in_order = came_back == [b"%d" % number for number in range(COUNT)]
        print(f"{len(came_back)} messages came back, in order: {in_order}")


if __name__ == "__main__":
    run(main())
