"""A program without asyncio that calls a node: from one thread, and from several.

Run: python examples/blocking_client.py
"""

from __future__ import annotations

import asyncio
import logging
import threading
from concurrent.futures import ThreadPoolExecutor

from fastnode import (
    AcceptorOptions,
    CertAuthManager,
    ClientAuth,
    Message,
    NetworkOptions,
    NodeOptions,
    RemoteError,
    Route,
    run,
    start_node,
)
from fastnode.blocking import Client
from fastnode.certs.authority import Authority
from fastnode.names import NodeName

SHOP = "shop@127.0.0.1"
WEB = "web@127.0.0.1"
PRICES = {b"apple": b"3", b"pear": b"4"}


def options(name: str, authority: Authority, network: NetworkOptions) -> NodeOptions:
    """Mutual TLS under a development authority."""
    pool = authority.pool()
    manager = CertAuthManager(
        authority.issue(NodeName.parse(name)).certificate(),
        client_cas=pool,
        client_auth=ClientAuth.REQUIRE_AND_VERIFY_CLIENT_CERT,
        root_cas=pool,
    )
    return NodeOptions(cert_manager=manager, network=network)


class Shop:
    """The other side: a node in a thread of its own. It could be on another host.

    Attributes:
        address: where it listens, once `ready` is set.
        notes: what it was sent.
    """

    def __init__(self, authority: Authority) -> None:
        self.address = ("", 0)
        self.notes: list[str] = []
        self.ready = threading.Event()
        self._authority = authority
        self._thread = threading.Thread(target=lambda: run(self._serve()))
        self._thread.start()
        self.ready.wait()

    async def _serve(self) -> None:
        self._loop, self._closed = asyncio.get_running_loop(), asyncio.Event()
        network = NetworkOptions(acceptors=[AcceptorOptions(port=0)])
        async with await start_node(
            SHOP, options(SHOP, self._authority, network)
        ) as node:

            @node.handler("price")
            def price(message: Message) -> bytes:
                return PRICES[message.payload]  # a KeyError travels to the caller

            @node.handler("note")
            def note(message: Message) -> None:
                self.notes.append(bytes(message.payload).decode())

            self.address = node.acceptors[0].address
            self.ready.set()
            await self._closed.wait()

    def close(self) -> None:
        """Stop the node."""
        self._loop.call_soon_threadsafe(self._closed.set)
        self._thread.join()


def main() -> None:
    """No `async` and no `await` from here on."""
    # The shop logs the traceback of what its handlers raise: here that is meant.
    logging.getLogger("fastnode.link").setLevel(logging.CRITICAL)
    authority = Authority.create()
    shop = Shop(authority)
    network = NetworkOptions(routes=[Route("^shop@", *shop.address)])

    with Client(WEB, options(WEB, authority, network)) as client:
        print("apple:", client.call(SHOP, "price", b"apple", timeout=5.0).decode())

        def price(what: bytes) -> str:
            return client.call(SHOP, "price", what, timeout=5.0).decode()

        with ThreadPoolExecutor(4) as threads:
            print("from 4 threads:", *threads.map(price, [*PRICES, *PRICES]))

        try:
            price(b"melon")
        except RemoteError as error:
            print(f"melon: {error.type_name}: {error.text}")

        client.send(SHOP, "note", b"web is closing", confirm=True)

    shop.close()
    print("the shop has noted:", shop.notes)


if __name__ == "__main__":
    main()
