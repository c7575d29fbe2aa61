"""Connects and messages without number, and nothing grows: a named run.

    python tests/soak/load.py        50 000 connects, 100 million messages
    python tests/soak/load.py --connects 2000 --messages 2000000

A process accepts links. Nodes of this one dial it again and again; half of them are
refused: their certificate is of another authority, expired, missing, or of another
name, or they refuse the acceptor's. Others have one link each for the whole run, and
send numbered messages of 64 bytes, with calls and large messages between them. All that
goes in rounds; after each one both sides have to have counted the same, in order, and
memory and descriptors have to be what they were. Prints a table; exit 1 if anything is
not so.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import logging
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
    Link,
    Message,
    NetworkOptions,
    Node,
    NodeOptions,
    PeerNameMismatch,
    Route,
    UnknownAuthority,
    run,
    start_node,
)
from fastnode.certs.authority import Authority
from fastnode.names import NodeName
from soak.footprint import Server, footprint, served, tell

ACCEPTOR = "acceptor@127.0.0.1"
#: Who dials, and what has to come of it; None: a link.
KINDS: dict[str, type[HandshakeError] | None] = {
    "good": None,
    "other authority": UnknownAuthority,
    "expired": CertificateExpired,
    "none": CertificateRequired,
    "other name": PeerNameMismatch,
    "distrusts": UnknownAuthority,
}
#: Dialers of each kind; the good ones make half of all dials.
DIALERS = {
    kind: 2 * (len(KINDS) - 1) if kind == "good" else 2 for kind in KINDS
}  # fmt: skip
SENDERS = 4
ROUNDS = 50
#: Rounds until caches and allocators have what they need.
WARM_UP = 8
PAYLOAD_BYTES = 64
NUMBER_BYTES = 8
#: Messages between two drains, two calls, two large messages.
BURST = 500
CALL_EVERY = 10_000
LARGE_EVERY = 200_000
LARGE_BYTES = 1 << 20
#: What memory may grow by: allocators keep some of what they once had.
GROWTH_BYTES = 6 << 20
#: No round takes longer, and nothing in it waits longer: on a host that is busy with
#: other things, a handshake may take more than it usually has.
ROUND_SECONDS = 900.0
FILL = bytes(range(PAYLOAD_BYTES - NUMBER_BYTES))
LARGE = bytes(range(256)) * (LARGE_BYTES // 256)


# --- the acceptor ------------------------------------------------------------------


class Received:
    """What the handlers have taken, of each sender.

    Attributes:
        numbers: the next number of each sender.
        calls, large: how many there were.
        wrong: messages that were not what was to come.
    """

    def __init__(self, node: Node) -> None:
        self.numbers: Counter[str] = Counter()
        self.calls = self.large = self.wrong = 0
        node.handler("numbered")(self.numbered)
        node.handler("echo")(self.echo)
        node.handler("large")(self.keep)

    def numbered(self, message: Message) -> None:
        payload, name = message.payload, message.sender.name
        number = self.numbers[name]
        if payload != number.to_bytes(NUMBER_BYTES) + FILL:
            self.wrong += 1
        self.numbers[name] = number + 1

    def echo(self, message: Message) -> bytes:
        self.calls += 1
        return message.payload

    def keep(self, message: Message) -> bytes:
        self.large += 1
        return hashlib.sha256(message.payload).digest()

    def state(self) -> dict[str, Any]:
        return {
            "messages": self.numbers.total(),
            "calls": self.calls,
            "large": self.large,
            "wrong": self.wrong,
        }


async def accept(folder: Path) -> None:
    """The process that is dialed."""
    pool = CertPool.load(folder / "ca.pem")
    manager = CertAuthManager(
        Certificate.load(folder / "cert.pem", folder / "key.pem"),
        client_cas=pool,
        client_auth=ClientAuth.REQUIRE_AND_VERIFY_CLIENT_CERT,
    )
    acceptors = [AcceptorOptions(host="127.0.0.1", port=0)]
    network = NetworkOptions(acceptors=acceptors, handshake_timeout=ROUND_SECONDS)
    options = NodeOptions(cert_manager=manager, network=network)
    async with await start_node(ACCEPTOR, options) as node:
        await tell(node, Received(node).state)


# --- the dialers and senders ----------------------------------------------------------


@dataclass
class Load:
    """What was done so far, as this side knows it."""

    authority: Authority = field(default_factory=lambda: Authority.create("soak CA"))
    other: Authority = field(default_factory=lambda: Authority.create("other CA"))
    dialed: Counter[str] = field(default_factory=Counter)
    #: Outcomes and answers that were not as they have to be.
    wrong: Counter[str] = field(default_factory=Counter)
    messages: int = 0
    calls: int = 0
    large: int = 0
    #: Of both processes, after each round.
    here: list[dict[str, int]] = field(default_factory=list)
    there: list[dict[str, Any]] = field(default_factory=list)

    def manager(
        self, kind: str, name: str
    ) -> tuple[CertAuthManager, Certificate | None]:
        """What a dialer shows and trusts."""
        now, day = datetime.now(UTC), timedelta(days=1)
        issuer = self.other if kind == "other authority" else self.authority
        shown = None
        if kind != "none":
            named = "somebody@127.0.0.2" if kind == "other name" else name
            valid = (now - 9 * day, now - day) if kind == "expired" else (None, None)
            shown = issuer.issue(
                NodeName.parse(named), not_before=valid[0], not_after=valid[1]
            ).certificate()
        trusts = self.other if kind == "distrusts" else self.authority
        return CertAuthManager(None, root_cas=CertPool.from_pem(trusts.cert_pem)), shown

    async def node(self, kind: str, name: str, address: tuple[str, int]) -> Node:
        """A node that dials."""
        routes = [Route(f"^{ACCEPTOR}$", *address)]
        network = NetworkOptions(
            acceptors=(), routes=routes, handshake_timeout=ROUND_SECONDS
        )
        manager, shown = self.manager(kind, name)
        options = NodeOptions(cert_manager=manager, network=network)
        node = await start_node(name, options)
        # Not `update`, which refuses what has expired: that is what is shown here.
        manager._certificate = shown
        manager._contexts = {}
        return node

    async def dial(self, node: Node, kind: str, count: int) -> None:
        """Connect and close, `count` times."""
        want = KINDS[kind]
        for _ in range(count):
            found: type[Exception] | None = None
            try:
                link = await node.connect(ACCEPTOR)
                await link.close()
            except Exception as error:
                found = type(error)
            self.dialed[kind] += 1
            if found is not want:
                self.wrong[f"{kind}: {found.__name__ if found else 'a link'}"] += 1

    async def send(self, link: Link, begin: int, count: int) -> None:
        """Messages from number `begin` on, and what goes between them."""
        digest = hashlib.sha256(LARGE).digest()
        for number in range(begin, begin + count):
            link.send("numbered", number.to_bytes(NUMBER_BYTES) + FILL)
            if number % BURST == 0:
                await link.drain()
            if number % CALL_EVERY == 0:
                self.calls += 1
                asked = number.to_bytes(NUMBER_BYTES)
                if await link.call("echo", asked, timeout=ROUND_SECONDS) != asked:
                    self.wrong["a call's reply"] += 1
            if number % LARGE_EVERY == 0:
                self.large += 1
                reply = await link.call("large", LARGE, timeout=ROUND_SECONDS)
                if reply != digest:
                    self.wrong["a large message"] += 1
        self.messages += count
        await link.drain()


class Rounds:
    """The run.

    Args:
        load: keeps count.
        there: the acceptor's process.
        connects, messages: of all rounds together, at least.
    """

    def __init__(self, load: Load, there: Server, connects: int, messages: int) -> None:
        self.load = load
        self.there = there
        dialers = sum(DIALERS.values())
        self.connects_each = -(-connects // (ROUNDS * dialers))
        self.messages_each = -(-messages // (ROUNDS * SENDERS))
        self.dialers: list[tuple[Node, str]] = []
        self.senders: list[tuple[Node, Link]] = []

    async def start(self) -> None:
        """Start all nodes; the senders connect."""
        for kind, count in DIALERS.items():
            for number in range(count):
                name = f"{kind.replace(' ', '-')}-{number}@127.0.0.1"
                node = await self.load.node(kind, name, self.there.address)
                self.dialers.append((node, kind))
        for number in range(SENDERS):
            name = f"sender-{number}@127.0.0.1"
            node = await self.load.node("sender", name, self.there.address)
            self.senders.append((node, await node.connect(ACCEPTOR)))

    async def stop(self) -> None:
        """Stop all nodes."""
        for node, _ in (*self.dialers, *self.senders):
            await node.stop()

    async def one(self, number: int) -> None:
        """A round, to the point where both sides are at rest."""
        load, each = self.load, self.messages_each
        async with asyncio.timeout(ROUND_SECONDS), asyncio.TaskGroup() as group:
            for node, kind in self.dialers:
                group.create_task(load.dial(node, kind, self.connects_each))
            for _, link in self.senders:
                group.create_task(load.send(link, number * each, each))
        # The last messages are on their way, and so are the ends of the last links,
        # whose sockets linger.
        for _ in range(600):
            state = await self.there.state()
            least = min((s["descriptors"] for s in load.there), default=sys.maxsize)
            if not self.differences(state) and state["descriptors"] <= least:
                break
            await asyncio.sleep(0.1)
        load.here.append(footprint())
        load.there.append(state)

    def differences(self, state: dict[str, Any]) -> list[str]:
        """What the acceptor has counted otherwise than we."""
        load = self.load
        want = {
            "messages": load.messages,
            "calls": load.calls,
            "large": load.large,
            "wrong": 0,
            "links": SENDERS,
            "links up": load.dialed["good"] + SENDERS,
        }
        pairs = [(what, count, state[what]) for what, count in want.items()]
        refused = Counter[str]()
        for kind, error in KINDS.items():
            if error is not None and kind != "distrusts":
                refused[error.__name__] += load.dialed[kind]
        names = refused.keys() | state["refused"].keys()
        pairs += [(n, refused[n], state["refused"].get(n, 0)) for n in sorted(names)]
        # Those who do not trust the acceptor say so, and it counts what they said.
        failed = sum(state["failed"].values())
        pairs.append(("refused by the dialer", load.dialed["distrusts"], failed))
        return [
            f"{what}: {here} here, {there} at the acceptor"
            for what, here, there in pairs
            if here != there
        ]


async def soak(folder: Path, connects: int, messages: int) -> int:
    """The whole run; the exit code."""
    load = Load()
    (folder / "ca.pem").write_bytes(load.authority.cert_pem)
    issued = load.authority.issue(NodeName.parse(ACCEPTOR))
    (folder / "cert.pem").write_bytes(issued.cert_pem)
    (folder / "key.pem").write_bytes(issued.key_pem)
    began = time.monotonic()
    async with served(__file__, folder) as there:
        rounds = Rounds(load, there, connects, messages)
        await rounds.start()
        for number in range(ROUNDS):
            await rounds.one(number)
            if faults := rounds.differences(load.there[-1]):
                faults = [f"round {number}: {fault}" for fault in faults]
                break
            if sys.stderr.isatty():
                print(f"round {number + 1} of {ROUNDS}", end="\r", file=sys.stderr)
        took = time.monotonic() - began
        await rounds.stop()
    return report(load, took, faults)


# --- the table -----------------------------------------------------------------------


def report(load: Load, took: float, faults: list[str]) -> int:
    """Print the table; the exit code."""
    total = load.dialed.total()
    good = load.dialed["good"]
    print(f"{took:.0f} s: {total} connects, {total - good} of them refused;")
    print(f"{load.messages} messages, {load.calls} calls, {load.large} of 1 MiB")
    for kind, want in KINDS.items():
        outcome = want.__name__ if want else "a link"
        print(f"  {kind:16} {load.dialed[kind]:8}  {outcome}")
    faults = faults + [f"{count} x {what}" for what, count in load.wrong.items()]
    for who, states in (("dialers", load.here), ("acceptor", load.there)):
        step = max(len(states) // 10, 1)
        curve = " ".join(f"{state['rss'] / 2**20:.1f}" for state in states[::step])
        print(f"  {who:9} MiB over time: {curve}")
        if len(states) > WARM_UP:
            faults += growth(who, states[WARM_UP], states[-1])
    for fault in faults:
        print(f"FAULT: {fault}")
    print("0 passed, 1 failed" if faults else "1 passed, 0 failed")
    return 1 if faults else 0


def growth(who: str, warm: dict[str, Any], final: dict[str, Any]) -> list[str]:
    """Print what a process held, after the warm-up and at the end; what grew."""
    rss = final["rss"] - warm["rss"]
    print(
        f"  {who:9} RSS {warm['rss'] >> 10} KiB, then {rss / 1024:+.0f}; "
        f"descriptors {warm['descriptors']} -> {final['descriptors']}; "
        f"TLS contexts {warm['contexts']} -> {final['contexts']}"
    )
    faults = [
        f"{who}: {warm[what]} {what}, then {final[what]}"
        for what in ("descriptors", "contexts")
        if final[what] > warm[what]
    ]
    if rss > GROWTH_BYTES:
        faults.append(f"{who}: memory grew by {rss >> 10} KiB")
    return faults


def main() -> int:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0] if __doc__ else ""
    )
    parser.add_argument("--connects", type=int, default=50_000)
    parser.add_argument("--messages", type=int, default=100_000_000)
    parser.add_argument("--accept", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    # Refusals are what this is about: not a line for each.
    logging.getLogger("fastnode").setLevel(logging.CRITICAL)
    if arguments.accept is not None:
        run(accept(arguments.accept))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        return run(soak(Path(folder), arguments.connects, arguments.messages))


if __name__ == "__main__":
    sys.exit(main())
