"""The program on the first screen of the README, which says how to run it."""

from fastnode import (
    CertAuthManager,
    Certificate,
    CertPool,
    ClientAuth,
    Message,
    NetworkOptions,
    Node,
    NodeOptions,
    run,
    start_node,
)


async def start(name: str, network: NetworkOptions) -> Node:
    """A node that trusts the authority in certs, and lets nobody else in."""
    pool = CertPool.load("certs/ca.pem")
    file = f"certs/{name.replace('@', '_')}"  # as "fastnode ca issue" names it
    manager = CertAuthManager(
        Certificate.load(f"{file}.pem", f"{file}-key.pem"),
        client_cas=pool,  # verify who dials us,
        client_auth=ClientAuth.REQUIRE_AND_VERIFY_CLIENT_CERT,  # and refuse all others
        root_cas=pool,  # verify whom we dial
    )
    return await start_node(name, NodeOptions(cert_manager=manager, network=network))


async def main() -> None:
    """One node calls another."""
    billing = await start("billing@127.0.0.1", NetworkOptions())
    orders = await start("orders@127.0.0.1", NetworkOptions(acceptors=()))  # dials only
    async with billing, orders:

        @billing.handler("invoice")
        def invoice(message: Message) -> bytes:
            return message.payload + b", invoiced to " + message.sender.name.encode()

        print(await orders.call("billing@127.0.0.1", "invoice", b"order 7", timeout=5))


run(main())
