"""A process that announces a node, and may fork.

Arguments: the directory of a `LocalDiscovery` or an endpoint of etcd, a service, a
port, and "fork" or nothing. It says "announced", and its child says "forked". Both end
with their standard input.
"""

from __future__ import annotations

import asyncio
import os
import sys

from fastnode.discovery import (
    AnnouncingDiscovery,
    EtcdDiscovery,
    LocalDiscovery,
    Target,
)
from fastnode.discovery.kit import FakeNode


async def main(where: str, service: str, port: str, *more: str) -> None:
    discovery: AnnouncingDiscovery
    if where.startswith("http"):
        discovery = EtcdDiscovery([where], ttl=1)
    else:
        discovery = LocalDiscovery(where)
    node = FakeNode.at(service, Target("127.0.0.1", int(port)))
    async with discovery.announce(node, [service]):
        print("announced", flush=True)
        if more and os.fork() == 0:
            print("forked", flush=True)
            sys.stdin.read()
            os._exit(0)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    print("left", flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
