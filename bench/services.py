"""What a call of a service costs more than the same call on a link.

    python bench/services.py                    # 15 rounds
    python bench/services.py --rounds 5 --calls 5000

Two processes on loopback, mutual TLS 1.3: a server with one node, and a client that
calls it with 64 calls under way. In each round the client makes the same number of
calls with `Link.call`, with `Service.call`, and with `Service.call` and a key. The
order changes from round to round. The result is the CPU time of the client for each
call, and the median of the ratios within the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import tempfile
import time
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

from fastnode import (
    AcceptorOptions,
    CertAuthManager,
    Certificate,
    CertPool,
    ClientAuth,
    NetworkOptions,
    NodeOptions,
    run,
    start_node,
)
from fastnode.certs.authority import Authority
from fastnode.discovery import StaticDiscovery, Target
from fastnode.names import NodeName

SERVER = "server@127.0.0.1"
CLIENT = "client@127.0.0.1"
UNDER_WAY = 64
PAYLOAD = b"x" * 64
WAIT_SECONDS = 60.0


def options(folder: Path, name: str, **network: Any) -> NodeOptions:
    """Mutual TLS."""
    pool = CertPool.load(folder / "ca.pem")
    return NodeOptions(
        cert_manager=CertAuthManager(
            Certificate.load(folder / f"{name}.pem", folder / f"{name}-key.pem"),
            client_cas=pool,
            client_auth=ClientAuth.REQUIRE_AND_VERIFY_CLIENT_CERT,
            root_cas=pool,
        ),
        network=NetworkOptions(**network),
    )


async def serve(folder: Path, pipe: Connection) -> None:
    """Answer calls until the parent closes its end of the pipe."""
    acceptors = [AcceptorOptions(port=0)]
    node = await start_node(SERVER, options(folder, "server", acceptors=acceptors))
    async with node:

        @node.handler("echo")
        def echo(message: Any) -> bytes:
            return bytes(message.payload)

        pipe.send(node.acceptors[0].address)
        await asyncio.get_running_loop().run_in_executor(None, pipe.poll, None)


def server_process(folder: Path, pipe: Connection) -> None:
    """The entry point of the server."""
    run(serve(folder, pipe))


async def cost(call: Callable[[], Awaitable[object]], count: int) -> float:
    """Return the CPU time of this process for each of so many calls, seconds."""

    async def caller() -> None:
        for _ in range(count // UNDER_WAY):
            await call()

    began = time.process_time()
    await asyncio.gather(*(caller() for _ in range(UNDER_WAY)))
    return (time.process_time() - began) / (count // UNDER_WAY * UNDER_WAY)


async def measure(
    folder: Path, address: tuple[str, int], rounds: int, count: int
) -> dict[str, list[float]]:
    """Return the CPU time of each turn, by what was called."""
    discovery = StaticDiscovery({"server": [Target(*address)]})
    node = await start_node(
        CLIENT, options(folder, "client", acceptors=(), discovery=discovery)
    )
    async with node:
        service = node.service("server")
        await service.wait_ready(timeout=WAIT_SECONDS)
        (link,) = node.links
        ways: dict[str, Callable[[], Awaitable[object]]] = {
            "link.call": lambda: link.call("echo", PAYLOAD),
            "service.call": lambda: service.call("echo", PAYLOAD),
            "service.call, key=": lambda: service.call("echo", PAYLOAD, key=b"7"),
        }
        costs: dict[str, list[float]] = {name: [] for name in ways}
        order = list(ways)
        for name in order:  # a warm-up
            await cost(ways[name], count // 4)
        for _ in range(rounds):
            for name in order:
                costs[name].append(await cost(ways[name], count))
            order.append(order.pop(0))
        return costs


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--calls", type=int, default=20_000, help="in each turn")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        authority = Authority.create("benchmark CA")
        (folder / "ca.pem").write_bytes(authority.cert_pem)
        for name in ("server", "client"):
            issued = authority.issue(NodeName.parse(f"{name}@127.0.0.1"))
            issued.save(folder / f"{name}.pem", folder / f"{name}-key.pem")
        ours, theirs = multiprocessing.get_context("spawn").Pipe()
        server = multiprocessing.get_context("spawn").Process(
            target=server_process, args=(folder, theirs), daemon=True
        )
        server.start()
        theirs.close()
        if not ours.poll(WAIT_SECONDS):
            raise SystemExit("the server did not start")
        costs = run(measure(folder, ours.recv(), given.rounds, given.calls))
        ours.close()
        server.join(WAIT_SECONDS)
    base = costs["link.call"]
    print(f"{'':20} CPU us for each call   ratio   spread of the ratio")
    for name, each in costs.items():
        ratios = [mine / link for mine, link in zip(each, base, strict=True)]
        print(
            f"{name:20} {median(each) * 1e6:20.2f} {median(ratios):7.2f}   "
            f"{min(ratios):.2f} to {max(ratios):.2f}"
        )


if __name__ == "__main__":
    main()
