"""A node in several processes: one name, one port, a process for each core.

Theory of operation. The process that makes the group runs no node and holds no link. It
listens, and hands each connection to the worker with the fewest (`handout`, `inlet`): a
descriptor on a Unix socket, before the first byte of TLS is read. A worker is a fresh
interpreter with a node of its own, certificate and key included.

Why not SO_REUSEPORT, where the kernel chooses by a hash of the addresses? Links are
few, last long and carry much: of 16, one of two workers gets 12 on a bad day. And a
socket that is closed, at a restart or in a crash, takes along what waits in its queue.
Here nothing waits anywhere but in the group's own queue, which stays; a worker gets
connections from the moment it is up, and a restart leaves the workers even. The price
is some 20 us of CPU time for a connection, beside 2 ms for its handshake.

The workers share the first half of their instance ids, so that a peer that is linked
with one does not take the next for the same node, restarted (fastnode.node.links).

Life and death: a worker says when it is up. A place whose worker ends is filled again,
with growing pauses. Whoever is asked to end is handed nothing any more before, finishes
the handshakes under way, and stops its node in order.

Each side notices the end of the other process by its pid. A descriptor would not do:
other processes may hold copies. The group watches the worker's pid (`child`), a worker
watches its parent (`leash`). The end of the channel tells a worker sooner. The group
finds a worker whose loop is blocked by questions that it does not answer (`heartbeat`).
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Coroutine
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from fastnode.backoff import Backoff
from fastnode.errors import ConfigError, FastnodeError, Side, WorkerFailed
from fastnode.limits import (
    GROUP_BYTES,
    MAX_WORKERS,
    SHUTDOWN_TIMEOUT_SECONDS,
    WORKER_HANG_SECONDS,
    WORKER_START_SECONDS,
)
from fastnode.loggers import fields
from fastnode.names import check_timeout
from fastnode.node.fork import plug, renew_selector, watch_forks
from fastnode.node.port import open_port, warn_of_other_port
from fastnode.workers.application import Application
from fastnode.workers.handout import Handout
from fastnode.workers.process import CannotStart, State, WorkerProcess
from fastnode.workers.totals import GroupTotals

if TYPE_CHECKING:
    from fastnode.node.stats import NodeStats
    from fastnode.peer import Address
    from fastnode.workers.application import MakeOptions, Setup

__all__ = ["WorkerGroup", "WorkerStatus"]

log = logging.getLogger("fastnode.workers")

#: How long `WorkerGroup.stats` waits for a worker whose loop is blocked.
REPORT_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """One worker of a group.

    Attributes:
        number: of its place, from 1.
        pid: of its process.
        state: ``starting``, ``up``, ``stopping`` or ``ended``.
        links: that its node has; some hundredths of a second old.
        restarts: how often this place was filled again.
    """

    number: int
    pid: int
    state: str
    links: int
    restarts: int


@dataclass(slots=True, eq=False)
class Place:
    """A worker, and whoever comes after it."""

    number: int
    worker: WorkerProcess | None = None
    restarts: int = 0
    backoff: Backoff = field(default_factory=Backoff)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class WorkerGroup:
    """Processes that are one node to its peers. Belongs to the loop it is started on.

    Workers are started with multiprocessing's ``spawn``: a script that makes a group
    does so under ``if __name__ == "__main__":``. ::

        async with WorkerGroup("orders@10.0.0.5", options, setup, workers=4) as group:
            ...
            await group.restart()

    Args:
        name: ``name@host``, of every worker.
        options: a function without arguments, plain or ``async``, that returns the
            `NodeOptions`; or its name, ``"module:function"``. It is called in each
            worker, so certificates and keys are loaded there, and watched there. The
            ports it names are opened by the group, once: all workers have to name the
            same.
        setup: a function, plain or ``async``, or its name, that is given each worker's
            started `Node` and registers its handlers. A worker is handed connections
            once it has returned. If it returns an ``async with`` context, that is
            entered before and left after the node has stopped.
        workers: how many; None: one for each core that this process may use.
        start_timeout: seconds that a worker may take until it is up.
        shutdown_timeout: seconds that a worker may take for its links to end in order;
            it counts in place of that of its `NodeOptions`.
        hang_timeout: seconds that the loop of a worker may be blocked, for example by
            a handler. After that the stacks of its threads are logged, and the worker
            is killed and replaced. None: workers may be blocked for ever.

    Raises:
        ConfigError: an argument cannot work, or cannot be given to another process.
    """

    def __init__(
        self,
        name: str,
        options: MakeOptions | str,
        setup: Setup | str | None = None,
        *,
        workers: int | None = None,
        start_timeout: float = WORKER_START_SECONDS,
        shutdown_timeout: float = SHUTDOWN_TIMEOUT_SECONDS,
        hang_timeout: float | None = WORKER_HANG_SECONDS,
    ) -> None:
        self._application = Application(name, options, setup)
        self._application.check()
        count = cores() if workers is None else workers
        if isinstance(count, bool) or not isinstance(count, int):
            raise ConfigError(f"workers is {count!r}, no whole number")
        if not 1 <= count <= MAX_WORKERS:
            raise ConfigError(f"workers is {count}", hint=f"from 1 to {MAX_WORKERS}")
        for what, value in (("start", start_timeout), ("shutdown", shutdown_timeout)):
            if not 0 <= value <= 86400:
                raise ConfigError(f"{what}_timeout is {value!r}", hint="0 to 86400 s")
        if hang_timeout is not None and not 0 < hang_timeout <= 86400:
            raise ConfigError(
                f"hang_timeout is {hang_timeout!r}",
                hint="more than 0, up to 86400 s; None never looks for hung workers",
            )
        self._hang_timeout = hang_timeout
        self._count = count
        self._start_timeout = start_timeout
        self._shutdown_timeout = shutdown_timeout
        self._id = os.urandom(GROUP_BYTES)
        self._places: list[Place] = []
        self._processes: set[WorkerProcess] = set()
        self._totals = GroupTotals()
        self._handouts: list[Handout] = []
        self._wanted: list[tuple[str, int, int]] | None = None
        self._refusal: FastnodeError | None = None
        self._opening = asyncio.Lock()
        self._turn = asyncio.Lock()
        self._next_restart: asyncio.Task[None] | None = None
        self._started = False
        self._serving = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopped = False

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Host and port of each acceptor, in the order of the options."""
        return tuple(handout.address for handout in self._handouts)

    def status(self) -> tuple[WorkerStatus, ...]:
        """Each worker, in the order of their numbers."""
        return tuple(
            WorkerStatus(
                place.number,
                worker.pid,
                worker.state.value,
                worker.links,
                place.restarts,
            )
            for place in self._places
            if (worker := place.worker) is not None
        )

    async def stats(self, timeout: float = REPORT_SECONDS) -> NodeStats:
        """Return what all workers together did, also those that were replaced.

        Totals never go back. A worker that has ended in order is in them with all it
        did. A worker that was killed is in them with what it had reported: workers
        report every `WORKER_STATS_SECONDS` (`fastnode.limits`), and whenever this is
        called. After `stop` this returns the totals of all workers.

        Args:
            timeout: seconds that a worker has to report. The last report counts of a
                worker that does not.

        Raises:
            ConfigError: `timeout` is no number of seconds, or below 0.
        """
        timeout = check_timeout(timeout)
        reports = [each.report(timeout) for each in self._processes]
        await asyncio.gather(*reports)
        return self._totals.shown()

    def __repr__(self) -> str:
        up = len(self._takers())
        return f"<WorkerGroup {self._application.name}, {up} of {self._count} up>"

    # --- starting and stopping ---------------------------------------------------

    async def start(self) -> Self:
        """Start all workers; returns when all are up.

        Raises:
            ConfigError: the group cannot listen, or was started before.
            WorkerFailed: a worker did not come up; why, and its traceback as a note.
                The others have been stopped.
        """
        if self._started:
            raise ConfigError(f"{self!r} was started before")
        self._started = True
        self._loop = asyncio.get_running_loop()
        watch_forks(self)
        self._places = [Place(number + 1) for number in range(self._count)]
        starts = [self._spawned(self._fill(place)) for place in self._places]
        try:
            await asyncio.gather(*starts)
        except BaseException as error:
            await self.stop(0.0)
            if isinstance(error, WorkerFailed) and self._refusal is not None:
                raise self._refusal from None
            raise
        self._serving = True
        self._hand_out()
        for place in self._places:
            self._spawned(self._keep(place))
        return self

    async def stop(self, timeout: float | None = None) -> None:
        """Stop all workers at once, and listen no more; see `Node.stop`.

        Args:
            timeout: seconds for their links to end in order; None: `shutdown_timeout`.
                A worker that has not ended 10 s later is killed.

        Raises:
            ConfigError: `timeout` is no number of seconds, or below 0. Nothing has been
                stopped.
        """
        if timeout is not None:
            timeout = check_timeout(timeout)
        self._stopped = True
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        for handout in self._handouts:
            handout.close()
        seconds = self._shutdown_timeout if timeout is None else timeout
        for worker in self._processes:
            worker.stop(seconds)
        waits = [*tasks, *(worker.ended for worker in self._processes)]
        if waits:
            await asyncio.wait(waits)

    async def restart(self) -> None:
        """Replace all workers, one after the other; no connection is refused meanwhile.

        A new worker, which loads the application's code, options and certificates
        afresh, is up before the old one is handed nothing any more; that one's links
        end in order, and its peers connect again. Then it is the next one's turn.

        A call during a restart waits for that one to end, then a further restart
        follows. Calls that wait at the same time share that further restart. While
        the system has no room for a new process, the restart waits and says so in the
        log.

        Raises:
            ConfigError: the group does not run.
            WorkerFailed: a new worker did not come up, or the group was stopped. The
                old ones stay, from that place on.
        """
        if not self._started or self._stopped:
            raise ConfigError(f"{self!r} does not run")
        if self._next_restart is None:
            self._next_restart = self._spawned(self._restart())
        task = self._next_restart
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled() and self._stopped:
                text = f"{self!r} was stopped"
                raise WorkerFailed(text, side=Side.LOCAL) from None
            raise

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    def in_child(self) -> None:
        """A forked child lets go of the ports and of the workers.

        Otherwise the port would stay open after the end of the group, and the workers
        would not see that end.
        """
        plug(number for each in self._handouts for number in each.descriptors())
        plug(number for each in self._processes for number in each.descriptors())
        renew_selector(self._loop)

    # --- places ------------------------------------------------------------------

    async def _restart(self) -> None:
        async with self._turn:
            # Callers from now on may have changed something after this restart began.
            self._next_restart = None
            for place in self._places:
                await self._replace(place)
                place.restarts += 1

    async def _replace(self, place: Place) -> None:
        """Fill the place anew; wait while the system has no room for a process."""
        backoff = Backoff()
        while True:
            try:
                await self._fill(place)
            except CannotStart as error:
                if not error.may_pass:
                    raise
                log.error(
                    "the restart waits: %s; trying again within %g s",
                    error,
                    backoff.ceiling,
                    extra=self._fields("restart_waits", place, error),
                )
                await asyncio.sleep(backoff.pause())
            else:
                return

    async def _fill(self, place: Place, ended: WorkerProcess | None = None) -> None:
        """Put a new worker there, then stop the old one.

        Args:
            ended: only if this is still the one there.
        """
        async with place.lock:
            old = place.worker
            if ended is not None and old is not ended:
                return
            new = WorkerProcess(
                self._application,
                place.number,
                self._id,
                self._shutdown_timeout,
                self._hang_timeout,
                self._totals,
                lambda worker, wanted: self._spawned(self._listen(worker, wanted)),
            )
            self._processes.add(new)
            new.ended.add_done_callback(lambda _: self._processes.discard(new))
            await new.up(self._start_timeout)
            log.info("%s is up", new, extra=new.log_fields("worker_up"))
            place.worker = new
            self._hand_out()
            if old is not None and old.state is not State.ENDED:
                old.stop(self._shutdown_timeout)
                await asyncio.wait([old.ended])
                log.info(
                    "%s %s", old, old.end_text(), extra=old.log_fields("worker_ended")
                )

    async def _keep(self, place: Place) -> None:
        """Fill the place again whenever its worker ends."""
        while True:
            worker = place.worker
            assert worker is not None
            await asyncio.wait([worker.ended])
            # In a restart another one is there already.
            if place.worker is worker:
                place.backoff.was_up(worker.age)
                log.error(
                    "%s %s; another one takes its place within %g s",
                    worker,
                    worker.end_text(),
                    place.backoff.ceiling,
                    extra=worker.log_fields("worker_failed"),
                )
                await self._revive(place, worker)

    async def _revive(self, place: Place, ended: WorkerProcess) -> None:
        while True:
            await asyncio.sleep(place.backoff.pause())
            try:
                await self._fill(place, ended)
            except FastnodeError as error:
                log.error(
                    "%s; trying again within %g s",
                    error,
                    place.backoff.ceiling,
                    extra=self._fields("worker_not_started", place, error),
                )
            else:
                place.restarts += 1
                return

    def _fields(self, event: str, place: Place, error: FastnodeError) -> dict[str, Any]:
        """Return the fields of a log record about a place."""
        return fields(
            event, node=self._application.name, worker=place.number, error=error
        )

    def _hand_out(self) -> None:
        """There may be somebody new to hand to. At the start nobody is until all are
        up: the first would get all those who have been waiting for the group."""
        if self._serving:
            for handout in self._handouts:
                handout.resume()

    def _takers(self) -> list[WorkerProcess]:
        """The workers that can be handed connections."""
        return [
            worker
            for place in self._places
            if (worker := place.worker) is not None and worker.state is State.UP
        ]

    # --- ports -------------------------------------------------------------------

    async def _listen(
        self, worker: WorkerProcess, wanted: list[tuple[str, int, int]]
    ) -> None:
        """Give a worker the ports that its options name; the first one has them opened.

        What cannot be is the worker's failure.
        """
        if self._stopped:
            return  # nobody would close the ports
        async with self._opening:
            try:
                if self._wanted is None:
                    await self._open(wanted)
                    self._wanted = wanted
            except FastnodeError as error:
                self._refusal = error
                worker.fail(WorkerFailed(error.message, side=Side.LOCAL))
                return
        if wanted == self._wanted:
            worker.listen(list(self.addresses), self._count)
        else:
            worker.fail(
                WorkerFailed(
                    f"{worker} wants to listen on {wanted}, the group does so on "
                    f"{self._wanted} (host, port, port_range)",
                    side=Side.LOCAL,
                    hint="give all workers the same; to change it, stop and start the "
                    "group",
                )
            )

    async def _open(self, wanted: list[tuple[str, int, int]]) -> None:
        handouts: list[Handout] = []
        try:
            for index, (host, port, port_range) in enumerate(wanted):
                sockets = await open_port(host, port, port_range)
                address = host, sockets[0].getsockname()[1]
                handouts.append(Handout(index, address, sockets, self._takers))
        except BaseException:
            for handout in handouts:
                handout.close()
            raise
        for handout in handouts:
            log.info(
                "%s listens on %s:%d",
                self._application.name,
                *handout.address,
                extra=fields(
                    "listening", node=self._application.name, address=handout.address
                ),
            )
        for (_, port, _), handout in zip(wanted, handouts, strict=True):
            warn_of_other_port(self._application.name, port, handout.address[1])
        self._handouts = handouts

    def _spawned(
        self, coroutine: Coroutine[object, object, None]
    ) -> asyncio.Task[None]:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def cores() -> int:
    """The cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1
