"""The program of `helpers.child.Child`: a node that is told what to do.

``python -m helpers.child_main FOLDER NAME LOOP``. It takes orders as lines of JSON on
standard input and answers with lines of JSON, until that input ends or it gets SIGTERM
or SIGINT. Then it stops its node in order and says what is left.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import json
import logging
import signal
import sys
import zlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvloop

from fastnode import (
    AcceptorOptions,
    Message,
    NetworkOptions,
    Node,
    NodeOptions,
    Route,
    start_node,
)
from fastnode.buffers.pool import live_slabs
from helpers.child import manager_of
from helpers.traffic import SEQUENCE_BYTES, Traffic

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
#: Messages between two drains.
BURST = 500


class Endpoints:
    """What the node does with messages."""

    def __init__(self, node: Node) -> None:
        self._names = hashlib.sha256()
        self._heard = 0
        self._calls = 0
        self._all_there = asyncio.Event()
        self._received = self._wrong = self._checksum = 0
        self._kept = b""
        node.handler("numbered")(self.numbered)
        node.handler("numbers")(self.numbers)
        node.handler("echo")(lambda m: m.payload)
        node.handler("turn")(lambda m: m.payload[::-1])
        node.handler("keep")(self.keep)
        node.handler("kept")(lambda m: hashlib.sha256(self._kept).digest())
        node.handler("meet")(self.meet)
        node.handler("never")(self.never)
        node.handler("names")(lambda m: b"%d " % self._heard + self._names.digest())
        node.default_handler(self.other)

    def numbered(self, message: Message) -> None:
        payload = message.payload
        self._wrong += int.from_bytes(payload[:SEQUENCE_BYTES]) != self._received
        self._received += 1
        self._checksum = zlib.crc32(payload, self._checksum)

    def numbers(self, message: Message) -> bytes:
        return json.dumps([self._received, self._wrong, self._checksum]).encode()

    def keep(self, message: Message) -> None:
        self._kept = message.payload

    async def meet(self, message: Message) -> bytes:
        """Answers once as many callers wait as the payload says."""
        self._calls += 1
        if self._calls == int(message.payload.partition(b" ")[0]):
            self._all_there.set()
        await self._all_there.wait()
        return message.payload * 2

    async def never(self, message: Message) -> bytes:
        say({"began": message.payload.decode()})
        await asyncio.Event().wait()
        raise AssertionError

    def other(self, message: Message) -> None:
        self._heard += 1
        self._names.update(message.endpoint.encode() + b"\0" + message.payload)


async def meet(node: Node, peer: str, count: int) -> dict[str, Any]:
    """Call the peer `count` times at once."""
    payloads = [b"%d %d" % (count, number) for number in range(count)]
    replies = await asyncio.gather(*(node.call(peer, "meet", p) for p in payloads))
    right = sum(reply == p * 2 for reply, p in zip(replies, payloads, strict=True))
    return {"right": right, "links": len(node.links)}


async def connect(node: Node, peer: str) -> dict[str, Any]:
    """Connect, and say which end of the link this is."""
    link = await node.connect(peer)
    return {"dialed": link.dialed, "closed": link.closed, "links": len(node.links)}


async def flood(node: Node, peer: str) -> dict[str, Any]:
    """Send numbered messages without end."""
    link = await node.connect(peer)
    traffic = Traffic()
    while True:
        for _ in range(BURST):
            link.send("numbered", traffic.next())
        await link.drain()


async def queue(node: Node, peer: str, count: int) -> dict[str, Any]:
    """Queue numbered messages in one turn of the loop."""
    link = await node.connect(peer)
    traffic = Traffic()
    for _ in range(count):
        link.send("numbered", traffic.next())
    return {"checksum": traffic.checksum}


ORDERS: dict[str, Callable[..., Awaitable[dict[str, Any]]]] = {
    "connect": connect,
    "meet": meet,
    "flood": flood,
    "queue": queue,
}


async def obey(node: Node) -> None:
    """Do what standard input says, until it ends."""
    loop = asyncio.get_running_loop()
    orders = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(orders), sys.stdin
    )
    try:
        while line := await orders.readline():
            order = json.loads(line)
            what = ORDERS[order.pop("do")]
            address = tuple(order.pop("address"))
            if not node.routes(order["peer"]):
                node.add_route(Route(f"^{order['peer']}$", *address))
            say(await what(node, **order))
    finally:
        transport.close()


async def serve(folder: Path, name: str) -> None:
    """Run the node until it is told to stop."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    # Long: nothing that a test waits for comes from a keepalive.
    network = NetworkOptions(
        acceptors=[AcceptorOptions(port=0)], keepalive_interval=60.0
    )
    options = NodeOptions(cert_manager=manager_of(folder, name), network=network)
    async with await start_node(name, options) as node:
        Endpoints(node)
        say({"listening": node.acceptors[0].address, "instance": node.instance})
        obeying = asyncio.ensure_future(obey(node))
        signals = asyncio.ensure_future(stopped.wait())
        await asyncio.wait([obeying, signals], return_when=asyncio.FIRST_COMPLETED)
        for task in (obeying, signals):
            task.cancel()
        await asyncio.wait([obeying, signals])
        if not obeying.cancelled():
            obeying.result()
        say({"stopping": sum(link.stats.queued_bytes for link in node.links)})
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    gc.collect()
    say({"left": [*map(repr, tasks), *["a slab"] * live_slabs()]})


def say(data: dict[str, Any]) -> None:
    """One line."""
    sys.stdout.write(json.dumps(data) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    # Errors, and complaints of the loop, fail the test; refusals are no errors.
    logging.basicConfig(level=logging.ERROR)
    with asyncio.Runner(loop_factory=LOOPS[sys.argv[3]]) as runner:
        runner.run(serve(Path(sys.argv[1]), sys.argv[2]))
