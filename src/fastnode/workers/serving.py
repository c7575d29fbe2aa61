"""`serve`: a group of workers as a program."""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import TYPE_CHECKING

from fastnode.errors import FastnodeError
from fastnode.limits import (
    SHUTDOWN_TIMEOUT_SECONDS,
    WORKER_HANG_SECONDS,
    WORKER_START_SECONDS,
)
from fastnode.loggers import fields
from fastnode.node.fork import handled_signals
from fastnode.node.runner import run
from fastnode.workers.group import WorkerGroup
from fastnode.workers.systemd import ServiceManager

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
    hang_timeout: float | None = WORKER_HANG_SECONDS,
) -> None:
    """Run a node in several processes, until a signal ends it.

    SIGTERM and SIGINT (Ctrl-C) stop all workers in order. SIGHUP replaces them, one
    after the other; see `WorkerGroup.restart`. systemd is told as by `run_node`. Call
    it in the main thread, of a script under ``if __name__ == "__main__":``. ::

        def options() -> NodeOptions:
            return NodeOptions(cert_manager=...)

        def setup(node: Node) -> None:
            @node.handler("price")
            def price(message: Message) -> bytes: ...

        if __name__ == "__main__":
            serve("orders@10.0.0.5", options, setup, workers=4)

    Args:
        name, options, setup, workers, start_timeout, shutdown_timeout, hang_timeout:
            see `WorkerGroup`.

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
        hang_timeout=hang_timeout,
    )
    with handled_signals(signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        run(_serve(group))


class Server:
    """The signals of a program that serves, and its group."""

    def __init__(self, group: WorkerGroup) -> None:
        self._group = group
        self._loop = asyncio.get_running_loop()
        self._told_to_stop = asyncio.Event()
        self._told_to_restart = asyncio.Event()
        self._manager = ServiceManager()

    async def run(self) -> None:
        """Serve until a signal ends it."""
        self._manager.start()
        try:
            await self._run()
        finally:
            self._manager.close()

    async def _run(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._told_to_stop.set)
        # Workers that are just being started need no restart.
        self._loop.add_signal_handler(signal.SIGHUP, lambda: None)
        starting = self._loop.create_task(self._group.start())
        stopping = self._loop.create_task(self._told_to_stop.wait())
        await asyncio.wait([starting, stopping], return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            await asyncio.wait([starting])
            return
        try:
            await starting
        except BaseException:
            stopping.cancel()
            raise
        self._manager.ready(f"{len(self._group.status())} workers are up")
        self._loop.add_signal_handler(signal.SIGHUP, self._told_to_restart.set)
        restarting = self._loop.create_task(self._restart_when_told())
        await stopping
        restarting.cancel()
        self._manager.stopping("the workers stop")
        await self._group.stop()

    async def _restart_when_told(self) -> None:
        """However many signals come during a restart, one more restart follows it."""
        while True:
            await self._told_to_restart.wait()
            self._told_to_restart.clear()
            self._manager.reloading("the workers are replaced")
            text = "all workers were replaced"
            try:
                await self._group.restart()
            except FastnodeError as error:
                text = "the restart went no further"
                log.error(
                    "the restart went no further: %s",
                    error,
                    extra=fields("restart_failed", error=error),
                )
            except Exception as error:
                text = "the restart went no further"
                log.exception(text, extra=fields("restart_failed", error=error))
            self._manager.reloaded(text)


async def _serve(group: WorkerGroup) -> None:
    await Server(group).run()
