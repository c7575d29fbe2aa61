"""Five nodes, all that can happen to them, and not one message wrong: a named run.

    python tests/soak/chaos.py                fifteen minutes
    python tests/soak/chaos.py --minutes 1

Five node processes send numbered messages with checksums to each other, each of them
to be confirmed, through proxies. Processes are killed, stopped and started again,
frozen and let go; connections are cut, reset, half-closed and swallowed; certificates
rotate and links are replaced. Each process writes down what was confirmed to it and
what its handler took, in files that outlive it. In the end every confirmed message was
handled exactly once, no message twice, in order on every link; no error was seen
outside those that the contract names; memory and descriptors did not grow. Prints a
table; exit 1 if anything is not so.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
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
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

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
    Route,
    run,
    start_node,
)
from fastnode.certs.authority import Authority
from fastnode.names import NodeName
from helpers.proxy import Proxy

NODES = [f"n{number}@127.0.0.1" for number in range(5)]
ENDPOINT = "numbered"
PAYLOAD_BYTES = 64
#: Messages that one node has under way to one other, to be confirmed.
OUTSTANDING = 16
PAUSE_SECONDS = 0.01
#: A dead peer is found within two keepalive intervals and a half.
KEEPALIVE_SECONDS = 1.0
CONFIRM_SECONDS = 20.0
#: What a run of a node was, who sent, on which link, which message: a line of a log.
RECORD = struct.Struct(">16s16sQQ")
HEAD = struct.Struct(">16sQI")


# --- one node's process --------------------------------------------------------------


class Worker:
    """A node that sends to all others, and writes down what it takes."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self.run = os.urandom(16)
        self.errors: Counter[str] = Counter()
        self.strange: list[str] = []
        self.confirmed = 0
        self.corrupt = 0
        self.links: dict[int, int] = {}
        self._keep: list[Any] = []
        stem = f"{name}-{self.run.hex()}"
        # Written by the system call itself: what is in there outlives a SIGKILL.
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self.taken = os.open(folder / f"{stem}.taken", flags, 0o600)
        self.proved = os.open(folder / f"{stem}.confirmed", flags, 0o600)

    def take(self, message: Message) -> None:
        """The handler: one record for each message."""
        sender, number, check = HEAD.unpack_from(message.payload)
        if zlib.crc32(message.payload[HEAD.size :]) != check:
            self.corrupt += 1
            return
        # A link has a Peer of its own.
        peer = message.sender
        if id(peer) not in self.links:
            self.links[id(peer)] = len(self._keep)
            self._keep.append(peer)
        link = self.links[id(peer)]
        os.write(self.taken, RECORD.pack(self.run, sender, link, number))

    async def send_to(self, node: Node, peer: str) -> None:
        """Messages to one other node, one after another, as long as it lasts."""
        number = 0
        slots = asyncio.Semaphore(OUTSTANDING)
        index = NODES.index(peer)
        body = os.urandom(PAYLOAD_BYTES)
        check = zlib.crc32(body)

        async def confirm(link: Link, number: int) -> None:
            try:
                payload = HEAD.pack(self.run, number * len(NODES) + index, check) + body
                await link.send_confirmed(ENDPOINT, payload, timeout=CONFIRM_SECONDS)
            except (FastnodeError, OSError) as error:
                self.seen(error)
            except Exception as error:
                self.strange.append(f"{type(error).__name__}: {error}")
            else:
                self.confirmed += 1
                os.write(
                    self.proved,
                    RECORD.pack(self.run, self.run, index, number * len(NODES) + index),
                )
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
                number += 1
                group.create_task(confirm(link, number))
                await asyncio.sleep(PAUSE_SECONDS)

    def seen(self, error: Exception) -> None:
        """Count an error of the contract; keep one that is not."""
        self.errors[type(error).__name__] += 1
        if not isinstance(error, (ConnectionError, CallTimeout)):
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
        node.handler(ENDPOINT)(self.take)
        tasks = [
            loop.create_task(self.send_to(node, peer))
            for peer in NODES
            if peer != self.name
        ]
        tasks.append(loop.create_task(self.obey(reader, node, manager)))
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

    def say(self) -> None:
        """The state, as a line of JSON."""
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        state = {
            "run": self.run.hex(),
            "rss": pages * os.sysconf("SC_PAGE_SIZE"),
            "descriptors": len(list(Path("/proc/self/fd").iterdir())),
            "confirmed": self.confirmed,
            "corrupt": self.corrupt,
            "errors": self.errors,
            "strange": self.strange[:20],
        }
        print(json.dumps(state), flush=True)


