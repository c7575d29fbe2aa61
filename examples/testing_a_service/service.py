"""A small service: it tells prices, and asks another node for them.

The service remembers each price for a minute. If the catalog cannot be asked, it serves
the last price that it knows. test_service.py beside this file has its tests.

Run: python service.py CERTIFICATE_DIRECTORY
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from fastnode import (
    CallError,
    CertAuthManager,
    Certificate,
    CertPool,
    ClientAuth,
    FastnodeError,
    Message,
    Node,
    NodeOptions,
    run,
    start_node,
)

SHOP = "shop@127.0.0.1"
CATALOG = "catalog@127.0.0.1"
#: Seconds for which a price is good.
FRESH_SECONDS = 60.0
#: Seconds that the catalog has for its answer.
PATIENCE_SECONDS = 2.0


class Shop:
    """The handlers of the service, with what they remember.

    Args:
        node: the node that calls the catalog and is called by customers.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._prices: dict[bytes, tuple[float, bytes]] = {}
        node.handler("price")(self.price)

    async def price(self, message: Message) -> bytes:
        """Return the price of an article."""
        article = message.payload
        now = asyncio.get_running_loop().time()
        known = self._prices.get(article)
        if known is not None and now - known[0] < FRESH_SECONDS:
            return known[1]
        try:
            price = await self._node.call(
                CATALOG, "look-up", article, timeout=PATIENCE_SECONDS
            )
        except FastnodeError as error:
            if known is not None:
                return known[1]
            raise CallError("unavailable", "the catalog cannot be asked") from error
        self._prices[article] = (now, price)
        return price


def manager(folder: Path) -> CertAuthManager:
    """Read the certificate and the trust of the service from its files."""
    certificate, key = folder / f"{SHOP}.pem", folder / f"{SHOP}-key.pem"
    pool = CertPool.load(folder / "ca.pem")
    return CertAuthManager(
        Certificate.load(certificate, key),
        client_cas=pool,
        client_auth=ClientAuth.REQUIRE_AND_VERIFY_CLIENT_CERT,
        root_cas=pool,
    )


async def main(folder: Path) -> None:
    """Serve until the program is stopped."""
    node = await start_node(SHOP, NodeOptions(cert_manager=manager(folder)))
    async with node:
        Shop(node)
        await asyncio.Event().wait()


if __name__ == "__main__":
    run(main(Path(sys.argv[1])))
