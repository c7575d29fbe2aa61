"""A worker, as the group sees it."""

from __future__ import annotations

import asyncio
import atexit
import logging
import multiprocessing
import os
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from typing import TYPE_CHECKING, Any

from fastnode.errors import Side, WorkerFailed
from fastnode.limits import WORKER_GRACE_SECONDS
from fastnode.workers.channel import Channel
from fastnode.workers.main import run_worker

if TYPE_CHECKING:
    from fastnode.workers.application import Application

__all__ = ["State", "WorkerProcess"]

log = logging.getLogger("fastnode.workers")

#: A fresh interpreter: a forked one would have the group's loop, threads and keys.
_spawn = multiprocessing.get_context("spawn")


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
        on_listen: Callable[[WorkerProcess, list[tuple[str, int, int]]], object],
    ) -> None:
        self._name = application.name
        self._timeout = shutdown_timeout
        self._number = number
        self._on_listen = on_listen
        self._loop = asyncio.get_running_loop()
        self._outlets: list[socket.socket] = []
        self._handed = self._taken = self._open = 0
        self._failure: WorkerFailed | None = None
        self._up: asyncio.Future[None] = self._loop.create_future()
        self._killer: asyncio.TimerHandle | None = None
        self.state = State.STARTING
        self.links = 0
        self.ended: asyncio.Future[None] = self._loop.create_future()
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = _spawn.Process(
                target=run_worker,
                args=(application, number, theirs, group, shutdown_timeout),
                name=f"{application.name} worker {number}",
            )
            try:
                self._process.start()
            except BaseException:
                ours.close()
                raise
        # At its exit multiprocessing waits for its children, who wait for this.
        atexit.register(ours.close)
        self._ours = ours
        self._channel = Channel(ours, self._heard, lambda: None)
        self._began = self._loop.time()
        self._loop.add_reader(self._process.sentinel, self._reap)

    def __str__(self) -> str:
        return f"worker {self._number} of {self._name} (pid {self.pid})"

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid or 0

    @property
    def age(self) -> float:
        """Seconds since its start."""
        return self._loop.time() - self._began

    # --- connections -----------------------------------------------------------

    @property
    def load(self) -> int:
        """Links and connections on their way, those included that it has not seen."""
        return self.links + self._open + self._handed - self._taken

    def take(self, port: int, connection: socket.socket) -> bool:
        """See `Taker`."""
        try:
            socket.send_fds(self._outlets[port], [b"\0"], [connection.fileno()])
        except OSError:  # it is busy, or has just died
            return False
        self._handed += 1
        return True

    def listen(self, addresses: list[tuple[str, int]]) -> None:
        """It gets the connections to these from now on, when it is up."""
        if self.state is not State.STARTING:
            return  # it has been stopped while the ports were opened
        inlets: list[socket.socket] = []
        for _ in addresses:
            ours, theirs = socket.socketpair()
            ours.setblocking(False)
            self._outlets.append(ours)
            inlets.append(theirs)
        self._channel.send(
            {"do": "listen", "addresses": addresses},
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
        for outlet in self._outlets:
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
        log.error("%s has not ended within %g s: it is killed", self, limit)
        self.kill()

    def kill(self) -> None:
        """End it at once."""
        if self.state is not State.ENDED:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

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
        elif what == "failed":
            error = WorkerFailed(
                f"{self} did not come up: {message['type']}: {message['text']}",
                side=Side.LOCAL,
            )
            error.add_note(message["traceback"])
            self.fail(error)
        elif what == "leaving":
            self.stop(self._timeout)

    def _reap(self) -> None:
        """The process has ended."""
        self._loop.remove_reader(self._process.sentinel)
        self._process.join()
        self._channel.drain()
        self.leave()
        self.state = State.ENDED
        if self._killer is not None:
            self._killer.cancel()
        self.fail(
            WorkerFailed(
                f"{self} {self.end_text()} before it was up",
                side=Side.LOCAL,
                hint="its standard error says why; a script that calls serve() does so "
                "under if __name__ == '__main__'",
            )
        )
        self._channel.close()
        atexit.unregister(self._ours.close)
        self.ended.set_result(None)
