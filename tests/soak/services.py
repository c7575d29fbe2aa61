"""What happens to the calls of a service when something happens to its instances.

    python tests/soak/services.py                      all scenarios, five minutes
    python tests/soak/services.py --only kill slow

Five instances of a service run as processes. Twenty callers, in four processes, find
them through a directory (`LocalDiscovery`) and call them all the time. Half of the
calls are idempotent. Each scenario does something to the instances. The table says for
each: how many calls were made and lost, the 99th percentile of the times before and
during the event, and how long it took after the news until traffic was even again.

A call that is idempotent must never be lost. Another call may be lost only if it was
under way on an instance that died, and then with the documented error. The exit status
is 1 if anything else happens.

The partition needs root, `unshare` and `iptables`. Without them it is left out.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parents[1]))

from fastnode import (
    AcceptorOptions,
    CertAuthManager,
    Certificate,
    CertPool,
    ClientAuth,
    FastnodeError,
    Message,
    NetworkOptions,
    Node,
    NodeOptions,
    run,
    run_node,
    start_node,
)
from fastnode.certs.authority import Authority
from fastnode.discovery import LocalDiscovery
from fastnode.names import NodeName

INSTANCES: Final = 5
CALLER_PROCESSES: Final = 4
CALLERS: Final = 5
#: Seconds between two calls of one caller.
PAUSE: Final = 0.02
#: How long a handler works, seconds.
WORK: Final = 0.002
TIMEOUT: Final = 10.0
BEFORE: Final = 3.0
AFTER: Final = 7.0
KEEPALIVE: Final = 1.0
SHOP: Final = "shop@127.0.0.1"
#: Traffic counts as even when no instance has less than this part of its share.
EVEN: Final = 0.6
WINDOW: Final = 0.5
#: What a call that was under way on an instance that died may raise.
DOCUMENTED: Final = frozenset({"LinkLost", "CallTimeout"})


def options(folder: Path, name: str, *, listens: bool) -> NodeOptions:
    """Mutual TLS with the certificates of a folder, and its directory."""
    pool = CertPool.load(folder / "ca.pem")
    stem = name.partition("@")[0]
    return NodeOptions(
        cert_manager=CertAuthManager(
            Certificate.load(folder / f"{stem}.pem", folder / f"{stem}-key.pem"),
            client_cas=pool,
            client_auth=ClientAuth.REQUIRE_AND_VERIFY_CLIENT_CERT,
            root_cas=pool,
        ),
        network=NetworkOptions(
            acceptors=[AcceptorOptions(port=0)] if listens else (),
            discovery=LocalDiscovery(folder / "directory"),
            keepalive_interval=KEEPALIVE,
            slow_callback_seconds=None,
        ),
        leave_grace=1.0,
        shutdown_timeout=5.0,
    )


# --- processes -----------------------------------------------------------------------


def instance(folder: Path) -> None:
    """Run one instance. SIGUSR1 makes it slow, SIGUSR2 busy; the same again ends it."""

    async def setup(node: Node) -> None:
        state = {"slow": False, "busy": False}
        loop = asyncio.get_running_loop()

        def turn(what: str) -> None:
            state[what] = not state[what]

        loop.add_signal_handler(signal.SIGUSR1, turn, "slow")
        loop.add_signal_handler(signal.SIGUSR2, turn, "busy")
        gate = asyncio.Semaphore(1)

        @node.handler("work", concurrency=4, max_waiting=8)
        async def work(message: Message) -> bytes:
            if state["busy"]:
                async with gate:
                    await asyncio.sleep(0.2)
            await asyncio.sleep(WORK * (10 if state["slow"] else 1))
            return f"{node.instance} {os.getpid()}".encode()

    run_node(SHOP, options(folder, SHOP, listens=True), setup)


def callers(folder: Path, number: int) -> None:
    """Run some callers. They write a line for each call, until SIGTERM."""

    async def call_on(node: Node, out: Any, at: int) -> None:
        service = node.service("shop")
        count = 0
        while True:
            count += 1
            safe = count % 2 == 0
            began = time.monotonic()
            error, who = "", "-"
            try:
                reply = await service.call(
                    "work",
                    b"x" * 64,
                    timeout=TIMEOUT,
                    idempotent=safe,
                    attempt_timeout=1.0 if safe else None,
                )
                who = reply.decode().split()[1]
            except FastnodeError as failure:
                error = type(failure).__name__
            took = time.monotonic() - began
            out.write(f"{began:.4f} {took:.4f} {int(safe)} {who} {error}\n")
            if count % 10 == at % 10:
                out.flush()
            await asyncio.sleep(max(PAUSE - took, 0))

    async def main() -> None:
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        with (folder / f"calls-{number}").open("w") as out:
            nodes = [
                await start_node(
                    f"caller{number}-{at}@127.0.0.1",
                    options(folder, "caller@127.0.0.1", listens=False),
                )
                for at in range(CALLERS)
            ]
            for node in nodes:
                await node.service("shop").wait_ready(INSTANCES, timeout=30)
            tasks = [
                asyncio.create_task(call_on(node, out, at))
                for at, node in enumerate(nodes)
            ]
            (folder / f"ready-{number}").touch()
            await stop.wait()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for node in nodes:
                await node.stop(2.0)

    run(main())


# --- the scenarios -------------------------------------------------------------------


@dataclass
class World:
    """The processes of one scenario.

    Attributes:
        died: process ids of instances that were killed, frozen or cut off.
        news: when traffic should begin to be even again, in the time of
            `time.monotonic`; None: it is not expected to.
        gone: process ids of instances that are not expected to get calls afterwards.
    """

    folder: Path
    instances: list[subprocess.Popen[bytes]] = field(default_factory=list)
    died: set[int] = field(default_factory=set)
    gone: set[int] = field(default_factory=set)
    news: float | None = None

    def start(self) -> subprocess.Popen[bytes]:
        """Start one more instance."""
        process = subprocess.Popen(
            [sys.executable, __file__, "instance", str(self.folder)]
        )
        self.instances.append(process)
        return process

    def call(self, number: int) -> subprocess.Popen[bytes]:
        """Start a process with callers."""
        return subprocess.Popen(
            [sys.executable, __file__, "callers", str(self.folder), str(number)]
        )

    def callers_ready(self) -> int:
        """How many processes with callers have links with all instances."""
        return len(list(self.folder.glob("ready-*")))

    async def up(self, count: int) -> None:
        """Wait until the directory has so many instances."""
        async with asyncio.timeout(60):
            async for targets in LocalDiscovery(self.folder / "directory").watch(
                "shop"
            ):
                if len(targets) == count:
                    return

    async def end(self, process: subprocess.Popen[bytes]) -> None:
        """Stop an instance in order."""
        process.terminate()
        await asyncio.to_thread(process.wait, 30)
        self.gone.add(process.pid)

    def port(self, process: subprocess.Popen[bytes]) -> int:
        """The port on which an instance listens."""
        descriptors = Path(f"/proc/{process.pid}/fd").iterdir()
        inodes = {str(each.readlink()) for each in descriptors if each.is_symlink()}
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            parts = line.split()
            if parts[3] == "0A" and f"socket:[{parts[9]}]" in inodes:
                return int(parts[1].split(":")[1], 16)
        raise RuntimeError("the instance does not listen")


async def kill(world: World) -> None:
    """One instance is killed with SIGKILL, and a new one started."""
    victim = world.instances[0]
    world.died.add(victim.pid)
    world.gone.add(victim.pid)
    victim.kill()
    victim.wait()
    world.start()
    await world.up(INSTANCES)
    world.news = time.monotonic()


async def freeze(world: World) -> None:
    """One instance gets SIGSTOP, and goes on three seconds later."""
    victim = world.instances[0]
    world.died.add(victim.pid)
    victim.send_signal(signal.SIGSTOP)
    await asyncio.sleep(3.0)
    victim.send_signal(signal.SIGCONT)
    world.news = time.monotonic() + 1.0  # an ejection that began last has to end


async def partition(world: World) -> None:
    """No packet reaches one instance for three seconds."""
    victim = world.instances[0]
    world.died.add(victim.pid)
    port = world.port(victim)
    rules = [
        ["INPUT", "-p", "tcp", flag, str(port), "-j", "DROP"]
        for flag in ("--dport", "--sport")
    ]
    filter_packets("-A", rules)
    await asyncio.sleep(3.0)
    filter_packets("-D", rules)
    world.news = time.monotonic() + 4.0  # pauses between dials have grown meanwhile


def filter_packets(action: str, rules: Iterable[list[str]]) -> None:
    """Add or delete rules of iptables."""
    for rule in rules:
        subprocess.run(["iptables", action, *rule], check=True)


async def slow(world: World) -> None:
    """One instance takes ten times as long for each call."""
    world.instances[0].send_signal(signal.SIGUSR1)
    await asyncio.sleep(0)


async def busy(world: World) -> None:
    """One instance refuses most calls as busy for three seconds."""
    world.instances[0].send_signal(signal.SIGUSR2)
    await asyncio.sleep(3.0)
    world.instances[0].send_signal(signal.SIGUSR2)
    world.news = time.monotonic() + 0.5


async def rolling(world: World) -> None:
    """All instances are replaced, one by one."""
    for old in tuple(world.instances):
        world.start()
        await world.up(INSTANCES + 1)
        await world.end(old)
    await world.up(INSTANCES)
    world.news = time.monotonic()


async def directory_away(world: World) -> None:
    """The directory cannot be read for three seconds, and an instance dies."""
    directory = world.folder / "directory"
    victim = world.instances[0]
    world.died.add(victim.pid)
    world.gone.add(victim.pid)
    hidden = world.folder / "hidden"
    directory.rename(hidden)
    victim.kill()
    victim.wait()
    await asyncio.sleep(3.0)
    shutil.rmtree(directory, ignore_errors=True)
    hidden.rename(directory)
    world.news = time.monotonic()


async def all_at_once(world: World) -> None:
    """All instances are replaced at the same time."""
    olds = tuple(world.instances)
    for _ in olds:
        world.start()
    await world.up(2 * INSTANCES)
    await asyncio.gather(*(world.end(each) for each in olds))
    world.news = time.monotonic()


Scenario = Callable[[World], Awaitable[None]]
SCENARIOS: Final[dict[str, Scenario]] = {
    "kill": kill,
    "freeze": freeze,
    "partition": partition,
    "slow": slow,
    "busy": busy,
    "rolling": rolling,
    "directory": directory_away,
    "all": all_at_once,
}


# --- judging -------------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """One call: when it began, how long it took, and how it ended."""

    began: float
    took: float
    idempotent: bool
    pid: int | None
    error: str


def read_calls(folder: Path) -> list[Call]:
    """Return what all callers have written."""
    found = []
    for path in folder.glob("calls-*"):
        for line in path.read_text().splitlines():
            parts = line.split(" ")
            if len(parts) != 5:
                continue  # the last line of a process that was stopped
            began, took, safe, who, error = parts
            pid = None if who == "-" else int(who)
            found.append(Call(float(began), float(took), safe == "1", pid, error))
    return sorted(found, key=lambda call: call.began)


def p99(times: Iterable[float]) -> str:
    """The 99th percentile in milliseconds, as text."""
    known = sorted(times)
    return f"{1000 * known[int(len(known) * 0.99)]:.1f}" if known else "-"


def even_after(calls: list[Call], world: World, end: float) -> float | None:
    """Seconds from the news until every instance has its share of the calls."""
    if world.news is None:
        return None
    alive = {each.pid for each in world.instances} - world.gone
    at = world.news
    while at + WINDOW < end:
        counts = Counter(
            call.pid
            for call in calls
            if at <= call.began + call.took < at + WINDOW and call.pid is not None
        )
        share = sum(counts.values()) / len(alive)
        if share and all(counts[pid] >= EVEN * share for pid in alive):
            return at + WINDOW - world.news
        at += 0.1
    return float("inf")


async def play(name: str, scenario: Scenario) -> tuple[dict[str, Any], list[str]]:
    """Play a scenario. Return its row of the table, and what was wrong."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        authority = Authority.create("soak")
        prepare(folder, authority)
        world = World(folder)
        calling: list[subprocess.Popen[bytes]] = []
        try:
            for _ in range(INSTANCES):
                world.start()
            await world.up(INSTANCES)
            calling = [world.call(number) for number in range(CALLER_PROCESSES)]
            async with asyncio.timeout(60):
                while world.callers_ready() < CALLER_PROCESSES:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)  # they are other processes
            await asyncio.sleep(1.0)
            quiet = time.monotonic()
            await asyncio.sleep(BEFORE)
            began = time.monotonic()
            await scenario(world)
            await asyncio.sleep(AFTER)
            ended = time.monotonic()
        finally:
            for process in calling:
                process.terminate()
            for process in calling:
                process.wait(30)
            for process in world.instances:
                if process.poll() is None:
                    process.send_signal(signal.SIGCONT)
                    process.terminate()
            for process in world.instances:
                process.wait(30)
        return judge(name, read_calls(folder), world, quiet, began, ended)


