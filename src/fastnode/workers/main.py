"""A worker: the process that runs the node. See `fastnode.workers.group`."""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import signal
import socket
import sys
import traceback
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from threading import Thread
from typing import TYPE_CHECKING, Any

from fastnode.errors import ConfigError, Side
from fastnode.limits import (
    WORKER_GRACE_SECONDS,
    WORKER_SETTLE_SECONDS,
    WORKER_STATS_SECONDS,
)
from fastnode.loggers import fields
from fastnode.names import NodeName
from fastnode.node.fork import handled_signals, plug, renew_selector, watch_forks
from fastnode.node.node import Node
from fastnode.node.runner import run
from fastnode.workers.channel import Channel
from fastnode.workers.inlet import Inlet
from fastnode.workers.leash import Leash
from fastnode.workers.totals import parts_of

if TYPE_CHECKING:
    from fastnode.peer import Address
    from fastnode.workers.application import Application

__all__ = ["STACK_SIGNAL", "run_worker"]

log = logging.getLogger("fastnode.workers")

#: A worker that gets it writes the stacks of its threads. Nothing else uses it.
STACK_SIGNAL: int = getattr(signal, "SIGRTMIN", signal.SIGUSR2)
#: What happens within it is told to the group at once: it balances by that.
REPORT_SECONDS = 0.01
#: How often the loop looks whether handshakes are over, when the worker ends.
LOOK_SECONDS = 0.01
#: Of a traceback that the group is told; the end says most.
TRACEBACK_CHARACTERS = 8000


def run_worker(
    descriptors: Sequence[int],
    application: Application,
    number: int,
    group: bytes,
    shutdown_timeout: float,
) -> None:
    """Run until told to stop, or until the group is gone. The target of a process.

    Args:
        descriptors: the socket on which the group and the worker talk, then those of
            `multiprocessing`.
        application: what to run.
        number: of the worker's place in the group, from 1.
        group: what the instance ids of the group begin with.
        shutdown_timeout: seconds that the links have to end in order.
    """
    # `ChildProcess` did this before the application was imported; in a frozen program
    # it could not.
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    control = socket.socket(fileno=descriptors[0])
    # Ctrl-C and hang-up reach the whole foreground; what they mean the group decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with handled_signals(signal.SIGTERM):
        status = run(work(application, number, control, group, shutdown_timeout))
    sys.exit(status)


async def work(
    application: Application,
    number: int,
    control: socket.socket,
    group: bytes,
    shutdown_timeout: float,
) -> int:
    """The exit status."""
    worker = Worker(application, control, group, shutdown_timeout)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.leave)
    try:
        starting = asyncio.ensure_future(worker.start())
        told = asyncio.ensure_future(worker.told_to_stop.wait())
        await asyncio.wait([starting, told], return_when=asyncio.FIRST_COMPLETED)
        starting.cancel()
        await asyncio.wait([starting])
        error = None if starting.cancelled() else starting.exception()
        if error is not None:
            worker.failed(error)
            told.cancel()
        else:
            log.info(
                "worker %d of %s is up",
                number,
                application.name,
                extra=fields("worker_up", node=application.name, worker=number),
            )
            left = asyncio.ensure_future(worker.leave_with_node())
            await told
            left.cancel()
        await worker.stop()
        return 0 if error is None else 1
    finally:
        worker.channel.close()


