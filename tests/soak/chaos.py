"""Five nodes, all that can happen to them, and not one message wrong: a named run.

    python tests/soak/chaos.py                fifteen minutes
    python tests/soak/chaos.py --minutes 1

Five node processes send numbered messages with checksums to each other, through
proxies: to plain and to asynchronous handlers, each to be confirmed, and calls, some of
whose handlers call back. Processes are killed, stopped and started again, frozen and
let go; connections are cut, reset, half-closed and swallowed; certificates rotate and
links are replaced. Each process writes down what was confirmed or answered to it and
what its handlers took, in files that outlive it. In the end every confirmed message and
answered call was handled exactly once, none twice, in order on every link; no error was
seen outside those that the contract names; memory and descriptors of a process are at
its end what they were when it had warmed up. The first process is never ended, so that
one of them lives through all of it. Prints tables; exit 1 if anything is not so.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import itertools
import json
import os
import random
import signal
import socket
import struct
import sys
import tempfile
import time
import zlib
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import fastnode
from fastnode import (
    AcceptorOptions,
    CallTimeout,
    CertAuthManager,
    Certificate,
    CertPool,
    ClientAuth,
    FastnodeError,
    Link,
    Message,
    NetworkOptions,
    Node,
    NodeOptions,
    Peer,
    RemoteError,
    Route,
    run,
    start_node,
)
from fastnode.certs.authority import Authority
from fastnode.names import NodeName
from helpers.proxy import Proxy

NODES = [f"n{number}@127.0.0.1" for number in range(5)]
#: Endpoints; the place of one is the last digit of its messages' numbers. Nobody
#: promises an order of calls that handlers make.
KINDS = ["plain", "async", "call", "callback"]
UNORDERED = KINDS.index("callback")
#: One message of so many is of that kind.
MIX = ["plain"] * 4 + ["async"] * 2 + ["call"] * 2
CALLBACKS = 0.2
PAYLOAD_BYTES = 64
#: Messages that one node has under way to one other, to be confirmed.
OUTSTANDING = 16
PAUSE_SECONDS = 0.01
#: A dead peer is found within two keepalive intervals and a half.
KEEPALIVE_SECONDS = 1.0
CONFIRM_SECONDS = 20.0
ASYNC_SECONDS = 0.02
#: What a process may have more at its end than when it had warmed up.
FLAT_BYTES = 8 << 20
FLAT_DESCRIPTORS = 10
WARM_SECONDS = 30.0
#: Links whose order is followed at once, by the last messages: more than there are.
MOST_LINKS = 64
#: What a run of a node was, who sent, on which link, which message: a line of a log.
RECORD = struct.Struct(">16s16sQQ")
HEAD = struct.Struct(">16sQI")


#: Errors of the contract, here, and by name where a handler of the peer met them.
EXPECTED = (ConnectionError, CallTimeout)
EXPECTED_THERE = {
    "CancelledError",
    *(each.__name__ for each in ConnectionError.__subclasses__()),
    *(
        name
        for name in fastnode.__all__
        if isinstance(kind := getattr(fastnode, name), type)
        and issubclass(kind, EXPECTED)
    ),
}


def reply_to(payload: bytes) -> bytes:
    """What a call is answered."""
    return payload[: HEAD.size][::-1]


# --- one node's process --------------------------------------------------------------


class Worker:
    """A node that sends to all others, and writes down what it takes."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self.run = os.urandom(16)
        self.errors: Counter[str] = Counter()
        self.strange: list[str] = []
        #: Confirmed, answered, handled: by endpoint.
        self.confirmed: Counter[str] = Counter()
        self.handled: Counter[str] = Counter()
        self.corrupt = 0
        self.warm: dict[str, int] = {}
        self.node: Node | None = None
        self.numbers = itertools.count(1)
        self.links: OrderedDict[int, tuple[int, Peer]] = OrderedDict()
        self.links_seen = itertools.count()
        stem = f"{name}-{self.run.hex()}"
        # Written by the system call itself: what is in there outlives a SIGKILL.
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self.taken = os.open(folder / f"{stem}.taken", flags, 0o600)
        self.proved = os.open(folder / f"{stem}.confirmed", flags, 0o600)

    def take(self, message: Message) -> None:
        """The plain handler, and the beginning of the others: one record each."""
        sender, number, check = HEAD.unpack_from(message.payload)
        if zlib.crc32(message.payload[HEAD.size :]) != check:
            self.corrupt += 1
            return
        # A link has a Peer of its own.
        peer = message.sender
        if id(peer) not in self.links:
            self.links[id(peer)] = next(self.links_seen), peer
            if len(self.links) > MOST_LINKS:
                self.links.popitem(last=False)
        self.links.move_to_end(id(peer))
        link, _ = self.links[id(peer)]
        os.write(self.taken, RECORD.pack(self.run, sender, link, number))
        self.handled[message.endpoint] += 1

    def take_async(self, message: Message) -> Awaitable[None]:
        """Write it down at once: a kill may come before the task begins."""
        self.take(message)
        return asyncio.sleep(ASYNC_SECONDS * random.random())

    def take_call(self, message: Message) -> Awaitable[bytes]:
        """As `take_async`; the reply says which call it answers."""
        self.take(message)
        return self.answer(message)

    async def answer(self, message: Message) -> bytes:
        """Think, perhaps call back, and reply."""
        await asyncio.sleep(ASYNC_SECONDS * random.random())
        if random.random() < CALLBACKS:
            assert self.node is not None
            link = await self.node.connect(message.sender.name)
            await self.deliver(link, "callback")
        return reply_to(message.payload)

    def take_callback(self, message: Message) -> bytes:
        """A call that a handler makes."""
        self.take(message)
        return reply_to(message.payload)

    async def deliver(self, link: Link, kind: str) -> None:
        """One message to be confirmed, or one call, and the record of its success."""
        body = os.urandom(PAYLOAD_BYTES)
        number = next(self.numbers) * len(KINDS) + KINDS.index(kind)
        payload = HEAD.pack(self.run, number, zlib.crc32(body)) + body
        if kind in ("plain", "async"):
            await link.send_confirmed(kind, payload, timeout=CONFIRM_SECONDS)
        elif await link.call(kind, payload, timeout=CONFIRM_SECONDS) != reply_to(
            payload
        ):
            self.strange.append("a reply answers another call")
            return
        self.confirmed[kind] += 1
        os.write(self.proved, RECORD.pack(self.run, self.run, 0, number))

    async def send_to(self, node: Node, peer: str) -> None:
        """Messages to one other node, one after another, as long as it lasts."""
        slots = asyncio.Semaphore(OUTSTANDING)

        async def one(link: Link) -> None:
            try:
                await self.deliver(link, random.choice(MIX))
            except Exception as error:
                self.seen(error)
            finally:
                slots.release()

        async with asyncio.TaskGroup() as group:
            while True:
                await slots.acquire()
                try:
                    link = await node.connect(peer)
                except (FastnodeError, OSError) as error:
                    self.seen(error)
                    slots.release()
                    await asyncio.sleep(0.2 * random.random())
                    continue
                group.create_task(one(link))
                await asyncio.sleep(PAUSE_SECONDS)

    def seen(self, error: Exception) -> None:
        """Count an error of the contract; keep one that is not."""
        name = type(error).__name__
        fine = isinstance(error, EXPECTED)
        if isinstance(error, RemoteError):
            # Of a handler that called back, or was cancelled when its node stopped.
            name = f"{name} {error.type_name}"
            fine = error.type_name in EXPECTED_THERE
        self.errors[name] += 1
        if not fine:
            self.strange.append(f"{type(error).__name__}: {error}")

    async def main(self) -> None:
        """Run until SIGTERM; commands come in by standard input."""
        config = json.loads((self.folder / "config.json").read_text())
        pool = CertPool.load(self.folder / "ca.pem")
        manager = CertAuthManager(
            Certificate.load(
                self.folder / f"{self.name}.pem", self.folder / f"{self.name}-key.pem"
            ),
            client_cas=pool,
            client_auth=ClientAuth.REQUIRE_AND_VERIFY_CLIENT_CERT,
            root_cas=pool,
        )
        routes = [
            Route(f"^{peer}$", "127.0.0.1", config["proxies"][peer])
            for peer in NODES
            if peer != self.name
        ]
        options = NodeOptions(
            cert_manager=manager,
            network=NetworkOptions(
                acceptors=[
                    AcceptorOptions(port=config["ports"][self.name], port_range=1)
                ],
                routes=routes,
                keepalive_interval=KEEPALIVE_SECONDS,
            ),
            shutdown_timeout=5.0,
        )
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, stopping.set)
        reader = asyncio.StreamReader()
        await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
        )
        node = await start_node(self.name, options)
        self.node = node
        node.handler("plain")(self.take)
        node.handler("async")(self.take_async)
        node.handler("call", concurrency=OUTSTANDING)(self.take_call)
        node.handler("callback")(self.take_callback)
        tasks = [
            loop.create_task(self.send_to(node, peer))
            for peer in NODES
            if peer != self.name
        ]
        tasks.append(loop.create_task(self.obey(reader, node, manager)))
        loop.call_later(config["warm"], self.warmed_up)
        ended = loop.create_task(stopping.wait())
        await asyncio.wait([ended, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done() and not task.cancelled() and task.exception() is not None:
                self.strange.append(repr(task.exception()))
            task.cancel()
        await node.stop()
        await asyncio.gather(ended, *tasks, return_exceptions=True)
        self.say()

    async def obey(
        self, reader: asyncio.StreamReader, node: Node, manager: CertAuthManager
    ) -> None:
        """Rotate, or tell how it is, when told to."""
        while line := await reader.readline():
            if line.strip() == b"rotate":
                fresh = self.folder / f"{self.name}-fresh.pem"
                manager.update(Certificate.load(fresh))
                try:
                    await node.reconnect(timeout=10)
                except (FastnodeError, OSError, TimeoutError) as error:
                    self.seen(error)
            else:
                self.say()

    def warmed_up(self) -> None:
        """From now on nothing may grow."""
        self.warm = size()

    def say(self) -> None:
        """The state, as a line of JSON."""
        state = {
            "run": self.run.hex(),
            "warm": self.warm,
            "size": size(),
            "confirmed": self.confirmed,
            "handled": self.handled,
            "links": len(self.node.links) if self.node else 0,
            "corrupt": self.corrupt,
            "errors": self.errors,
            "strange": self.strange[:20],
        }
        print(json.dumps(state), flush=True)


def size() -> dict[str, int]:
    """Of this process: bytes of memory, and descriptors."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "rss": pages * os.sysconf("SC_PAGE_SIZE"),
        "descriptors": len(list(Path("/proc/self/fd").iterdir())),
    }


# --- the one who does it to them ------------------------------------------------------


@dataclass
class Host:
    """Where one node runs, again and again, and the proxy before it."""

    name: str
    folder: Path
    proxy: Proxy
    process: asyncio.subprocess.Process | None = None
    states: list[dict[str, Any]] = field(default_factory=list)
    starts: int = 0

    async def start(self) -> None:
        """Start its process."""
        self.starts += 1
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            __file__,
            "--worker",
            self.name,
            "--folder",
            str(self.folder),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=(self.folder / f"{self.name}.log").open("ab"),
        )

    def tell(self, what: str) -> None:
        """Give it a command."""
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write(what.encode() + b"\n")

    async def ask(self) -> dict[str, Any]:
        """How it is."""
        self.tell("state")
        return await self.listen()

    async def listen(self) -> dict[str, Any]:
        """The next line that it says."""
        assert self.process is not None
        assert self.process.stdout is not None
        line = await asyncio.wait_for(self.process.stdout.readline(), 30)
        state: dict[str, Any] = json.loads(line) if line else {}
        if state:
            self.states.append(state)
        return state

    async def stop(self) -> None:
        """End it in order; it says how it was."""
        assert self.process is not None
        self.process.terminate()
        await self.listen()
        await asyncio.wait_for(self.process.wait(), 30)

    async def kill(self) -> None:
        """End it at once."""
        assert self.process is not None
        self.process.kill()
        await asyncio.wait_for(self.process.wait(), 30)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)


class Chaos:
    """The whole run."""

    def __init__(self, folder: Path, seed: int, seconds: float) -> None:
        self.folder = folder
        self.seconds = seconds
        self.warm = min(WARM_SECONDS, seconds / 4)
        self.random = random.Random(seed)
        self.authority = Authority.create("chaos CA")
        self.hosts: list[Host] = []
        self.done: Counter[str] = Counter()

    async def prepare(self, stack: contextlib.AsyncExitStack) -> None:
        """Certificates, ports, proxies, processes."""
        (self.folder / "ca.pem").write_bytes(self.authority.cert_pem)
        ports, proxies = {}, {}
        for name in NODES:
            issued = self.authority.issue(NodeName.parse(name))
            issued.save(self.folder / f"{name}.pem", self.folder / f"{name}-key.pem")
            with socket.create_server(("127.0.0.1", 0)) as probe:
                ports[name] = probe.getsockname()[1]
            proxy = await stack.enter_async_context(Proxy())
            await proxy.start(("127.0.0.1", ports[name]))
            proxies[name] = proxy.address[1]
            self.hosts.append(Host(name, self.folder, proxy))
        config = {"ports": ports, "proxies": proxies, "warm": self.warm}
        (self.folder / "config.json").write_text(json.dumps(config))
        for host in self.hosts:
            await host.start()

    async def one_thing(self) -> None:
        """Do one thing to one node."""
        host = self.random.choice(self.hosts)
        what = self.random.choice(
            ["kill", "stop", "freeze", "cut", "reset", "half-close", "swallow"]
            + ["rotate"] * 3
        )
        if host is self.hosts[0] and what in ("kill", "stop"):
            host = self.random.choice(self.hosts[1:])
        proxy = host.proxy
        proxy.writers = [w for w in proxy.writers if not w.transport.is_closing()]
        self.done[what] += 1
        pause = self.random.uniform(0.1, 2.0)
        if what == "kill":
            await host.kill()
            await asyncio.sleep(pause)
            await host.start()
        elif what == "stop":
            await host.stop()
            await asyncio.sleep(pause)
            await host.start()
        elif what == "freeze":
            host.signal(signal.SIGSTOP)
            await asyncio.sleep(pause * 3)
            host.signal(signal.SIGCONT)
        elif what == "cut":
            proxy.cut()
        elif what == "reset":
            proxy.reset()
        elif what == "half-close":
            proxy.half_close()
        elif what == "swallow":
            proxy.black_hole = True
            await asyncio.sleep(pause * 3)
            proxy.black_hole = False
            # What was swallowed can never be made up for.
            proxy.writers = [w for w in proxy.writers if not w.transport.is_closing()]
            proxy.reset()
        else:
            issued = self.authority.issue(NodeName.parse(host.name))
            fresh = self.folder / f"{host.name}-fresh.pem"
            fresh.with_suffix(".new").write_bytes(issued.cert_pem + issued.key_pem)
            fresh.with_suffix(".new").rename(fresh)
            host.tell("rotate")

    async def run(self) -> int:
        """All of it; the exit code."""
        async with contextlib.AsyncExitStack() as stack:
            await self.prepare(stack)
            # In peace, until all have warmed up.
            await asyncio.sleep(3 + self.warm)
            began = time.monotonic()
            while time.monotonic() < began + self.seconds:
                await self.one_thing()
                await asyncio.sleep(self.random.uniform(0.2, 1.5))
            # In peace again, everybody reaches everybody.
            before = [await host.ask() for host in self.hosts]
            await asyncio.sleep(min(20.0, 5 + KEEPALIVE_SECONDS * 5))
            after = [await host.ask() for host in self.hosts]
            for host in self.hosts:
                await host.stop()
        return self.report(time.monotonic() - began, before, after)

    def report(
        self, took: float, before: list[dict[str, Any]], after: list[dict[str, Any]]
    ) -> int:
        """Print the tables; the exit code."""
        faults: list[str] = []
        errors: Counter[str] = Counter()
        rows = []
        for host, early, late in zip(self.hosts, before, after, strict=True):
            # Of each run the last word: its counts only grow. One that was killed may
            # have said none, but its files speak.
            runs = list({state["run"]: state for state in host.states}.values())
            for state in runs:
                errors.update(state["errors"])
                faults += [f"{host.name}: {what}" for what in state["strange"]]
                if state["corrupt"]:
                    faults.append(f"{host.name}: {state['corrupt']} were corrupt")
            faults += [f"{host.name}: {what}" for what in not_flat(host.states)]
            sent, heard = "confirmed", "handled"
            for kind in MIX:
                if late[sent].get(kind, 0) <= early[sent].get(kind, 0):
                    faults.append(f"{host.name}: no {kind} goes on after the storm")
            if late["links"] != len(NODES) - 1:
                faults.append(f"{host.name}: {late['links']} links after the storm")
            warm = late["warm"] or late["size"]
            rows.append(
                [
                    host.name.partition("@")[0],
                    host.starts,
                    *(sum(s[sent].get(kind, 0) for s in runs) for kind in KINDS),
                    sum(sum(s[heard].values()) for s in runs),
                    late["links"],
                    *(f"{each['rss'] / 2**20:.1f}" for each in (warm, late["size"])),
                    *(each["descriptors"] for each in (warm, late["size"])),
                ]
            )
        print(f"\nafter {took:.0f} s, of runs that could tell:")
        head = "node,runs,{},handled,links,MiB warm,end,fds warm,end"
        print_table(head.format(",".join(KINDS)).split(","), rows)
        print()
        print_table(["done to them", "times"], self.done.most_common())
        print()
        print_table(["error, documented", "times"], errors.most_common())
        print()
        faults += judge(self.folder)
        for fault in faults[:50]:
            print(f"FAULT: {fault}")
        print("0 passed, 1 failed" if faults else "1 passed, 0 failed")
        return 1 if faults else 0


def not_flat(states: list[dict[str, Any]]) -> list[str]:
    """What a process had more at any time than when it had warmed up."""
    faults = []
    for state in states:
        warm, now = state["warm"], state["size"]
        if not warm:
            continue
        if now["rss"] > warm["rss"] + FLAT_BYTES:
            faults.append(f"memory grew from {warm['rss']} to {now['rss']} bytes")
        if now["descriptors"] > warm["descriptors"] + FLAT_DESCRIPTORS:
            faults.append(
                f"from {warm['descriptors']} to {now['descriptors']} descriptors"
            )
    return faults


def print_table(head: list[str], rows: Iterable[Iterable[object]]) -> None:
    """Columns as wide as they have to be; the first one is words."""
    cells = [head, *([str(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for number, row in enumerate(cells):
        first, *others = zip(row, widths, strict=True)
        texts = [first[0].ljust(first[1])]
        texts += [cell.rjust(width) for cell, width in others]
        print("  " + "  ".join(texts))
        if number == 0:
            print("  " + "  ".join("-" * width for width in widths))


def records(folder: Path, suffix: str) -> list[tuple[bytes, bytes, int, int]]:
    """All records of all files of a kind, in the order in which they were written."""
    found: list[tuple[bytes, bytes, int, int]] = []
    for file in sorted(folder.glob(f"*.{suffix}")):
        data = file.read_bytes()
        # A killed process may leave half a record.
        whole = len(data) - len(data) % RECORD.size
        found.extend(RECORD.iter_unpack(data[:whole]))
    return found


def judge(folder: Path) -> list[str]:
    """Compare what was confirmed with what was taken; what is wrong with it."""
    taken = records(folder, "taken")
    handled = Counter((sender, number) for _run, sender, _link, number in taken)
    proved = records(folder, "confirmed")
    last: dict[tuple[bytes, bytes, int, int], int] = defaultdict(int)
    disorder: Counter[int] = Counter()
    links = set()
    for at, sender, link, number in taken:
        kind = number % len(KINDS)
        key = (at, sender, link, kind)
        links.add(key[:3])
        if kind != UNORDERED:
            disorder[kind] += number <= last[key]
            last[key] = number
    faults, rows = [], []
    for kind, name in enumerate(KINDS):
        confirmed = [
            (sender, number)
            for _run, sender, _link, number in proved
            if number % len(KINDS) == kind
        ]
        of_kind = [n for key, n in handled.items() if key[1] % len(KINDS) == kind]
        found = {
            "lost": sum(handled[key] == 0 for key in confirmed),
            "doubled": sum(count > 1 for count in of_kind),
            "out of order": disorder[kind],
        }
        rows.append([name, len(confirmed), sum(of_kind), *found.values()])
        faults += [f"{n} {name} were {what}" for what, n in found.items() if n]
        if not confirmed:
            faults.append(f"no {name} was confirmed")
    print(f"all runs, over {len(links)} links:")
    print_table(
        ["endpoint", "confirmed", "handled", "lost", "doubled", "out of order"], rows
    )
    return faults


def main() -> int:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description="See the top of this file.")
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        run(Worker(arguments.worker, arguments.folder).main())
        return 0
    print(f"seed {arguments.seed}")
    with tempfile.TemporaryDirectory() as folder:
        chaos = Chaos(Path(folder), arguments.seed, arguments.minutes * 60)
        return asyncio.run(chaos.run())


if __name__ == "__main__":
    sys.exit(main())
