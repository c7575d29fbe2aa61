"""Calls: replies, remote errors, timeouts, unknown endpoints.

Run: python examples/request_reply.py
"""

from __future__ import annotations

import asyncio
import logging

from fastnode import (
    AcceptorOptions,
    CallTimeout,
    CertAuthManager,
    ClientAuth,
    Message,
    NetworkOptions,
    Node,
    NodeOptions,
    NoSuchEndpoint,
    RemoteError,
    Route,
    run,
    start_node,
)
from fastnode.certs.authority import Authority
from fastnode.names import NodeName

SHOP = "shop@127.0.0.1"
CUSTOMER = "customer@127.0.0.1"
PRICES = {b"apple": b"3", b"pear": b"4"}


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


def open_shop(shop: Node) -> None:
    """Register the shop's endpoints."""

    @shop.handler("price")
    def price(message: Message) -> bytes:
        return PRICES[message.payload]  # a KeyError travels to the caller

    @shop.handler("delivery")
    async def delivery(message: Message) -> bytes:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            print(f"shop: {message.sender.name} waits no more, delivery cancelled")
            raise
        return b"delivered"


async def main() -> None:
    """Every outcome that a call can have while its link is up."""
    # The shop logs the traceback of what its handlers raise: here that is meant.
    logging.getLogger("fastnode.link").setLevel(logging.CRITICAL)
    authority = Authority.create()
    async with (
        await start(SHOP, authority) as shop,
        await start(CUSTOMER, authority) as customer,
    ):
        open_shop(shop)
        customer.add_route(Route("^shop@", *shop.acceptors[0].address))

        reply = await customer.call(SHOP, "price", b"apple", timeout=5.0)
        print(f"apple: {reply.decode()}")

        both = [customer.call(SHOP, "price", what, timeout=5.0) for what in PRICES]
        print("together:", b" ".join(await asyncio.gather(*both)).decode())

        try:
            await customer.call(SHOP, "price", b"melon", timeout=5.0)
        except RemoteError as error:
            print(f"melon: {error.type_name}: {error.message}")

        try:
            await customer.call(SHOP, "refund", b"apple", timeout=5.0)
        except NoSuchEndpoint as error:
            print(f"refund: {error}")

        try:
            await customer.call(SHOP, "delivery", b"apple", timeout=0.2)
        except CallTimeout as error:
            print(f"delivery: {error}")


if __name__ == "__main__":
    run(main())
