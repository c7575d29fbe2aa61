"""The thread of a client, with its event loop and its node.

How it works. A `LoopThread` is a daemon thread with an event loop and a node. Each
method call of the client is a `Job`. The calling thread gives the job to the loop with
`call_soon_threadsafe`, and then waits for a lock. The loop releases the lock when the
job is done. So there is one hand-over in each direction. The job runs in the
`contextvars` context of the calling thread.

Fork. A thread does not survive `os.fork`, so the child forgets all loop threads, and a
client makes another one when it is used there. While the process forks, all loop
threads stand still at the end of a turn of their loops. Otherwise the child could
inherit a lock, for example of a `CertManager` or of OpenSSL, that nobody releases. The
sockets of the parent are out of reach for the child, see `fastnode.node.fork`.

Exit. Python waits for all threads that are not daemons, and then calls `atexit`
functions. Ours closes all clients. What waits in a daemon thread then gets
`SystemExit`, which ends such a thread without a traceback, and releases what the thread
holds.
"""

from __future__ import annotations

import _thread
import asyncio
import atexit
import os
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from types import BuiltinFunctionType
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypeVar

from fastnode.errors import (
    CallTimeout,
    ConfigError,
    FastnodeError,
    LinkClosed,
    Side,
    renewed,
)
from fastnode.limits import CANCEL_SECONDS, CLIENT_EXIT_SECONDS
from fastnode.node.fork import renew_selector
from fastnode.node.node import Node

if TYPE_CHECKING:
    from fastnode.errors import Begun
    from fastnode.link.stats import Undelivered
    from fastnode.options import NodeOptions

__all__ = ["LoopKind", "LoopThread", "Work", "closed", "lifecycle", "refuse_late_start"]

Result = TypeVar("Result")
#: What a job does: with the node, within the seconds that are left.
Work = Callable[[Node, float | None], Coroutine[Any, Any, Result]]
LoopKind = Literal["uvloop", "asyncio"]

#: Seconds that a calling thread waits beyond its timeout before it gives up the loop.
#: Timeouts are kept by the loop, which may be busy.
LATE_SECONDS: Final = 1.0
#: Seconds that a thread waits for the end of a client beyond the timeout. `Node.stop`
#: may take two of them, and the tasks of hooks one.
CLOSE_GRACE_SECONDS: Final = 4.0
#: Seconds that a fork waits for a loop whose hook does not return.
PAUSE_SECONDS: Final = 1.0
#: Seconds. A hand-over that took less, and at most a tenth of the timeout, is not
#: subtracted from the timeout, so that errors name the timeout that was given.
HAND_OVER_SECONDS: Final = 0.02

#: Held while a loop thread starts, and while this process forks.
lifecycle = threading.RLock()
#: Loop threads that have not ended.
_running: set[LoopThread] = set()
#: In a child: the loop threads of its parent. They are never freed, because their loops
#: and tasks would then complain that nobody has ended them.
_inherited: list[LoopThread] = []
#: The thread that ends the interpreter, once it does.
_exit_thread: int | None = None


