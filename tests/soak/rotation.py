"""Handshakes without end while certificates rotate: a named run, not part of the suite.

    python tests/soak/rotation.py                       ten minutes, 200 a second
    python tests/soak/rotation.py --minutes 1 --rate 50

An acceptor process follows certificate files that are replaced every second. Nodes in
this process dial it, with certificates that are good, of another authority, expired, or
none, and rotate theirs every 10 ms. Every dial has to end as its certificate says, the
acceptor has to have counted the same, every serial number that is seen has to have been
in use, and memory, descriptors and TLS contexts have to stay as they are. Prints a
table; exit 1 if anything is not so.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from fastnode import (
    AcceptorOptions,
    CertAuthManager,
    Certificate,
    CertificateExpired,
    CertificateRequired,
    CertPool,
    ClientAuth,
    HandshakeError,
    NetworkOptions,
    Node,
    NodeOptions,
    Route,
    UnknownAuthority,
    run,
    start_node,
)
from fastnode.certs.authority import Authority
from fastnode.names import NodeName
from soak.footprint import footprint, served, tell

ACCEPTOR = "acceptor@127.0.0.1"
#: What dialers show, and what has to come of it; None: a link.
KINDS: dict[str, type[HandshakeError] | None] = {
    "good": None,
    "other authority": UnknownAuthority,
    "expired": CertificateExpired,
    "none": CertificateRequired,
}
#: Dialers of each kind; the good ones make half of all dials.
DIALERS = {"good": 9, "other authority": 3, "expired": 3, "none": 3}
CERTIFICATES = 40
ROTATE_SECONDS = 0.01
REPLACE_SECONDS = 1.0
#: Until caches and allocators have what they need.
WARM_UP = 0.15
SAMPLES = 10
#: What memory may grow by after that: allocators keep some of what they once had.
GROWTH_BYTES = 6 << 20


# --- the acceptor ------------------------------------------------------------------


async def accept(folder: Path) -> None:
    """The process that is dialed."""
    manager = CertAuthManager(
        None,
        client_cas=CertPool.load(folder / "ca.pem"),
        client_auth=ClientAuth.REQUIRE_AND_VERIFY_CLIENT_CERT,
    )
    watch = manager.watch(folder / "cert.pem", folder / "key.pem", interval=0.2)
    options = NodeOptions(
        cert_manager=manager,
        network=NetworkOptions(
            acceptors=[AcceptorOptions(host="127.0.0.1", port=0, max_handshakes=1024)]
        ),
    )
    with watch:
        async with await start_node(ACCEPTOR, options) as node:
            await tell(node)


# --- the dialers --------------------------------------------------------------------


@dataclass
class Run:
    """What is known so far."""

    folder: Path
    authority: Authority = field(default_factory=lambda: Authority.create("soak CA"))
    other: Authority = field(default_factory=lambda: Authority.create("other CA"))
    #: Serial numbers that the acceptor had by now.
    serials: set[int] = field(default_factory=set)
    seen: set[int] = field(default_factory=set)
    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    rotations: int = 0
    #: RSS of both processes, over time.
    samples: list[tuple[int, int]] = field(default_factory=list)

    def certificates(self, kind: str, name: str) -> list[Certificate | None]:
        """What a dialer rotates through."""
        if kind == "none":
            return [None]
        now, day = datetime.now(UTC), timedelta(days=1)
        expired = kind == "expired"
        begin = now - 9 * day if expired else None
        end = now - day if expired else None
        issuer = self.other if kind == "other authority" else self.authority
        node_name = NodeName.parse(name)
        return [
            issuer.issue(node_name, not_before=begin, not_after=end).certificate()
            for _ in range(CERTIFICATES)
        ]

    def replace_files(self) -> None:
        """A new certificate for the acceptor; the key first, then the certificate."""
        issued = self.authority.issue(NodeName.parse(ACCEPTOR))
        self.serials.add(issued.certificate().serial_number)
        for name, data in (("key.pem", issued.key_pem), ("cert.pem", issued.cert_pem)):
            fresh = self.folder / f"{name}.new"
            fresh.write_bytes(data)
            fresh.rename(self.folder / name)


async def dial(node: Node, kind: str, soak: Run, tickets: asyncio.Queue[None]) -> None:
    """Connect and close, once for each ticket."""
    want = KINDS[kind]
    while True:
        await tickets.get()
        try:
            link = await node.connect(ACCEPTOR)
        except HandshakeError as error:
            found: type[Exception] | None = type(error)
        else:
            found = None
            assert link.peer.certificate is not None
            soak.seen.add(link.peer.certificate.serial_number)
            await link.close()
        soak.outcomes[kind] += 1
        if found is not want:
            soak.wrong[f"{kind}: {found and found.__name__}"] += 1
        tickets.task_done()


async def rotate(managers: list[tuple[CertAuthManager, list[Any]]], soak: Run) -> None:
    """Every dialer's certificate, every ROTATE_SECONDS."""
    cycles = [(manager, itertools.cycle(shown)) for manager, shown in managers]
    due = time.monotonic()
    while True:
        for manager, shown in cycles:
            # Not `update`, which refuses what has expired: that is what is shown here.
            with manager._lock:
                manager._certificate = next(shown)
                manager._contexts = {}
        soak.rotations += 1
        due += ROTATE_SECONDS
        await asyncio.sleep(max(due - time.monotonic(), 0))


async def replace(soak: Run) -> None:
    """The acceptor's files, every REPLACE_SECONDS."""
    while True:
        await asyncio.sleep(REPLACE_SECONDS)
        await asyncio.to_thread(soak.replace_files)