def judge(
    name: str,
    calls: list[Call],
    world: World,
    quiet: float,
    began: float,
    ended: float,
) -> tuple[dict[str, Any], list[str]]:
    """Return the row of a scenario, and what was wrong."""
    before = [call for call in calls if quiet <= call.began < began]
    during = [call for call in calls if began <= call.began < ended]
    lost = [call for call in (*before, *during) if call.error]
    wrong = []
    safe = [call for call in lost if call.idempotent]
    if safe:
        wrong.append(f"{name}: {len(safe)} idempotent calls lost: {kinds(safe)}")
    others = [call for call in lost if not call.idempotent]
    if others and not world.died:
        wrong.append(f"{name}: {len(others)} calls lost, and no instance died")
    strange = [call for call in others if call.error not in DOCUMENTED]
    if strange:
        wrong.append(f"{name}: errors that are not documented: {kinds(strange)}")
    # No more than what was under way on the instances that died.
    most = len(world.died) * CALLER_PROCESSES * CALLERS
    if len(others) > most:
        wrong.append(f"{name}: {len(others)} calls lost, of at most {most}")
    even = even_after(calls, world, ended)
    row = {
        "scenario": name,
        "calls": len(before) + len(during),
        "lost, idempotent": len(safe),
        "lost, others": f"{len(others)} {kinds(others)}".strip(),
        "p99 before, ms": p99(call.took for call in before),
        "p99 during, ms": p99(call.took for call in during if not call.error),
        "even after, s": "-" if even is None else f"{even:.1f}",
    }
    return row, wrong