# --- the one who does it to them ------------------------------------------------------


@dataclass
class Host:
    """Where one node runs, again and again, and the proxy before it."""

    name: str
    folder: Path
    proxy: Proxy
    process: asyncio.subprocess.Process | None = None
    states: list[dict[str, Any]] = field(default_factory=list)

    async def start(self) -> None:
        """Start its process."""
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

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
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
        config = {"ports": ports, "proxies": proxies}
        (self.folder / "config.json").write_text(json.dumps(config))
        for host in self.hosts:
            await host.start()

    async def one_thing(self) -> None:
        """Do one thing to one node."""
        host = self.random.choice(self.hosts)
        proxy = host.proxy
        proxy.writers = [w for w in proxy.writers if not w.transport.is_closing()]
        what = self.random.choice(
            ["kill", "stop", "freeze", "cut", "reset", "half-close", "swallow"]
            + ["rotate"] * 3
        )
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

    async def run(self, seconds: float) -> int:
        """All of it; the exit code."""
        async with contextlib.AsyncExitStack() as stack:
            await self.prepare(stack)
            await asyncio.sleep(3)
            began = time.monotonic()
            while time.monotonic() < began + seconds:
                await self.one_thing()
                await asyncio.sleep(self.random.uniform(0.2, 1.5))
            # In peace again, everybody reaches everybody.
            before = {host.name: await host.ask() for host in self.hosts}
            await asyncio.sleep(min(20.0, 5 + KEEPALIVE_SECONDS * 5))
            after = {host.name: await host.ask() for host in self.hosts}
            for host in self.hosts:
                await host.stop()
        return self.report(time.monotonic() - began, before, after)

    def report(
        self,
        took: float,
        before: dict[str, dict[str, Any]],
        after: dict[str, dict[str, Any]],
    ) -> int:
        """Print the table; the exit code."""
        deeds = ", ".join(f"{count} x {what}" for what, count in self.done.items())
        print(f"{took:.0f} s: {deeds}")
        faults = judge(self.folder)
        errors: Counter[str] = Counter()
        for host in self.hosts:
            # Of each run the last word: its counts only grow.
            last = {state["run"]: state for state in host.states}
            for state in last.values():
                errors.update(state["errors"])
                faults += [f"{host.name}: {what}" for what in state["strange"]]
                if state["corrupt"]:
                    faults.append(f"{host.name}: {state['corrupt']} were corrupt")
            sizes = [
                f"{state['rss'] / 2**20:.0f} MiB/{state['descriptors']}"
                for state in host.states[-6:]
            ]
            print(f"  {host.name}: memory and descriptors {', '.join(sizes)}")
            if after[host.name]["confirmed"] <= before[host.name]["confirmed"]:
                faults.append(f"{host.name}: nothing goes on after the storm")
            if any(state["descriptors"] > 120 for state in host.states):
                faults.append(f"{host.name}: descriptors grew")
            if any(state["rss"] > 160 << 20 for state in host.states):
                faults.append(f"{host.name}: memory grew")
        print("  errors:", ", ".join(f"{n} x {what}" for what, n in errors.items()))
        for fault in faults[:50]:
            print(f"FAULT: {fault}")
        print("0 passed, 1 failed" if faults else "1 passed, 0 failed")
        return 1 if faults else 0


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
    faults: list[str] = []
    taken = records(folder, "taken")
    handled = Counter((sender, number) for _run, sender, _link, number in taken)
    proved = records(folder, "confirmed")
    confirmed = [(sender, number) for _run, sender, _link, number in proved]
    lost = [key for key in confirmed if handled[key] == 0]
    twice = [key for key, count in handled.items() if count > 1]
    last: dict[tuple[bytes, bytes, int], int] = defaultdict(int)
    disorder = 0
    for at, sender, link, number in taken:
        key = (at, sender, link)
        disorder += number <= last[key]
        last[key] = number
    print(
        f"  {len(confirmed)} messages confirmed, {len(taken)} handled, over "
        f"{len(last)} links; {len(lost)} lost, {len(twice)} doubled, {disorder} out "
        "of order"
    )
    if lost:
        faults.append(f"{len(lost)} confirmed messages were not handled")
    if twice:
        faults.append(f"{len(twice)} messages were handled more than once")
    if disorder:
        faults.append(f"{disorder} messages were out of order on their link")
    if not confirmed:
        faults.append("nothing was confirmed")
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
        chaos = Chaos(Path(folder), arguments.seed)
        return asyncio.run(chaos.run(arguments.minutes * 60))


if __name__ == "__main__":
    sys.exit(main())
