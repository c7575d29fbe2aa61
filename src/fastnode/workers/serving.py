"""`serve`: a group of workers as a program."""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import TYPE_CHECKING

from fastnode.errors import FastnodeError
from fastnode.limits import SHUTDOWN_TIMEOUT_SECONDS, WORKER_START_SECONDS
from fastnode.node.runner import run
from fastnode.workers.group import WorkerGroup

if TYPE_CHECKING:
    from fastnode.workers.application import MakeOptions, Setup

__all__ = ["serve"]

log = logging.getLogger("fastnode.workers")


def serve(
    name: str,
    options: MakeOptions | str,
    setup: Setup | str | None = None,
    *,
    workers: int | None = None,
    start_timeout: float = WORKER_START_SECONDS,
    shutdown_timeout: float = SHUTDOWN_TIMEOUT_SECONDS,
) -> None:
    """Run a node in several processes, until a signal ends it.

    SIGTERM and SIGINT (Ctrl-C) stop all workers in order. SIGHUP replaces them, one
    after the other; see `WorkerGroup.restart`. Call it in the main thread, of a script
    under ``if __name__ == "__main__":``. ::

        def options() -> NodeOptions:
            return NodeOptions(cert_manager=...)

        def setup(node: Node) -> None:
            @node.handler("price")
            def price(message: Message) -> bytes: ...

        if __name__ == "__main__":
            serve("orders@10.0.0.5", options, setup, workers=4)

    Args:
        name, options, setup, workers, start_timeout, shutdown_timeout: see
            `WorkerGroup`.

    Raises:
        ConfigError: an argument cannot work, or the group cannot listen.
        WorkerFailed: a worker did not come up at the start; nothing runs any more.
        RuntimeError: a loop is running in this thread already.
    """
    group = WorkerGroup(
        name,
        options,
        setup,
        workers=workers,
        start_timeout=start_timeout,
        shutdown_timeout=shutdown_timeout,
    )
    run(_serve(group))


async def _serve(group: WorkerGroup) -> None:
    told = asyncio.Event()
    renewals: set[asyncio.Task[None]] = set()
    loop = asyncio.get_running_loop()

    def renew() -> None:
        task = loop.create_task(_renew(group))
        renewals.add(task)
        task.add_done_callback(renewals.discard)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    # What comes before all workers are up would be renewed for nothing.
    loop.add_signal_handler(signal.SIGHUP, lambda: None)
    starting = loop.create_task(group.start())
    stopping = loop.create_task(told.wait())
    await asyncio.wait([starting, stopping], return_when=asyncio.FIRST_COMPLETED)
    if starting.done():
        try:
            await starting
        except BaseException:
            stopping.cancel()
            raise
        loop.add_signal_handler(signal.SIGHUP, renew)
        await stopping
        await group.stop()
    else:
        starting.cancel()
        await asyncio.wait([starting])


async def _renew(group: WorkerGroup) -> None:
    try:
        await group.restart()
    except FastnodeError as error:
        log.error("the restart went no further: %s", error)
