"""A worker's process: how it begins, and how its end is noticed.

`multiprocessing` prepares the new interpreter, as its ``spawn`` method does: the worker
gets the program's ``sys.path`` and imports its main module. Starting and ending the
process is done here, for two reasons.

A descriptor can reach a new program only if it is inheritable. Every program that the
worker starts in its turn would inherit it as well: ``os.system("daemon &")`` is enough.
`multiprocessing` leaves its descriptors inheritable. Here the worker's first statement
makes them non-inheritable, before any code of the application is imported.

`multiprocessing` considers a process dead when the last copy of a pipe is closed. A
program that the worker started may hold a copy. Here only the process itself counts:
its pidfd tells of its end, or ``waitpid`` where the system has no pidfd.
"""

from __future__ import annotations

import asyncio
import atexit
import fcntl
import io
import multiprocessing
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from multiprocessing import context, reduction, resource_tracker, spawn
from typing import Any, cast

from fastnode.limits import WORKER_GRACE_SECONDS

__all__ = ["ChildProcess"]

#: A fresh interpreter: a forked one would have the group's loop, threads and keys.
_spawn = multiprocessing.get_context("spawn")

#: How often `waitpid` is called where a system has no pidfd.
LOOK_SECONDS = 0.05
#: How long the end of the program waits for Python's resource tracker.
TRACKER_SECONDS = 1.0
#: Below are standard input, output and error.
FIRST_DESCRIPTOR = 3


class ChildProcess:
    """A Python process that runs one function. Belongs to the running loop.

    Args:
        target: a function of a module. Its first argument is a list of descriptors:
            the other end of `control`, then others that the process has to keep open.
        args: the further arguments. They travel by pickle.
        name: of the process, as ``multiprocessing.current_process().name``.
        patience: seconds for the process to end by itself when this program exits.
        on_end: called once, when the process has ended.

    Attributes:
        pid: of the process.
        control: one end of a pair of Unix stream sockets. It belongs to the caller.

    Raises:
        OSError: the system has no process, descriptor or memory left.
    """

    def __init__(
        self,
        target: Callable[..., object],
        args: tuple[Any, ...],
        name: str,
        patience: float,
        on_end: Callable[[], None],
    ) -> None:
        _stuck.difference_update([each for each in _stuck if each.poll() is not None])
        self.patience = patience
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._pidfd = -1
        self._timer: asyncio.TimerHandle | None = None
        with ExitStack() as ours, ExitStack() as theirs:
            self.control, control = _pair(ours, theirs)
            self._data, data = _pair(ours, theirs)
            given = [control.fileno()]
            # The tracker cleans up shared memory when nobody uses it any more: the
            # group and its workers need the same one.
            tracker = resource_tracker.getfd()
            if tracker is not None:
                given.append(tracker)
            pickled = _pickle(
                _spawn.Process(target=target, args=(given, *args), name=name)
            )
            command = spawn.get_command_line(
                pipe_handle=data.fileno(), tracker_fd=tracker
            )
            self._process = _start(command, [data.fileno(), *given])
            ours.pop_all()
        self.pid = self._process.pid
        # It stays open until the process has ended: the process can tell by its end
        # that this program is gone (`multiprocessing.parent_process`).
        self._data.setblocking(False)
        self._sending = self._loop.create_task(self._send(pickled))
        _living.add(self)
        self._watch()

    @property
    def exitcode(self) -> int | None:
        """As of `subprocess.Popen`: below 0 a signal; None: it has not ended."""
        return self._process.poll()

    def descriptors(self) -> list[int]:
        """What a forked child of this program must not keep; -1: closed."""
        return [self.control.fileno(), self._data.fileno()]

    def kill(self) -> None:
        """Send SIGKILL. A process that has ended is left alone."""
        self._process.kill()

    def signal(self, number: int) -> None:
        """Send a signal. A process that has ended is left alone."""
        self._process.send_signal(number)

    def give_up(self) -> None:
        """Wait for its end no longer, and call `on_end` now."""
        _stuck.add(self._process)
        self._finish()

    async def _send(self, data: memoryview) -> None:
        # A process that ends before it has read everything is no error of ours.
        with suppress(OSError):
            await self._loop.sock_sendall(self._data, data)

    # --- its end -----------------------------------------------------------------

    def _watch(self) -> None:
        try:
            self._pidfd = os.pidfd_open(self.pid)
        except (AttributeError, OSError):  # not Linux, or a sandbox forbids it
            self._timer = self._loop.call_later(LOOK_SECONDS, self._look)
        else:
            self._loop.add_reader(self._pidfd, self._look)

    def _look(self) -> None:
        if self._process.poll() is not None:
            self._finish()
        elif self._pidfd < 0:
            self._timer = self._loop.call_later(LOOK_SECONDS, self._look)

    def _finish(self) -> None:
        if self not in _living:
            return
        _living.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
        self._sending.cancel()
        self._data.close()
        self._on_end()

    def wait(self, deadline: float) -> None:
        """Block until it ends; kill it at the deadline, of `time.monotonic`."""
        try:
            self._process.wait(max(deadline - time.monotonic(), 0.0))
        except subprocess.TimeoutExpired:
            self._process.kill()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(WORKER_GRACE_SECONDS)