class Worker:
    """The node of one process, and what the group hears of it.

    Attributes:
        told_to_stop: by the group, or by its end.
        channel: to the group.
    """

    def __init__(
        self,
        application: Application,
        control: socket.socket,
        group: bytes,
        shutdown_timeout: float,
    ) -> None:
        self._application = application
        self._group = group
        self._timeout = shutdown_timeout
        self._node: Node | None = None
        self._leash = Leash(control.fileno(), limit_of(shutdown_timeout))
        Thread(target=self._leash.hold, name="leash", daemon=True).start()
        self._inlets: list[Inlet] = []
        self._taken = 0
        self._report: asyncio.TimerHandle | None = None
        self._stats_timer: asyncio.TimerHandle | None = None
        self._asked = 0
        # The group has not read the last report. More of them would fill the channel.
        self._unread = False
        self._answer: asyncio.Future[tuple[dict[str, Any], list[int]]]
        self._loop = asyncio.get_running_loop()
        self._answer = self._loop.create_future()
        self.told_to_stop = asyncio.Event()
        self._cleanup = AsyncExitStack()
        self.channel = Channel(control, self._heard, self._orphaned)
        watch_forks(self)

    def in_child(self) -> None:
        """A forked child does not speak for the worker, nor is it told to end."""
        plug([self.channel.fileno(), self._leash.fileno()])
        renew_selector(self._loop)

    # --- the group -------------------------------------------------------------

    def _heard(self, message: dict[str, Any], descriptors: list[int]) -> None:
        if message["do"] == "listen":
            self._answer.set_result((message, descriptors))
        elif message["do"] == "ping":
            self.channel.send({"say": "pong"})
        elif message["do"] == "go on reporting":
            self._unread = False
        elif message["do"] == "report":
            self._asked = message["number"]
            self._tell_stats()
        elif message["do"] == "write stacks":
            # It needs neither the loop nor the GIL. The descriptor stays open.
            faulthandler.register(STACK_SIGNAL, descriptors[0], all_threads=True)
        elif message["do"] == "stop":
            self._timeout = message["timeout"]
            self._leash.seconds = limit_of(self._timeout)
            self.told_to_stop.set()

    def _orphaned(self) -> None:
        """End this process, because no group is left that could restart or end it."""
        log.error(
            "the process that started this worker is gone: it stops",
            extra=fields("worker_orphaned", node=self._application.name),
        )
        # However long handlers and threads of the application take.
        self._leash.pull()
        self.told_to_stop.set()

    def leave(self) -> None:
        """Somebody else wants this process to end."""
        self.channel.send({"say": "leaving"})

    async def leave_with_node(self) -> None:
        """Let the group replace this process if the application stops the node."""
        assert self._node is not None
        await self._node._wait_left()
        self.leave()

    def failed(self, error: BaseException) -> None:
        """Tell why there will be no node."""
        lines = traceback.format_exception(error)
        self.channel.send(
            {
                "say": "failed",
                "type": type(error).__name__,
                "text": str(error),
                "traceback": "".join(lines)[-TRACEBACK_CHARACTERS:],
            }
        )

    def _changed(self, *_: object) -> None:
        """Connections or links have come or gone."""
        if self._report is None:
            self._report = self._loop.call_later(REPORT_SECONDS, self._tell)

    def _tell(self) -> None:
        self._report = None
        if self._node is None:
            return
        links, arriving = len(self._node.links), self._arriving()
        heard = self.channel.send(
            {"say": "load", "taken": self._taken, "links": links, "open": arriving}
        )
        if arriving or not heard:
            # What comes to nothing tells nobody.
            self._report = self._loop.call_later(50 * REPORT_SECONDS, self._tell)

    def _tell_stats(self) -> bool:
        """Tell the group what the node has counted. Returns whether it hears of it: a
        group that is busy does not."""
        if self._node is None:
            return False
        parts = parts_of(self._node.stats, self._asked)
        self._unread = all(self.channel.send(part) for part in parts)
        return self._unread

    def _tell_stats_regularly(self) -> None:
        if not self._unread:
            self._tell_stats()
        self._stats_timer = self._loop.call_later(
            WORKER_STATS_SECONDS, self._tell_stats_regularly
        )

    async def _tell_last_stats(self) -> None:
        """Tell the group what the node has counted until its end."""
        deadline = self._loop.time() + WORKER_STATS_SECONDS
        while not self._tell_stats():
            # The group is busy.
            if self._loop.time() > deadline:
                return
            await asyncio.sleep(LOOK_SECONDS)

    def _linked(self, address: Address) -> None:
        """A dialer wants another worker: it is linked with this one."""
        self.channel.send({"say": "linked", "host": address[0]})

    def _took(self) -> None:
        self._taken += 1
        self._changed()

    def _arriving(self) -> int:
        assert self._node is not None
        return sum(acceptor.arriving for acceptor in self._node.acceptors)

    # --- the node --------------------------------------------------------------

    async def start(self) -> None:
        """Make the node and say so."""
        options = await self._application.finished_options()
        network = options.network
        if any(each.listener is not None for each in network.acceptors):
            raise ConfigError(
                "an acceptor of a worker cannot have a listener of its own",
                side=Side.LOCAL,
                hint="give it host and port: the group listens there",
            )
        host = NodeName.parse(self._application.name).host
        wanted = [
            [each.host or host, each.port, each.port_range]
            for each in network.acceptors
        ]
        self.channel.send({"say": "listen", "ports": wanted})
        answer, descriptors = await self._answer
        self._inlets = [
            Inlet(
                socket.socket(fileno=descriptor), (address[0], address[1]), self._took
            )
            for address, descriptor in zip(
                answer["addresses"], descriptors, strict=True
            )
        ]
        acceptors = [
            replace(each, listener=inlet)
            for each, inlet in zip(network.acceptors, self._inlets, strict=True)
        ]
        options = replace(
            options,
            group=self._group,
            group_size=answer["workers"],
            network=replace(network, acceptors=acceptors),
        )
        self._node = node = Node(self._application.name, options)
        node.on_link_up(self._changed)
        node.on_link_down(self._changed)
        node._links.on_duplicate = self._linked
        await node.start(accept=False)
        await self._application.set_up(node, self._cleanup)
        node.accept()
        self.channel.send({"say": "up", "pid": os.getpid()})
        self._tell_stats_regularly()

    async def stop(self) -> None:
        """End the node in order; then what the application has to clean up."""
        node = self._node
        if node is not None:
            deadline = self._loop.time() + self._timeout
            await self._settle(node, min(WORKER_SETTLE_SECONDS, self._timeout / 2))
            await node.stop(max(deadline - self._loop.time(), 0.0))
            await self._tell_last_stats()
        self._node = None
        for timer in (self._report, self._stats_timer):
            if timer is not None:
                timer.cancel()
        try:
            async with asyncio.timeout(WORKER_GRACE_SECONDS):
                await self._cleanup.aclose()
        except Exception as error:
            name = self._application.name
            log.exception(
                "what %s does at its end failed",
                name,
                extra=fields("cleanup_failed", node=name, error=error),
            )

    async def _settle(self, node: Node, timeout: float) -> None:
        """Let those who are connecting have their links, which then end in order: a
        connection that is cut would be an error for them."""
        deadline = self._loop.time() + timeout
        while node.acceptors and (
            self._arriving() or not all(inlet.ended for inlet in self._inlets)
        ):
            if self._loop.time() > deadline:
                return
            await asyncio.sleep(LOOK_SECONDS)


def limit_of(timeout: float) -> float:
    """Seconds after which a worker that has so many for its links has to be gone."""
    return timeout + 2 * WORKER_GRACE_SECONDS
