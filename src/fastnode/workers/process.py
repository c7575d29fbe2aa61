"""A worker, as the group sees it."""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import Enum
from typing import TYPE_CHECKING, Any

from fastnode.errors import Side, WorkerFailed
from fastnode.limits import WORKER_GRACE_SECONDS
from fastnode.loggers import fields
from fastnode.workers.channel import Channel
from fastnode.workers.child import ChildProcess
from fastnode.workers.handout import LinkedHosts
from fastnode.workers.heartbeat import Heartbeat
from fastnode.workers.main import run_worker
from fastnode.workers.totals import GroupTotals, Report

if TYPE_CHECKING:
    from fastnode.workers.application import Application

__all__ = ["CannotStart", "State", "WorkerProcess"]

log = logging.getLogger("fastnode.workers")

SHORTAGES = {errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOBUFS}


class CannotStart(WorkerFailed):
    """The system did not start the process. To users this is a `WorkerFailed`."""

    @property
    def may_pass(self) -> bool:
        """The system lacks processes, descriptors or memory; it may have some later."""
        cause = self.__cause__
        return isinstance(cause, OSError) and cause.errno in SHORTAGES


class State(Enum):
    """Of a worker, in this order; some may be left out."""

    STARTING = "starting"  #: not up yet
    UP = "up"  #: is handed connections
    STOPPING = "stopping"  #: is handed none any more
    ENDED = "ended"  #: there is no such process


