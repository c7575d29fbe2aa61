"""Deadlines, metadata and errors with codes, over three nodes.

Run: python examples/deadlines.py
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from fastnode import (
    AcceptorOptions,
    CallError,
    CallTimeout,
    CertAuthManager,
    ClientAuth,
    Message,
    NetworkOptions,
    Node,
    NodeOptions,
    RemoteError,
    Reply,
    Route,
    current_message,
    run,
    start_node,
)
from fastnode.certs.authority import Authority
from fastnode.names import NodeName

SHOP = "shop@127.0.0.1"
STOCK = "stock@127.0.0.1"
CUSTOMER = "customer@127.0.0.1"


async def start(name: str, authority: Authority) -> Node:
    """A node under a development authority, on any free port."""
    pool = authority.pool()
    manager = CertAuthManager(
        authority.issue(NodeName.parse(name)).certificate(),
        client_cas=pool,
        client_auth=ClientAuth.REQUIRE_AND_VERIFY_CLIENT_CERT,
        root_cas=pool,
    )
    network = NetworkOptions(acceptors=[AcceptorOptions(port=0)])
    return await start_node(name, NodeOptions(cert_manager=manager, network=network))


def introduce(node: Node, other: Node) -> None:
    """Tell a node where another one is."""
    host, port = other.acceptors[0].address
    node.add_route(Route(f"^{other.name}$", host, port))


def log(text: str) -> None:
    """Print a line with the trace id of the message that is being handled."""
    message = current_message()
    trace = "-" if message is None else message.metadata.get("trace-id", "-")
    print(f"[{trace}] {text}")


def open_shop(shop: Node, stock: Node) -> None:
    """Register the endpoints of the two services."""

    @stock.handler("take")
    async def take(message: Message) -> Reply:
        log(f"stock: at most 2 s for {message.payload!r}: {message.time_left:.3f}")
        if message.payload == b"slow":
            await asyncio.sleep(60)
        if message.payload == b"pears":
            raise CallError("out_of_stock", "only 3 left", details=b"3")
        return Reply(b"taken", metadata={"shelf": "7"})

    @shop.handler("order")
    async def order(message: Message) -> bytes:
        # No timeout: this call has what is left of the customer's time.
        try:
            reply = await shop.request(
                STOCK, "take", message.payload, metadata=message.metadata
            )
        except RemoteError as error:
            log(f"shop: the stock says {error.code}")
            raise CallError(error.code, error.message, details=error.details) from None
        except CallTimeout as error:
            log(f"shop: no time left after {error.timeout:.3f} s")
            raise CallError(error.code, "the stock is slow") from None
        log(f"shop: from shelf {reply.metadata['shelf']}")
        return reply.payload


async def main() -> None:
    """Place three orders."""
    authority = Authority.create()
    async with AsyncExitStack() as stack:
        nodes = [await start(name, authority) for name in (SHOP, STOCK, CUSTOMER)]
        for node in nodes:
            await stack.enter_async_context(node)
        shop, stock, customer = nodes
        introduce(shop, stock)
        introduce(customer, shop)
        open_shop(shop, stock)

        trace = {"trace-id": "8f1c"}
        for what in (b"apples", b"pears", b"slow"):
            try:
                reply = await customer.call(
                    SHOP, "order", what, timeout=2.0, metadata=trace
                )
                print("customer:", reply.decode())
            except RemoteError as error:
                print("customer:", error.code, error.message, error.details)
            except CallTimeout as error:
                print("customer:", error.code, "begun:", error.begun)


if __name__ == "__main__":
    run(main())