def kinds(calls: list[Call]) -> str:
    """How often each error was raised, as text."""
    counts: defaultdict[str, int] = defaultdict(int)
    for call in calls:
        counts[call.error] += 1
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


def prepare(folder: Path, authority: Authority) -> None:
    """Write the authority and two certificates, and make the directory."""
    (folder / "ca.pem").write_bytes(authority.cert_pem)
    for name in (SHOP, "caller@127.0.0.1"):
        issued = authority.issue(NodeName.parse(name))
        stem = name.partition("@")[0]
        (folder / f"{stem}.pem").write_bytes(issued.cert_pem)
        (folder / f"{stem}-key.pem").touch(0o600)
        (folder / f"{stem}-key.pem").write_bytes(issued.key_pem)
    (folder / "directory").mkdir(0o700)


def may_partition() -> bool:
    """Whether packets can be dropped here."""
    tools = shutil.which("unshare") and shutil.which("iptables") and shutil.which("ip")
    return os.geteuid() == 0 and tools is not None


def main() -> int:
    if sys.argv[1:2] == ["instance"]:
        instance(Path(sys.argv[2]))
        return 0
    if sys.argv[1:2] == ["callers"]:
        callers(Path(sys.argv[2]), int(sys.argv[3]))
        return 0
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="*", choices=SCENARIOS, default=[*SCENARIOS])
    parser.add_argument("--json", action="store_true", help="print one object for each")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    names = list(given.only)
    if "partition" in names and not given.inside:
        if may_partition():
            script = 'ip link set lo up && exec "$@"'
            command = ["unshare", "-n", "sh", "-c", script, "sh", sys.executable]
            return subprocess.call([*command, *sys.argv, "--inside"])
        print("partition is left out: it needs root, unshare, ip and iptables")
        names.remove("partition")
    rows, wrong = [], []
    for name in names:
        row, found = asyncio.run(play(name, SCENARIOS[name]))
        rows.append(row)
        wrong += found
        print(json.dumps(row) if given.json else row, flush=True)
    if not given.json:
        print()
        print("| " + " | ".join(rows[0]) + " |")
        print("|" + "---|" * len(rows[0]))
        for row in rows:
            print("| " + " | ".join(map(str, row.values())) + " |")
    for line in wrong:
        print("WRONG:", line)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
