"""A certificate is renewed while its node runs. The node follows the files, and then
replaces its link by one under the new certificate. No message is lost.

Run: python examples/rotate_certs.py
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

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
    WatchUpdate,
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
    """A node on any free port. It renews its links after each update."""
    network = NetworkOptions(acceptors=[AcceptorOptions(port=0)])
    options = NodeOptions(
        cert_manager=manager, network=network, renew_links="reconnect"
    )
    return await start_node(str(name), options)


def serial(link: Link) -> int:
    """The serial number of the certificate that the peer showed."""
    assert link.peer.certificate is not None
    return link.peer.certificate.serial_number


def on_update(update: WatchUpdate) -> None:
    """Called when a new certificate is in use; in a thread."""
    print(f"taken from {update.files[0].name}: {update.certificate is not None}")


async def main() -> None:
    """Rotate, and show who sees which certificate."""
    authority = Authority.create()
    manager = make_manager(SERVER, authority)
    with TemporaryDirectory() as folder:
        files = Path(folder, "tls.crt"), Path(folder, "tls.key")
        authority.issue(SERVER).save(*files)
        with manager.watch(*files, interval=0.1, on_update=on_update):
            await serve(manager, authority, files)
    refuse(manager, authority)


async def serve(
    manager: CertAuthManager, authority: Authority, files: tuple[Path, Path]
) -> None:
    """Run the two nodes."""
    async with (
        await start(SERVER, manager) as server,
        await start(CLIENT, make_manager(CLIENT, authority)) as client,
    ):
        server.handler("echo")(lambda message: message.payload)
        client.add_route(Route("^server@", *server.acceptors[0].address))
        await show(client, authority, files)
        print(f"renewed by the server: {server.renewal_stats.renewed}")


async def show(client: Node, authority: Authority, files: tuple[Path, Path]) -> None:
    """Renew the files, and wait for the new link."""
    link = await client.connect(str(SERVER))
    old = serial(link)
    new = authority.issue(SERVER)
    new.replace(*files)
    # Calls go on. Those that are under way are answered on the old link.
    while serial(await client.connect(str(SERVER))) == old:
        await client.call(str(SERVER), "echo", b"hello", timeout=5.0)
        await asyncio.sleep(0.01)
    link = await client.connect(str(SERVER))
    number = new.certificate().serial_number
    print(f"the new link sees the new one: {serial(link) == number}")
    reply = await link.call("echo", b"hello", timeout=5.0)
    print(f"no call was lost: {reply.decode()}")


def refuse(manager: CertAuthManager, authority: Authority) -> None:
    """Show what cannot be taken."""
    good = manager.certificate
    yesterday = datetime.now(UTC) - timedelta(days=1)
    expired = authority.issue(
        SERVER, not_before=yesterday - timedelta(days=1), not_after=yesterday
    )
    try:
        manager.update(expired.certificate())
    except CertificateError as error:
        print(f"refused: {error}")
    print(f"the good one is still in use: {manager.certificate == good}")
    try:
        manager.client_auth = ClientAuth.NO_CLIENT_CERT
    except SettingsFrozenError as error:
        print(f"refused: {error}")


if __name__ == "__main__":
    run(main())