class LoopThread:
    """A thread with an event loop and a node.

    Args:
        name: the name of the node.
        options: the options of the node.
        kind: of the loop.

    Attributes:
        usable: False when it has ended, or when this process was forked from its own.
        jobs: jobs that are not done.
        loop: its event loop.
    """

    def __init__(self, name: str, options: NodeOptions, kind: LoopKind | None) -> None:
        _refuse_green_threads()
        self.name = name
        self.usable = True
        self.jobs: set[Job[Any]] = set()
        self.loop = _new_loop(kind)
        self.node: Node | None = None
        self._options = options
        self._ready: asyncio.Future[Node] = self.loop.create_future()
        self._closing: asyncio.Future[float | None] = self.loop.create_future()
        self._failure: BaseException | None = None
        self._left: tuple[Undelivered, ...] = ()
        self._ended = threading.Event()
        self._resume = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name=f"fastnode-client {name}", daemon=True
        )
        _running.add(self)
        try:
            self._thread.start()
        except RuntimeError as error:  # no thread is left, or the interpreter ends
            _running.discard(self)
            self.loop.close()
            _leave_quietly()
            raise LinkClosed(
                f"client {name} cannot start its thread: {error}",
                side=Side.LOCAL,
                hint="does the interpreter end, or is there a limit of threads?",
                begun="no",
            ) from error

    # --- in the calling thread -----------------------------------------------------

    def do(self, work: Work[Result], timeout: float | None) -> Result:
        """Run something on the loop, and return its result."""
        job = Job(self, work, timeout)
        try:
            self.jobs.add(job)
            try:
                self.loop.call_soon_threadsafe(job.begin)
            except RuntimeError:  # the loop has been closed
                job.give_up()
            in_time = job.wait()
        except BaseException:
            with suppress(RuntimeError):
                self.loop.call_soon_threadsafe(job.cancel)
            raise
        if not in_time:
            with suppress(RuntimeError):
                self.loop.call_soon_threadsafe(job.cancel)
            raise CallTimeout(
                f"the loop of client {self.name} did not run within {timeout:g} s",
                timeout=timeout,
                side=Side.LOCAL,
                hint="a hook of its options blocks it, or something that holds the GIL",
            )
        return job.outcome()

    def refuse_itself(self) -> None:
        """Raise if this is the loop thread itself.

        Raises:
            ConfigError: it is.
        """
        if threading.get_ident() == self._thread.ident and self.usable:
            raise ConfigError(
                f"client {self.name} was used in the thread of its own loop, which "
                "would wait for itself",
                side=Side.LOCAL,
                hint="a hook of its options does that; use another thread",
            )

    def begin_close(self, timeout: float | None) -> None:
        """Begin to close, and do not wait. May be called from any thread."""
        if self.usable:
            with suppress(RuntimeError):  # it has ended by itself
                self.loop.call_soon_threadsafe(self._close, timeout)

    def close(self, timeout: float | None) -> tuple[Undelivered, ...]:
        """See `Client.close`."""
        if self in _inherited:
            return ()
        self.begin_close(timeout)
        limit = self._options.shutdown_timeout if timeout is None else timeout
        if not self.wait_ended(limit + CLOSE_GRACE_SECONDS):
            raise CallTimeout(
                f"client {self.name} did not close within {limit:g} s",
                timeout=limit,
                side=Side.LOCAL,
                hint="a hook of its options blocks its loop",
            )
        return self._left

    def wait_ended(self, timeout: float) -> bool:
        """Wait until the thread has ended; return whether it has in time."""
        if not self._ended.wait(timeout):
            return False
        self._thread.join()  # it runs no more than a few instructions
        return True

    # --- on the loop ---------------------------------------------------------------

    def _run(self) -> None:
        try:
            self.loop.run_until_complete(self._live())
        except BaseException as error:  # hooks raise what they like
            self._failure = error
        finally:
            self._end()

    async def _live(self) -> None:
        node = await Node(self.name, self._options).start()
        self.node = node
        self._ready.set_result(node)
        self._left = await node.stop(await self._closing)

    def _close(self, timeout: float | None) -> None:
        """End all jobs, and then the node."""
        for job in tuple(self.jobs):
            job.give_up()
            job.cancel()
        if not self._closing.done():
            self._closing.set_result(timeout)

    @property
    def closing(self) -> bool:
        """Whether no job begins any more."""
        return self._closing.done()

    async def started(self) -> Node:
        """Wait for the node."""
        return await asyncio.shield(self._ready)

    def _end(self) -> None:
        self.usable = False
        for job in tuple(self.jobs):
            job.give_up()
        with suppress(BaseException):
            self.loop.run_until_complete(self._clean())
        # The default executor is not shut down here, because an address lookup in it
        # may take long.
        self.loop.close()
        # Jobs may have come meanwhile. Later jobs find that the loop is closed.
        for job in tuple(self.jobs):
            job.give_up()
        _running.discard(self)
        self._ended.set()

    async def _clean(self) -> None:
        """Leave no task behind, and no link if a hook has ended the loop."""
        if self.node is not None:
            await self.node.stop(0)
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=CANCEL_SECONDS)

    def reason(self, begun: Begun) -> BaseException:
        """Return why a job ends that is not done.

        Args:
            begun: whether a handler may have begun.
        """
        failure = self._failure
        if self in _inherited:
            return LinkClosed(
                f"this process was forked while it waited for client {self.name}",
                side=Side.LOCAL,
                hint="its parent goes on to wait; call again in this process",
                begun=begun,
            )
        if failure is None:
            return closed(self.name, begun)
        if self._ready.done():
            return LinkClosed(
                f"the loop of client {self.name} was ended by {failure!r}",
                side=Side.LOCAL,
                hint="a hook of its options raised that; the next call starts it again",
                begun=begun,
            )
        if isinstance(failure, FastnodeError):
            return renewed(failure, begun=begun)
        return failure

    # --- fork ------------------------------------------------------------------------

    def pause(self) -> None:
        """Stand still at the end of a turn of the loop, until `resume`."""
        if threading.get_ident() == self._thread.ident:
            return
        standing = threading.Event()
        self._resume = threading.Event()
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self._stand, standing, self._resume)
            standing.wait(PAUSE_SECONDS)

    @staticmethod
    def _stand(standing: threading.Event, resume: threading.Event) -> None:
        standing.set()
        resume.wait()

    def resume(self) -> None:
        """Go on."""
        self._resume.set()

    def in_child(self) -> None:
        """In a forked child: this thread does not exist here."""
        self.usable = False
        renew_selector(self.loop)
        # A signal handler may have forked while its thread waited for a job.
        for job in tuple(self.jobs):
            job.give_up()