def _pair(ours: ExitStack, theirs: ExitStack) -> tuple[socket.socket, socket.socket]:
    """Two connected sockets, of this process and of the new one.

    The second one is never one of the standard streams. A program without standard
    streams gets their numbers for its sockets, and the new process would replace them.
    """
    here, there = map(ours.enter_context, socket.socketpair())
    number = fcntl.fcntl(there, fcntl.F_DUPFD_CLOEXEC, FIRST_DESCRIPTOR)
    there.close()
    return here, theirs.enter_context(socket.socket(fileno=number))


@atexit.register
def _leave_tracker() -> None:
    """Close our end of the pipe to Python's resource tracker, and wait a while for it.

    From Python 3.12 on the interpreter does both when it ends, and waits without a
    bound. A process that a worker has forked holds a copy of the pipe: as long as it
    lives, the tracker does too.
    """
    tracker: Any = resource_tracker._resource_tracker
    descriptor, pid = tracker._fd, tracker._pid
    if descriptor is None or pid is None:
        return
    tracker._fd = tracker._pid = None
    os.close(descriptor)
    deadline = time.monotonic() + TRACKER_SECONDS
    with suppress(ChildProcessError):
        while os.waitpid(pid, os.WNOHANG)[0] == 0 and time.monotonic() < deadline:
            time.sleep(0.01)


def _pickle(process: Any) -> memoryview:
    """What `spawn.spawn_main` reads: how to prepare the interpreter, what to run."""
    file = io.BytesIO()
    # Pickling a process is forbidden at other times.
    context.set_spawning_popen(cast("Any", object()))
    try:
        reduction.dump(spawn.get_preparation_data(process.name), file)
        reduction.dump(process, file)
    finally:
        context.set_spawning_popen(None)
    # Not `getbuffer`: its view would keep the file from being freed in order.
    return memoryview(file.getvalue())


def _start(command: list[str], descriptors: list[int]) -> subprocess.Popen[bytes]:
    """Start the interpreter, which is given these descriptors."""
    if not getattr(sys, "frozen", False):
        # Nothing but this statement runs before they are non-inheritable.
        numbers = ", ".join(map(str, descriptors))
        first = f"import os; [os.set_inheritable(each, False) for each in ({numbers})]"
        program = command.index("-c") + 1
        command[program] = f"{first}; {command[program]}"
    return subprocess.Popen(  # noqa: S603 -- the interpreter that runs this
        command, pass_fds=descriptors, stdin=subprocess.DEVNULL
    )


# --- the end of this program --------------------------------------------------------

#: The processes that have not ended.
_living: set[ChildProcess] = set()
#: Processes that were given up. They are reaped when the next process is started.
_stuck: set[subprocess.Popen[bytes]] = set()


def _end_with_program() -> None:
    """Have all end, as they do when this program is killed, and wait for them."""
    for each in _living:
        each.control.close()
    now = time.monotonic()
    for each in _living:
        each.wait(now + each.patience)


atexit.register(_end_with_program)
# In a forked child they are somebody else's.
os.register_at_fork(after_in_child=_living.clear)
