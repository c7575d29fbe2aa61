"""Nodes in a network namespace of their own, where packets are lost.

``python -m helpers.lossy SCENARIO LOOP``, as root: the process leaves for a new
namespace with a loopback device of its own, and says as JSON what it saw.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import uvloop

from fastnode import LinkLost, Node
from helpers.nodes import introduce, running, until

__all__ = ["SCENARIOS", "missing"]

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
CLONE_NEWNET = 0x40000000
#: Pairs of nodes that dial each other at once.
PAIRS = 24
#: Where a fifth is lost, one answer in 60 takes longer than CHECK_SECONDS, and its link
#: rightly counts as dead; where a tenth is, one in 800.
LOSS = "0.1"
#: Longer than a TCP connection needs where every tenth packet is lost.
PATIENCE: dict[str, Any] = {"handshake_timeout": 30.0, "keepalive_interval": 30.0}


def missing() -> str:
    """What this machine lacks for it; empty if nothing."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "network namespaces need Linux and root"
    tools = ("ip", "iptables", "unshare")
    if lacking := [each for each in tools if not shutil.which(each)]:
        return f"not installed: {', '.join(lacking)}"
    script = (
        "ip link set lo up && iptables -A INPUT -p tcp -m statistic --mode random "
        f"--probability {LOSS} -j DROP"
    )
    tried = subprocess.run(
        ["unshare", "-n", "sh", "-c", script], capture_output=True, check=False
    )
    return "" if tried.returncode == 0 else f"not allowed: {tried.stderr.decode()}"


def firewall(*rule: str) -> None:
    """Change the rules for what comes in."""
    subprocess.run(["iptables", *rule], check=True)


@asynccontextmanager
async def pairs(count: int, **options: Any) -> AsyncIterator[list[tuple[Node, Node]]]:
    """Pairs of nodes that know each other."""
    async with AsyncExitStack() as stack:
        found = []
        for number in range(count):
            first, second = [
                await stack.enter_async_context(
                    running(f"{name}{number}@127.0.0.1", **options)
                )
                for name in ("a", "b")
            ]
            introduce(first, second)
            introduce(second, first)
            found.append((first, second))
        yield found
        firewall("-F")


async def simultaneous() -> dict[str, Any]:
    """Both of each pair dial at once, and one packet in five is lost."""
    async with pairs(PAIRS, **PATIENCE) as found:
        events: list[str] = []
        for node in (each for two in found for each in two):
            node.on_link_up(lambda link: events.append("up"))
            node.on_link_down(lambda link, why: events.append(f"down: {why}"))
        firewall("-A", "INPUT", "-p", "tcp", "-m", "statistic", "--mode", "random",
                 "--probability", LOSS, "-j", "DROP")  # fmt: skip
        await asyncio.gather(
            *(
                coroutine
                for first, second in found
                for coroutine in (
                    first.connect(second.name),
                    second.connect(first.name),
                )
            )
        )
        await until(lambda: len(events) >= 2 * PAIRS)
        same = 0
        for first, second in found:
            (one,), (other,) = first.links, second.links
            await asyncio.gather(one.ping(), other.ping())
            same += one.dialed is not other.dialed
        return {"same": same, "events": sorted(set(events)), "count": len(events)}


async def one_way_reset() -> dict[str, Any]:
    """One side loses its link, and the RST that the other one would get is lost too."""
    outcome: dict[str, Any] = {}
    for who in (0, 1):
        async with pairs(1, handshake_timeout=10.0, keepalive_interval=60.0) as found:
            two = found[0]
            link = await two[0].connect(two[1].name)
            await until(lambda ends=two: ends[1].links)  # type: ignore[misc]
            # Of this connection nothing gets through any more, not even a RST.
            port = two[1].links[0].peer.address[1]
            for end in ("--sport", "--dport"):
                firewall("-A", "INPUT", "-p", "tcp", end, str(port), "-j", "DROP")
            (lost,) = two[who]._links
            lost.abort()
            await until(lambda node=two[who]: not node.links)  # type: ignore[misc]
            loop = asyncio.get_running_loop()
            began = loop.time()
            await two[who].connect(two[1 - who].name)
            outcome[f"seconds {who}"] = round(loop.time() - began, 2)
            await until(lambda ends=two: [len(e.links) for e in ends] == [1, 1])  # type: ignore[misc]
            outcome[f"lost {who}"] = isinstance(link.error, LinkLost)
    return outcome


async def unacknowledged() -> dict[str, Any]:
    """What one side sends is dropped, and what it is sent is not: the kernel tells."""
    options = {"keepalive_interval": 0.5}
    async with pairs(1, **options) as found:
        first, second = found[0]
        link = await first.connect(second.name)
        await until(lambda: second.links)
        port = second.acceptors[0].address[1]
        loop = asyncio.get_running_loop()
        began = loop.time()
        firewall("-A", "INPUT", "-p", "tcp", "--dport", str(port), "-j", "DROP")
        call = asyncio.ensure_future(link.call("x", bytes(1000)))
        await asyncio.wait([call])
        return {
            "lost": isinstance(call.exception(), LinkLost),
            "seconds": round(loop.time() - began, 2),
        }


SCENARIOS: dict[str, Callable[[], Coroutine[Any, Any, dict[str, Any]]]] = {
    "simultaneous": simultaneous,
    "one_way_reset": one_way_reset,
    "unacknowledged": unacknowledged,
}


def main() -> None:
    """Leave for a namespace of our own, and run a scenario there."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with asyncio.Runner(loop_factory=LOOPS[sys.argv[2]]) as runner:
        print(json.dumps(runner.run(SCENARIOS[sys.argv[1]]())))


if __name__ == "__main__":
    main()