class Job(Generic[Result]):
    """Something that a thread waits for and the loop does.

    Args:
        thread: whose loop it is.
        work: what is to be done.
        timeout: seconds from now.
    """

    __slots__ = (
        "_begun",
        "_deadline",
        "_done",
        "_error",
        "_gave_up",
        "_over",
        "_result",
        "_task",
        "_thread",
        "_timeout",
        "_work",
    )

    def __init__(
        self, thread: LoopThread, work: Work[Result], timeout: float | None
    ) -> None:
        self._thread = thread
        self._work = work
        self._timeout = timeout
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._task: asyncio.Task[None] | None = None
        self._result: Result
        self._error: BaseException | None = None
        self._begun = False
        self._gave_up = False
        self._over = False
        self._done = threading.Lock()
        self._done.acquire()

    # --- in the calling thread -----------------------------------------------------

    def wait(self) -> bool:
        """Wait until it is done; False if the loop is late."""
        if self._deadline is None:
            return self._done.acquire()
        left = max(self._deadline - time.monotonic(), 0.0) + LATE_SECONDS
        return self._done.acquire(timeout=min(left, threading.TIMEOUT_MAX))

    def outcome(self) -> Result:
        """Return its result, or raise its error."""
        error, self._error = self._error, None
        if error is None:
            return self._result
        if self._gave_up:
            _leave_quietly()
        try:
            raise error
        finally:
            del error  # its traceback has this frame

    # --- on the loop ---------------------------------------------------------------

    def begin(self) -> None:
        """Begin, unless the loop does not begin anything any more."""
        if self._thread.closing:
            self.give_up()
        elif not self._over:
            self._task = self._thread.loop.create_task(self._run())

    async def _run(self) -> None:
        try:
            node = self._thread.node or await self._thread.started()
            left = self._left()
            self._begun = True
            self._result = await self._work(node, left)
        except asyncio.CancelledError:
            self.give_up()
        except CallTimeout as error:
            if error.timeout != self._timeout:
                error.timeout = self._timeout
                error.add_note(f"of {self._timeout} s, after the client had started")
            self._error = error
        except BaseException as error:
            # Whatever user code raises ends this call only.
            self._error = error
        self._finish()

    def _left(self) -> float | None:
        """Return the seconds that are left.

        Raises:
            CallTimeout: none are left.
        """
        if self._timeout is None or self._deadline is None:
            return None
        left = self._deadline - time.monotonic()
        if self._timeout - left <= min(HAND_OVER_SECONDS, self._timeout / 10):
            return self._timeout
        if left <= 0:
            raise CallTimeout(
                f"client {self._thread.name} was not ready within {self._timeout:g} s",
                side=Side.LOCAL,
                timeout=self._timeout,
                hint="allow more time: the client had to start, or was busy",
                begun="no",
            )
        return left

    def cancel(self) -> None:
        """Stop it. Nobody waits for it any more."""
        self._finish()
        if self._task is not None:
            self._task.cancel()

    def give_up(self) -> None:
        """Tell the thread that waits for it why it will not be done."""
        if not self._over:
            self._error = self._thread.reason("maybe" if self._begun else "no")
            self._gave_up = True
            self._finish()

    def _finish(self) -> None:
        if not self._over:
            self._over = True
            self._thread.jobs.discard(self)
            self._done.release()


