"""A service as a program: `run_node`, a check, and a SIGTERM that loses no call.

Run: python examples/run_node.py

It makes certificates, starts the service in a process of its own, calls it, and stops
it while a call is under way.
"""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastnode import (
    AcceptorOptions,
    CertAuthManager,
    Certificate,
    CertPool,
    ClientAuth,
    Message,
    NetworkOptions,
    Node,
    NodeOptions,
    Route,
    run,
    run_node,
    start_node,
)
from fastnode.certs.authority import Authority
from fastnode.names import NodeName

STOCK = "stock@127.0.0.1"
CUSTOMER = "customer@127.0.0.1"


def manager(folder: Path, name: str) -> CertAuthManager:
    """Mutual TLS with the files of a folder, which are followed."""
    pool = CertPool.load(folder / "ca.pem")
    cert, key = folder / f"{name}.pem", folder / f"{name}-key.pem"
    made = CertAuthManager(
        Certificate.load(cert, key),
        client_cas=pool,
        client_auth=ClientAuth.REQUIRE_AND_VERIFY_CLIENT_CERT,
        root_cas=pool,
    )
    made.watch(cert, key)  # SIGHUP reads them at once
    return made


class Database:
    """Stands for what a real service needs."""

    async def connect(self) -> None:
        """Connect with the database."""

    async def ping(self) -> bool:
        """Return whether the database answers."""
        return True

    async def count(self, what: str) -> int:
        """Run a slow query."""
        await asyncio.sleep(0.3)
        return len(what)

    async def close(self) -> None:
        """Say goodbye to the database."""
        print("stock: the database is closed", flush=True)


@asynccontextmanager
async def setup(node: Node) -> AsyncIterator[None]:
    """Prepare a node that has started. It takes connections once this yields."""
    database = Database()
    await database.connect()
    node.add_check("database", database.ping)

    @node.handler("count")
    async def count(message: Message) -> bytes:
        what = message.payload.decode()
        print(f"stock: counts {what}", flush=True)
        return str(await database.count(what)).encode()

    print("listens on {}:{}".format(*node.acceptors[0].address), flush=True)
    yield
    # The node has stopped: nobody waits for an answer any more.
    await database.close()


def serve(folder: Path) -> None:
    """Run the service until a signal ends it. A real program has no more than this."""
    network = NetworkOptions(acceptors=[AcceptorOptions(port=0)])
    options = NodeOptions(cert_manager=manager(folder, STOCK), network=network)
    run_node(STOCK, options, setup)


# --- the other side ------------------------------------------------------------------


async def visit(folder: Path, service: subprocess.Popen[str]) -> None:
    """Call the service, ask how it is, and stop it."""
    assert service.stdout is not None
    host, _, port = service.stdout.readline().split()[-1].rpartition(":")
    network = NetworkOptions(acceptors=(), routes=[Route("^stock@", host, int(port))])
    options = NodeOptions(cert_manager=manager(folder, CUSTOMER), network=network)
    async with await start_node(CUSTOMER, options) as node:
        apples = await node.call(STOCK, "count", b"apples", timeout=5.0)
        print(service.stdout.readline(), end="")
        print(f"customer: there are {apples.decode()} apples")

        # This is what the command `fastnode health` prints.
        health = json.loads(await node.call(STOCK, "fastnode.health", b"", timeout=5.0))
        print(f"customer: the stock is {health['state']}, ok: {health['ok']}")

        call = asyncio.ensure_future(node.call(STOCK, "count", b"pears", timeout=5.0))
        print(await asyncio.to_thread(service.stdout.readline), end="")
        service.send_signal(signal.SIGTERM)  # as systemd and Kubernetes do
        print(f"customer: there are {(await call).decode()} pears")


def main() -> None:
    """Start the service, visit it, and see how it ends."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        authority = Authority.create()
        authority.save(folder)
        for each in (STOCK, CUSTOMER):
            issued = authority.issue(NodeName.parse(each))
            issued.save(folder / f"{each}.pem", folder / f"{each}-key.pem")
        command = [sys.executable, __file__, str(folder)]
        with subprocess.Popen(  # noqa: S603 - this program itself
            command, stdout=subprocess.PIPE, text=True
        ) as service:
            run(visit(folder, service))
            assert service.stdout is not None
            print(service.stdout.read(), end="")
        print(f"exit code of the service: {service.returncode}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        serve(Path(sys.argv[1]))
    else:
        main()
