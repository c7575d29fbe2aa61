"""A node restarts, and thousands of peers dial it again at the same time.

    python bench/restart.py                     # 5 000 dialers, docs/reliability.md
    python bench/restart.py --dialers 200 --processes 2

Each dialer is a node of its own that keeps a link with the server (`keep_connected`).
The server is killed when all links are up, and is started again on the same port. From
the moment at which it listens the program measures when each link is back, the CPU time
of the server, and the time of calls. One further peer, in a process of its own, makes
these calls, every 5 ms from the moment at which its own link is up until all links are
back.

The dialers share the processors with the server: the times are those of this machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from fastnode import (
    AcceptorOptions,
    CertAuthManager,
    Certificate,
    CertPool,
    ClientAuth,
    FastnodeError,
    NetworkOptions,
    Node,
    NodeOptions,
    Route,
    run,
    start_node,
)
from fastnode.certs.authority import Authority
from fastnode.names import NodeName

SERVER = "server@127.0.0.1"
PAUSE_SECONDS = 0.005
WAIT_SECONDS = 300.0


def many_descriptors() -> None:
    """Allow this process as many file descriptors as the system does."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def manager(folder: Path, name: str) -> CertAuthManager:
    """Mutual TLS."""
    pool = CertPool.load(folder / "ca.pem")
    return CertAuthManager(
        Certificate.load(folder / f"{name}.pem", folder / f"{name}-key.pem"),
        client_cas=pool,
        client_auth=ClientAuth.REQUIRE_AND_VERIFY_CLIENT_CERT,
        root_cas=pool,
    )


def say(**what: Any) -> None:
    """Write a line for the parent process."""
    print(json.dumps(what), flush=True)


async def until_told() -> None:
    """Wait for a line of the parent process."""
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(None, sys.stdin.readline)


async def until(true: Callable[[], bool]) -> None:
    """Look now and then."""
    while not true():  # noqa: ASYNC110
        await asyncio.sleep(0.05)


# --- the processes ------------------------------------------------------------------


async def serve(folder: Path, port: int, dialers: int) -> None:
    """The node that restarts. All dialers have one address and one certificate."""
    acceptor = AcceptorOptions(
        port=port,
        port_range=1,
        max_links=2 * dialers,
        max_links_per_peer=2 * dialers,
    )
    options = NodeOptions(
        cert_manager=manager(folder, "server"),
        network=NetworkOptions(acceptors=[acceptor]),
    )
    node = await start_node(SERVER, options)

    @node.handler("echo")
    def echo(message: Any) -> bytes:
        return bytes(message.payload)

    say(at=time.monotonic(), cpu=time.process_time())
    await until_told()
    stats = node.acceptors[0].stats
    say(cpu=time.process_time(), refused=stats.refused, failed=stats.failed)
    await until_told()


async def dialing(folder: Path, port: int, name: str) -> Node:
    """Start a node that only dials."""
    network = NetworkOptions(
        acceptors=(), routes=[Route("^server@", "127.0.0.1", port)]
    )
    options = NodeOptions(cert_manager=manager(folder, "dialer"), network=network)
    return await start_node(name, options)


async def dial(folder: Path, port: int, count: int, first: int) -> None:
    """Many dialers: tells when each link came up the second time."""
    names = [f"n{first + number}@127.0.0.1" for number in range(count)]
    nodes = [await dialing(folder, port, name) for name in names]
    times: list[list[float]] = [[] for _ in nodes]
    for number, node in enumerate(nodes):
        node.on_link_up(lambda _, mine=times[number]: mine.append(time.monotonic()))
        node.keep_connected(SERVER)
    await until(lambda: all(times))
    say(up=count)
    await until(lambda: all(len(mine) > 1 for mine in times))
    failed: Counter[str] = Counter()
    for node in nodes:
        failed += node.dial_stats.failed
    say(times=[mine[1] for mine in times], failed=failed)
    await until_told()


async def probe(folder: Path, port: int) -> None:
    """A peer that calls while the others come back."""
    node = await dialing(folder, port, "probe@127.0.0.1")
    keeper = node.keep_connected(SERVER)
    await (await keeper.connected()).call("echo", b"x", timeout=WAIT_SECONDS)
    say(up=1)
    await until_told()  # the server was killed
    took: list[float] = []
    over = asyncio.ensure_future(until_told())
    while not over.done():
        link = await keeper.connected()
        began = time.perf_counter()
        try:
            await link.call("echo", b"x" * 64, timeout=WAIT_SECONDS)
        except FastnodeError:
            continue
        took.append(time.perf_counter() - began)
        await asyncio.sleep(PAUSE_SECONDS)
    say(took=sorted(took))


# --- the parent ---------------------------------------------------------------------


class Child:
    """A process of this program."""

    def __init__(self, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--child", *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def hear(self) -> dict[str, Any]:
        """Wait for what it says."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("a process of this benchmark has ended")
        found: dict[str, Any] = json.loads(line)
        return found

    def tell(self) -> None:
        """Let it go on."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        """End it without a goodbye."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def certificates(folder: Path) -> None:
    """Write an authority and two certificates."""
    authority = Authority.create("benchmark CA")
    (folder / "ca.pem").write_bytes(authority.cert_pem)
    for name in ("server", "dialer"):
        issued = authority.issue(NodeName.parse(f"{name}@127.0.0.1"))
        issued.save(folder / f"{name}.pem", folder / f"{name}-key.pem")


def free_port() -> int:
    """Find a port for the server, which keeps it when it restarts."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def part(values: list[float], share: float) -> float:
    """The value below which this share of sorted values lies."""
    return values[min(len(values) - 1, int(len(values) * share))]


def measure(folder: Path, dialers: int, processes: int) -> None:
    """Run the benchmark and print its table."""
    certificates(folder)
    port = free_port()
    counts = [dialers // processes] * processes
    counts[0] += dialers % processes
    children = [Child("serve", folder, port, dialers)]
    try:
        children[0].hear()
        for number, count in enumerate(counts):
            children.append(Child("dial", folder, port, count, number * dialers))
        children.append(Child("probe", folder, port))
        for child in children[1:]:
            child.hear()
        children[0].kill()
        children[-1].tell()
        server = children[0] = Child("serve", folder, port, dialers)
        listens = server.hear()
        times: list[float] = []
        failed: Counter[str] = Counter()
        for child in children[1:-1]:
            said = child.hear()
            times += said["times"]
            failed.update(said["failed"])
        children[-1].tell()
        took = children[-1].hear()["took"]
        server.tell()
        ended = server.hear()
    finally:
        for child in children:
            child.kill()
    back = sorted(each - listens["at"] for each in times)
    print(f"{dialers} dialers in {processes} processes, {os.cpu_count()} processors")
    print("| what | value |\n|---|---|")
    for words, share in (("half of the links", 0.5), ("99 % of the links", 0.99)):
        print(f"| {words} are back after | {part(back, share):.1f} s |")
    print(f"| all links are back after | {back[-1]:.1f} s |")
    used = ended["cpu"] - listens["cpu"]
    each = 1e3 * used / dialers
    print(f"| CPU time of the server | {used:.1f} s, {each:.2f} ms for each link |")
    p50, p99, longest = 1e3 * part(took, 0.5), 1e3 * part(took, 0.99), 1e3 * took[-1]
    print(
        f"| calls of a peer that is up, p50, p99, longest | {p50:.1f}, {p99:.0f}, "
        f"{longest:.0f} ms |"
    )
    print(f"| dials that failed, first start included | {dict(failed) or 'none'} |")
    counted = {**ended["refused"], **ended["failed"]}
    print(f"| what the server counted | {counted or 'nothing'} |")


def main() -> None:
    """Read the command line."""
    if sys.argv[1:2] == ["--child"]:
        kind, folder, *numbers = sys.argv[2:]
        many_descriptors()
        # Thousands of dials fail while the server is gone.
        logging.getLogger("fastnode").setLevel(logging.CRITICAL)
        work: dict[str, Callable[..., Coroutine[Any, Any, None]]]
        work = {"serve": serve, "dial": dial, "probe": probe}
        run(work[kind](Path(folder), *map(int, numbers)))
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--dialers", type=int, default=5000)
    parser.add_argument("--processes", type=int, default=4)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), arguments.dialers, arguments.processes)


if __name__ == "__main__":
    main()