async def issue_tickets(
    queues: list[asyncio.Queue[None]], rate: float, seconds: float
) -> None:
    """So many dials a second, as long as the dialers keep up."""
    began = time.monotonic()
    turns = itertools.cycle(queues)
    for number in itertools.count():
        due = began + number / rate
        if due > began + seconds:
            return
        await asyncio.sleep(max(due - time.monotonic(), 0))
        await next(turns).put(None)


async def soak(folder: Path, minutes: float, rate: float) -> int:
    """The whole run; the exit code."""
    state = Run(folder)
    (folder / "ca.pem").write_bytes(state.authority.cert_pem)
    state.replace_files()
    seconds = minutes * 60
    async with served(__file__, folder) as there:
        nodes: list[Node] = []
        managers: list[tuple[CertAuthManager, list[Any]]] = []
        queues: list[asyncio.Queue[None]] = []
        tasks: list[asyncio.Task[None]] = []
        for kind, count in DIALERS.items():
            for number in range(count):
                name = f"{kind.replace(' ', '-')}-{number}@127.0.0.1"
                shown = state.certificates(kind, name)
                manager = CertAuthManager(
                    None, root_cas=CertPool.from_pem(state.authority.cert_pem)
                )
                network = NetworkOptions(
                    acceptors=(), routes=[Route(".", *there.address)]
                )
                options = NodeOptions(cert_manager=manager, network=network)
                node = await start_node(name, options)
                nodes.append(node)
                managers.append((manager, shown))
                queues.append(asyncio.Queue(1))
                tasks.append(asyncio.create_task(dial(node, kind, state, queues[-1])))
        tasks.append(asyncio.create_task(rotate(managers, state)))
        tasks.append(asyncio.create_task(replace(state)))
        await asyncio.sleep(0)
        began = time.monotonic()
        await issue_tickets(queues, rate, seconds * WARM_UP)
        warm, warm_there = footprint(), await there.state()
        for _ in range(SAMPLES):
            await issue_tickets(queues, rate, seconds * (1 - WARM_UP) / SAMPLES)
            state.samples.append((footprint()["rss"], (await there.state())["rss"]))
        for queue in queues:
            await asyncio.wait_for(queue.join(), 60)
        took = time.monotonic() - began
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        final, final_there = footprint(), await there.state()
        for node in nodes:
            await node.stop()
    return report(state, took, (warm, final), (warm_there, final_there))


def report(
    state: Run,
    took: float,
    here: tuple[dict[str, int], dict[str, int]],
    there: tuple[dict[str, Any], dict[str, Any]],
) -> int:
    """Print the table; the exit code."""
    total, changes = state.outcomes.total(), len(state.serials)
    print(f"{total} handshakes in {took:.0f} s, {total / took:.0f} a second")
    print(f"{state.rotations} rotations of dialers, {changes} of the acceptor")
    faults = judgements(state, there[1])
    for who, column in (("dialers", 0), ("acceptor", 1)):
        curve = " ".join(f"{sample[column] / 2**20:.1f}" for sample in state.samples)
        print(f"  {who:9} MiB over time: {curve}")
    for who, (warm, final) in (("dialers", here), ("acceptor", there)):
        faults += growth(who, warm, final)
    for fault in faults:
        print(f"FAULT: {fault}")
    print("0 passed, 1 failed" if faults else "1 passed, 0 failed")
    return 1 if faults else 0


def judgements(state: Run, counted: dict[str, Any]) -> list[str]:
    """Print who was judged how, by both sides; what was wrong with it."""
    faults = [f"{count} x {what}" for what, count in state.wrong.items()]
    for kind, count in state.outcomes.items():
        want = KINDS[kind]
        there = (
            counted["links up"]
            if want is None
            else counted["refused"].get(want.__name__, 0)
        )
        print(f"  {kind:16} {count:8} dialed, {there:8} counted by the acceptor")
        if there != count:
            faults.append(f"{kind}: {count} dialed, {there} counted")
    if counted["failed"]:
        faults.append(f"failed at the acceptor: {counted['failed']}")
    if counted["links"]:
        faults.append(f"{counted['links']} links are left at the acceptor")
    if state.seen - state.serials:
        faults.append("serial numbers were seen that never were in use")
    print(f"  {len(state.seen)} serial numbers of the acceptor were seen")
    return faults


def growth(who: str, warm: dict[str, int], final: dict[str, int]) -> list[str]:
    """Print what a process held, after the warm-up and at the end; what grew."""
    rss = final["rss"] - warm["rss"]
    print(
        f"  {who:9} RSS {warm['rss'] >> 10} KiB, then {rss / 1024:+.0f}; "
        f"descriptors {warm['descriptors']} -> {final['descriptors']}; "
        f"TLS contexts {warm['contexts']} -> {final['contexts']}"
    )
    # What is under way at a moment may differ by a few.
    slack = 2 * sum(DIALERS.values())
    faults = [
        f"{who}: {warm[what]} {what}, then {final[what]}"
        for what in ("descriptors", "contexts")
        if final[what] > warm[what] + slack
    ]
    if rss > GROWTH_BYTES:
        faults.append(f"{who}: memory grew by {rss >> 10} KiB")
    return faults


def main() -> int:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0] if __doc__ else ""
    )
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=200.0, help="handshakes a second")
    parser.add_argument("--accept", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.accept is not None:
        run(accept(arguments.accept))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        return run(soak(Path(folder), arguments.minutes, arguments.rate))


if __name__ == "__main__":
    sys.exit(main())