def closed(name: str, begun: Begun = "no") -> LinkClosed:
    """Return the error for a client that was closed.

    Args:
        name: the name of the client's node.
        begun: whether a handler may have begun.
    """
    return LinkClosed(
        f"client {name} was closed",
        side=Side.LOCAL,
        hint="make a new client",
        begun=begun,
    )


def _new_loop(kind: LoopKind | None) -> asyncio.AbstractEventLoop:
    """Return a loop.

    Raises:
        ConfigError: uvloop was asked for, and is not installed.
    """
    if kind == "asyncio":
        return asyncio.new_event_loop()
    try:
        import uvloop  # noqa: PLC0415
    except ImportError as error:
        if kind is None:
            return asyncio.new_event_loop()
        raise ConfigError(
            "uvloop is not installed", side=Side.LOCAL, hint='or use loop="asyncio"'
        ) from error
    return uvloop.new_event_loop()


def _refuse_green_threads() -> None:
    """Raise if threads of Python are none.

    Raises:
        ConfigError: gevent or eventlet has replaced them. The loop of the client would
            never give another green thread its turn.
    """
    if not isinstance(_thread.start_new_thread, BuiltinFunctionType):
        raise ConfigError(
            "a client needs threads of the system, and this program has replaced them",
            side=Side.LOCAL,
            hint="gevent and eventlet do that: use workers with threads or processes",
        )


# --- the end of the interpreter ----------------------------------------------------


def _leave_quietly() -> None:
    """End this thread if the interpreter ends, and is ended by another thread.

    Raises:
        SystemExit: it does.
    """
    if _exit_thread not in {None, threading.get_ident()}:
        raise SystemExit


def refuse_late_start(name: str) -> None:
    """Raise if it is too late to start a client, because the interpreter ends.

    Args:
        name: the name of the client's node, for the error.

    Raises:
        LinkClosed: it does.
        SystemExit: it does, and another thread ends it.
    """
    if _exit_thread is not None:
        _leave_quietly()
        raise closed(name)


def _close_all() -> None:
    """Close all clients: what was sent leaves, if it does so soon."""
    global _exit_thread  # noqa: PLW0603
    _exit_thread = threading.get_ident()
    with lifecycle:
        running = list(_running)
    for thread in running:
        thread.begin_close(CLIENT_EXIT_SECONDS)
    deadline = time.monotonic() + CLIENT_EXIT_SECONDS + CLOSE_GRACE_SECONDS
    for thread in running:
        thread.wait_ended(max(deadline - time.monotonic(), 0.0))


atexit.register(_close_all)


# --- fork --------------------------------------------------------------------------


def _before_fork() -> None:
    lifecycle.acquire()
    for thread in tuple(_running):
        thread.pause()


def _after_fork_in_parent() -> None:
    for thread in tuple(_running):
        thread.resume()
    lifecycle.release()


def _after_fork_in_child() -> None:
    _inherited.extend(_running)
    _running.clear()
    for thread in _inherited:
        thread.in_child()
    lifecycle.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )
