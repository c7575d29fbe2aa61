"""A certificate is replaced while its node runs: the link that is up stays, until it is
replaced in order by one under the new certificate.

Run: python examples/rotate_certs.py
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from fastnode import (
    AcceptorOptions,
    CertAuthManager,
    CertificateError,
    ClientAuth,
    Link,
    NetworkOptions,
    Node,
    NodeOptions,
    Route,
    SettingsFrozenError,
    run,
    start_node,
)
from fastnode.certs.authority import Authority
from fastnode.names import NodeName

SERVER = NodeName.parse("server@127.0.0.1")
CLIENT = NodeName.parse("client@127.0.0.1")


def make_manager(name: NodeName, authority: Authority) -> CertAuthManager:
    """A manager with a certificate for the name; trusts the authority, both ways."""
    pool = authority.pool()
    return CertAuthManager(
        authority.issue(name).certificate(),
        client_cas=pool,
        client_auth=ClientAuth.REQUIRE_AND_VERIFY_CLIENT_CERT,
        root_cas=pool,
    )


async def start(name: NodeName, manager: CertAuthManager) -> Node:
    """A node on any free port."""
    network = NetworkOptions(acceptors=[AcceptorOptions(port=0)])
    options = NodeOptions(cert_manager=manager, network=network)
    return await start_node(str(name), options)


def serial(link: Link) -> int:
    """The serial number of the certificate that the peer showed."""
    assert link.peer.certificate is not None
    return link.peer.certificate.serial_number


async def main() -> None:
    """Rotate, and show who sees which certificate."""
    authority = Authority.create()
    manager = make_manager(SERVER, authority)
    async with (
        await start(SERVER, manager) as server,
        await start(CLIENT, make_manager(CLIENT, authority)) as client,
    ):
        server.handler("echo")(lambda message: message.payload)
        client.add_route(Route("^server@", *server.acceptors[0].address))
        link = await client.connect(str(SERVER))
        old = serial(link)

        # Usually: Certificate.load(new_cert_file, new_key_file), on a signal or timer.
        new = authority.issue(SERVER).certificate()
        manager.update(new)
        reply = await link.call("echo", b"hello", timeout=5.0)
        print(f"the old link lives: {reply.decode()}, {serial(link) == old}")

        # Nothing that is queued or under way is lost.
        await server.reconnect()
        link = await client.connect(str(SERVER))
        print(f"the new link sees the new one: {serial(link) == new.serial_number}")

        yesterday = datetime.now(UTC) - timedelta(days=1)
        expired = authority.issue(
            SERVER, not_before=yesterday - timedelta(days=1), not_after=yesterday
        )
        try:
            manager.update(expired.certificate())
        except CertificateError as error:
            print(f"refused: {error}")
        print(f"the new one is still in use: {manager.certificate == new}")

        try:
            manager.client_auth = ClientAuth.NO_CLIENT_CERT
        except SettingsFrozenError as error:
            print(f"refused: {error}")


if __name__ == "__main__":
    run(main())
