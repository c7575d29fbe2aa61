"""The program of `test_bad_days.py`: nodes in a process without file descriptors.

``python -m helpers.exhausted_main LOOP``. It prints one line of JSON at its end.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import resource
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import uvloop

from fastnode import FastnodeError, OutOfResources, Route
from helpers.nodes import WAIT_SECONDS, B, introduce, pair, running, until

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


class Heard(logging.Handler):
    """Keeps what was logged."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def take_all(taken: list[int]) -> None:
    """Take all descriptors that are free."""
    with suppress(OSError):
        while True:
            taken.append(os.open(os.devnull, os.O_RDONLY))


@contextmanager
def exhausted() -> Iterator[list[int]]:
    """No descriptor is free meanwhile, but those that the caller closes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
    taken: list[int] = []
    try:
        take_all(taken)
        yield taken
    finally:
        for each in taken:
            os.close(each)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def main() -> None:
    heard = Heard()
    logging.getLogger("fastnode").addHandler(heard)
    async with pair() as (a, b), running("gamma@127.0.0.1", listens=False) as c:
        introduce(c, b)
        b.handler("echo")(lambda m: m.payload)
        link = await a.connect(B)
        await link.call("echo", b"", timeout=WAIT_SECONDS)
        stats = b.acceptors[0].stats
        address = b.acceptors[0].address
        clients = [socket.create_connection(address)]
        await until(lambda: stats.connections == 2)
        with exhausted() as taken:
            # One that waits makes room for the next.
            os.close(taken.pop())
            clients.append(socket.create_connection(address))
            await until(lambda: stats.connections == 3)
            replies = [
                await link.call("echo", b"%d" % n, timeout=WAIT_SECONDS)
                for n in range(100)
            ]
            take_all(taken)
            a.add_route(Route("delta", "127.0.0.1", 9))
            try:
                await a.connect("delta@127.0.0.1")
                dialed = "a link"
            except OutOfResources as error:
                dialed = str(error)
            # The first dial of a node also has to bring its certificate to OpenSSL.
            try:
                await c.connect(B)
                first = "a link"
            except FastnodeError as error:
                first = f"{type(error).__name__}: {error}"
            keeper = c.keep_connected(B)
            await until(lambda: keeper.error)
            ceiling = keeper._backoff.ceiling
            for each in clients:
                each.close()
            # Nobody waits who could make room, and somebody wants in.
            await until(
                lambda: sum((stats.failed + stats.refused).values()) == len(clients)
            )
            take_all(taken)
            os.close(taken.pop())
            clients.append(socket.create_connection(address))
            await until(lambda: any("pauses" in line for line in heard.lines))
            replies.append(await link.call("echo", b"100", timeout=WAIT_SECONDS))
        late = await c.call(B, "echo", b"late", timeout=WAIT_SECONDS)
        clients[-1].close()
        result = {
            "replies": replies == [b"%d" % n for n in range(101)],
            "dialed": dialed,
            "first": first,
            "ceiling": ceiling,
            "late": late.decode(),
            "closed": link.closed,
            "heard": heard.lines,
        }
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=LOOPS[sys.argv[1]]) as runner:
        runner.run(main())