class WorkerProcess:
    """One process. Is a `Taker` while it is up.

    Args:
        application: what it runs.
        number: of its place in the group, from 1.
        group: what the instance ids of the group begin with.
        shutdown_timeout: seconds that its end takes at most if nobody says otherwise.
        hang_timeout: seconds within which it has to answer; None: it need not.
        totals: told what its node has counted.
        on_listen: told of the ports that it wants; answers with `listen` or `refuse`.

    Attributes:
        links: that its node has.
        ended: done with the process.
    """

    def __init__(
        self,
        application: Application,
        number: int,
        group: bytes,
        shutdown_timeout: float,
        hang_timeout: float | None,
        totals: GroupTotals,
        on_listen: Callable[[WorkerProcess, list[tuple[str, int, int]]], object],
    ) -> None:
        self._name = application.name
        self._timeout = shutdown_timeout
        self._heartbeat = (
            None if hang_timeout is None else Heartbeat(hang_timeout, self)
        )
        self._number = number
        self._totals = totals
        self._report = Report()
        # How often it was asked for a report, and who waits for the answer to which.
        self._asked = 0
        self._askers: dict[int, asyncio.Future[None]] = {}
        self._on_listen = on_listen
        self._loop = asyncio.get_running_loop()
        self._outlets: list[socket.socket] = []
        self._handed = self._taken = self._open = 0
        self._linked = LinkedHosts(self._loop.time)
        self._failure: WorkerFailed | None = None
        self._up: asyncio.Future[None] = self._loop.create_future()
        self._killer: asyncio.TimerHandle | None = None
        self._abandoner: asyncio.TimerHandle | None = None
        self.state = State.STARTING
        self.links = 0
        self.ended: asyncio.Future[None] = self._loop.create_future()
        try:
            self._process = ChildProcess(
                run_worker,
                (application, number, group, shutdown_timeout),
                f"{application.name} worker {number}",
                shutdown_timeout + 2 * WORKER_GRACE_SECONDS,
                self._has_ended,
            )
        except Exception as error:
            failure = CannotStart(
                f"worker {number} of {application.name} cannot be started: {error}",
                side=Side.LOCAL,
            )
            failure.__cause__ = error
            if failure.may_pass:
                failure.hint = (
                    "the limits of processes, open files and memory of this user and "
                    "this container (ulimit -u, ulimit -n, pids.max)"
                )
            raise failure from error
        self._channel = Channel(self._process.control, self._heard, lambda: None)
        self._began = self._loop.time()

    def __str__(self) -> str:
        return f"worker {self._number} of {self._name} (pid {self.pid})"

    def log_fields(self, event: str) -> dict[str, Any]:
        """Return the fields of a log record about this worker."""
        return fields(event, node=self._name, worker=self._number, pid=self.pid)

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def age(self) -> float:
        """Seconds since its start."""
        return self._loop.time() - self._began

    def descriptors(self) -> list[int]:
        """What a forked child of this program must not keep; -1: closed."""
        outlets = [outlet.fileno() for outlet in self._outlets]
        return [*self._process.descriptors(), *outlets]

    # --- connections -----------------------------------------------------------

    @property
    def load(self) -> int:
        """Links and connections on their way, those included that it has not seen."""
        return self.links + self._open + self._handed - self._taken

    def linked_with(self, host: str) -> bool:
        """See `Taker`."""
        return host in self._linked

    def take(self, port: int, connection: socket.socket) -> bool:
        """See `Taker`."""
        try:
            socket.send_fds(self._outlets[port], [b"\0"], [connection.fileno()])
        except OSError:  # it is busy, or has just died
            return False
        self._handed += 1
        return True

    def listen(self, addresses: list[tuple[str, int]], workers: int) -> None:
        """Tell the worker what the group listens on. It gets connections when it is up.

        Args:
            workers: how many workers the group has.
        """
        if self.state is not State.STARTING:
            return  # it has been stopped while the ports were opened
        inlets: list[socket.socket] = []
        for _ in addresses:
            ours, theirs = socket.socketpair()
            ours.setblocking(False)
            self._outlets.append(ours)
            inlets.append(theirs)
        self._channel.send(
            {"do": "listen", "addresses": addresses, "workers": workers},
            [inlet.fileno() for inlet in inlets],
        )
        for inlet in inlets:
            inlet.close()

    # --- its life --------------------------------------------------------------

    async def up(self, timeout: float) -> None:
        """Wait until it is up; if it does not come to that, it has ended afterwards.

        Raises:
            WorkerFailed: it did not come up, or not in time.
        """
        try:
            async with asyncio.timeout(timeout):
                await asyncio.shield(self._up)
        except TimeoutError:
            self.kill()
            self.fail(
                WorkerFailed(
                    f"{self} is not up after {timeout:g} s",
                    side=Side.LOCAL,
                    hint="what does setup wait for? or raise start_timeout",
                )
            )
        except BaseException:
            self.stop(WORKER_GRACE_SECONDS)
            raise
        if self._failure is not None:
            self.stop(WORKER_GRACE_SECONDS)
            await asyncio.shield(self.ended)
            raise self._failure

    def fail(self, error: WorkerFailed) -> None:
        """It does not come up, because of this; the first reason counts."""
        if not self._up.done():
            self._failure = error
            self._up.set_result(None)

    def leave(self) -> None:
        """Hand it nothing any more; what it was handed, it still gets."""
        if self.state is not State.ENDED:
            self.state = State.STOPPING
        if self._heartbeat is not None:
            self._heartbeat.stop()
        for outlet in self._outlets:
            # The worker has to see the end even if another process has a copy.
            with suppress(OSError):
                outlet.shutdown(socket.SHUT_WR)
            outlet.close()
        self._outlets.clear()

    def stop(self, timeout: float) -> None:
        """Have it end in order within so many seconds; `ended` tells."""
        self.leave()
        if self.state is State.ENDED:
            return
        if self._killer is not None:  # told before, with more time perhaps
            self._killer.cancel()
        self._channel.send({"do": "stop", "timeout": timeout})
        limit = timeout + 2 * WORKER_GRACE_SECONDS
        self._killer = self._loop.call_later(limit, self._overdue, limit)

    def _overdue(self, limit: float) -> None:
        log.error(
            "%s has not ended within %g s: it is killed",
            self,
            limit,
            extra=self.log_fields("worker_killed"),
        )
        self.kill()

    def say(self, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        """Tell it something, unless it has hundreds of messages to read."""
        self._channel.send(message, descriptors)

    def listen_to_it(self) -> None:
        """Read what it has said already."""
        self._channel.drain()

    async def report(self, timeout: float) -> None:
        """Have it report what its node has counted, and wait for the report.

        Returns nothing new if it does not answer within `timeout` seconds, has not
        started its node, or has ended.
        """
        if self.state not in (State.UP, State.STOPPING):
            return
        self._asked += 1
        number, asker = self._asked, self._loop.create_future()
        self._askers[number] = asker
        self._channel.send({"do": "report", "number": number})
        await asyncio.wait([asker], timeout=timeout)
        self._askers.pop(number, None)

    def _take_part(self, message: dict[str, Any]) -> None:
        """A part of a report has come."""
        stats = self._report.add(message)
        if stats is not None:
            self._totals.report(self, stats)
            self._channel.send({"do": "go on reporting"})
            self._answer_askers(message["asked"])

    def _answer_askers(self, number: int) -> None:
        """A report has come that answers this request and all before it."""
        for each in [each for each in self._askers if each <= number]:
            self._askers.pop(each).set_result(None)

    def signal(self, number: int) -> None:
        """Send its process a signal."""
        self._process.signal(number)

    def kill(self) -> None:
        """End it at once. `ended` is done soon, whatever the system does."""
        if self.state is not State.ENDED:
            self._process.kill()
            if self._abandoner is None:
                self._abandoner = self._loop.call_later(
                    WORKER_GRACE_SECONDS, self._abandon
                )

    def _abandon(self) -> None:
        """Nobody waits for a process that SIGKILL does not end."""
        log.error(
            "%s has not ended %g s after SIGKILL: the group goes on without waiting; "
            "a process that hangs in the kernel, on a disk for example, ends later",
            self,
            WORKER_GRACE_SECONDS,
            extra=self.log_fields("worker_not_ended"),
        )
        self._process.give_up()

    def end_text(self) -> str:
        """How it has ended."""
        code = self._process.exitcode
        if code is None:
            return "has not ended"
        if code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        return f"ended with exit status {code}"

    def _heard(self, message: dict[str, Any], _: list[int]) -> None:
        what = message["say"]
        if what == "load":
            self._taken, self.links = message["taken"], message["links"]
            self._open = message["open"]
        elif what == "listen":
            self._on_listen(self, [(h, p, r) for h, p, r in message["ports"]])
        elif what == "up" and self.state is State.STARTING:
            self.state = State.UP
            self._up.set_result(None)
            if self._heartbeat is not None:
                self._heartbeat.start()
        elif what == "stats":
            self._take_part(message)
        elif what == "pong" and self._heartbeat is not None:
            self._heartbeat.answered()
        elif what == "failed":
            error = WorkerFailed(
                f"{self} did not come up: {message['type']}: {message['text']}",
                side=Side.LOCAL,
            )
            error.add_note(message["traceback"])
            self.fail(error)
        elif what == "linked":
            self._linked.add(message["host"])
        elif what == "leaving":
            self.stop(self._timeout)

    def _has_ended(self) -> None:
        """The process has ended."""
        self._channel.drain()
        self.leave()
        self.state = State.ENDED
        for timer in (self._killer, self._abandoner):
            if timer is not None:
                timer.cancel()
        self.fail(
            WorkerFailed(
                f"{self} {self.end_text()} before it was up",
                side=Side.LOCAL,
                hint="its standard error says why; a script that calls serve() does so "
                "under if __name__ == '__main__'",
            )
        )
        self._channel.close()
        self._totals.end(self)
        self._answer_askers(self._asked)
        self.ended.set_result(None)
