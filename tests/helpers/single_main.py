"""``python -m helpers.single_main FOLDER HOW``: a program that runs one node.

It says where it listens, and what happens to it, in lines on standard output.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastnode import (
    AcceptorOptions,
    CallError,
    Message,
    NetworkOptions,
    Node,
    NodeOptions,
    run_node,
)
from fastnode.workers import stop_signals
from helpers.child import manager_of

NAME = "orders@127.0.0.1"


def say(text: str) -> None:
    print(text, flush=True)


class Application:
    """What the program does, in the ways that tests ask for."""

    def __init__(self, folder: Path, how: str) -> None:
        self._folder = folder
        self._how = how
        self._handled = 0

    async def options(self) -> NodeOptions:
        manager = manager_of(self._folder, NAME)
        if self._how == "watch":
            cert, key = (self._folder / f"{NAME}{end}.pem" for end in ("", "-key"))
            # So long that only SIGHUP has it read again.
            manager.watch(cert, key, interval=3600.0)
        return NodeOptions(
            cert_manager=manager,
            network=NetworkOptions(
                acceptors=[AcceptorOptions(port=0)], slow_callback_seconds=60.0
            ),
            ready=self._how != "unready",
            shutdown_timeout=10.0,
        )

    @asynccontextmanager
    async def setup(self, node: Node) -> AsyncIterator[None]:
        for handler in (
            self.work, self.wait, self.end, self.stop, self.ready, self.block
        ):  # fmt: skip
            node.handler(handler.__name__)(handler)
        self._node = node
        say("listens on {}:{}".format(*node.acceptors[0].address))
        if self._how == "slow start":
            await asyncio.Event().wait()
        if self._how.startswith("thread"):
            # The end of the loop waits for it.
            asyncio.get_running_loop().run_in_executor(None, time.sleep, 600)
        node.on_ready_change(lambda ready: say(f"ready: {ready}"))
        yield
        say(f"cleans up, {node.health.state}, {len(node.links)} links")
        if self._how == "slow end":
            await asyncio.Event().wait()
        if self._how == "bad end":
            raise LookupError("the database is gone")
        say(f"handled {self._handled}")

    async def work(self, message: Message) -> bytes:
        self._handled += 1
        await asyncio.sleep(0.005)
        return message.payload

    async def wait(self, message: Message) -> bytes:
        say("waits")
        await asyncio.Event().wait()
        raise CallError("unknown")

    async def end(self, message: Message) -> None:
        raise SystemExit(7)

    async def stop(self, message: Message) -> bytes:
        await self._node.stop()
        return b"stops"

    async def ready(self, message: Message) -> None:
        self._node.set_ready(message.payload == b"yes")

    def block(self, message: Message) -> None:
        say("blocks")
        time.sleep(600)


def plain_setup(node: Node) -> None:
    say("listens on {}:{}".format(*node.acceptors[0].address))


async def failing_setup(node: Node) -> None:
    raise LookupError("no such database")


async def generator(node: Node) -> AsyncIterator[None]:
    yield


def main(folder: Path, how: str) -> None:
    logging.basicConfig(
        level=logging.INFO, format="log: %(message)s", stream=sys.stdout
    )
    if how in ("blocked", "thread"):
        # The tests wait for the end of these.
        vars(stop_signals)["WORKER_GRACE_SECONDS"] = 0.25
    # The system would report changes of files before SIGHUP comes.
    sys.modules["watchfiles"] = None  # type: ignore[assignment]
    if how == "asyncio":
        sys.modules["uvloop"] = None  # type: ignore[assignment]
    application = Application(folder, how)
    options: Any = application.options
    setup: Any = application.setup
    if how == "options":
        network = NetworkOptions(acceptors=[AcceptorOptions(port=0)], plaintext=True)
        options, setup = NodeOptions(network=network), plain_setup
    elif how == "fails":
        setup = failing_setup
    elif how == "generator":
        setup = generator
    elif how == "names":
        options = f"{__name__}:bad_name"
    timeout = 0.25 if how in ("blocked", "thread") else None
    run_node(NAME, options, setup, shutdown_timeout=timeout)
    say("returned")


if __name__ == "__main__":
    # As in a terminal, however the tests are started.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main(Path(sys.argv[1]), sys.argv[2])
