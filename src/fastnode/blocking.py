"""A client for programs without asyncio: `Client`.

How it works. A `LoopThread` is a daemon thread with an event loop and a node. The
client makes one when it is first used. Each call of a method becomes a `Job`: the
calling thread gives the job to the loop with `call_soon_threadsafe`, and then waits for
a lock, which the loop releases when the job is done. So there is one hand-over in each
direction. The job runs in the `contextvars` context of the calling thread.

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

import asyncio
import atexit
import hashlib
import os
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, Self, TypeVar

from fastnode.errors import (
    CallTimeout,
    ConfigError,
    FastnodeError,
    LinkClosed,
    Side,
    no_timeout,
    renewed,
)
from fastnode.limits import CANCEL_SECONDS, CLIENT_EXIT_SECONDS, GROUP_BYTES
from fastnode.node.deadline import connect_with_deadline
from fastnode.node.fork import renew_selector
from fastnode.node.node import Node
from fastnode.options import NetworkOptions, NodeOptions

if TYPE_CHECKING:
    from fastnode.link.stats import LinkStats, Undelivered
    from fastnode.options import Priority
    from fastnode.peer import Peer

__all__ = ["Client"]

Result = TypeVar("Result")
Payload = bytes | bytearray | memoryview
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
_lifecycle = threading.RLock()
#: Loop threads that have not ended.
_running: set[LoopThread] = set()
#: In a child: the loop threads of its parent. They are never freed, because their loops
#: and tasks would then complain that nobody has ended them.
_inherited: list[LoopThread] = []
#: The thread that ends the interpreter, once it does.
_exit_thread: int | None = None


class Client:
    """A node for programs without asyncio: it calls endpoints of other nodes and sends
    messages to them. All methods may be used from any thread.

    Nothing is started until the client is first used or entered with ``with``. Then
    there is one thread, with an event loop and a node. After `os.fork` the client
    starts another one in the child, with links of its own. ::

        client = Client("web@10.0.0.5", NodeOptions(cert_manager=manager))
        reply = client.call("billing@10.0.0.7", "invoice", b"...", timeout=5.0)

    A client does not listen. It has no endpoints. Several clients, in one process or in
    many, may have the same name at the same time.

    Args:
        name: the name of the client's node, ``name@host``.
        options: as for `start_node`. `acceptors` has to be empty, or not given.
        loop: "uvloop" or "asyncio". None takes uvloop where it is installed.

    Raises:
        ConfigError: the name or the options cannot work.
    """

    def __init__(
        self,
        name: str,
        options: NodeOptions | None = None,
        *,
        loop: LoopKind | None = None,
    ) -> None:
        self._closed = True  # for __del__, if this raises
        self._thread: LoopThread | None = None
        if loop not in {None, "uvloop", "asyncio"}:
            raise ConfigError(
                f"there is no loop {loop!r}",
                side=Side.LOCAL,
                hint='it is "uvloop" or "asyncio"',
            )
        self._loop_kind = loop
        # Checks both, so that a mistake is raised here and not at the first call.
        self._name = Node(name, options).name
        self._options = _client_options(self._name, options or NodeOptions())
        self._closed = False

    # --- what it is ------------------------------------------------------------

    @property
    def node_name(self) -> str:
        """The name of the client's node, ``name@host``."""
        return self._name

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def __repr__(self) -> str:
        thread = self._thread
        if self._closed:
            state = "closed"
        elif thread is None or not thread.usable:
            state = "not started"
        else:
            state = "running"
        return f"<Client {self._name}, {state}>"

    # --- using it --------------------------------------------------------------

    def call(
        self,
        target: str,
        endpoint: str,
        payload: Payload,
        *,
        timeout: float | None = None,
        priority: Priority | None = None,
    ) -> bytes:
        """Call an endpoint of another node and return its reply.

        If this thread is interrupted, for example by KeyboardInterrupt, the call is
        cancelled. The peer is told.

        Args:
            target: the name of the other node, ``name@host``.
            timeout: seconds for all of it: starting, connecting and the reply. None
                waits as long as the link lasts.
            priority: "high" overtakes other messages; None: "normal".

        Raises:
            LinkClosed: the client was closed, or the link ended meanwhile.
            CallTimeout: no reply in time, or the loop of the client is blocked.
            ConfigError: the call comes from the loop of the client itself, for example
                from a hook; or as `Node.call`.
            As `Node.call`.
        """
        data = _unchanging(payload)
        return self._do(
            lambda node, left: node.call(
                target, endpoint, data, timeout=left, priority=priority
            ),
            timeout,
        )

    def send(
        self,
        target: str,
        endpoint: str,
        payload: Payload,
        *,
        confirm: bool = False,
        priority: Priority | None = None,
        timeout: float | None = None,
    ) -> None:
        """Send a one-way message. Return when it is queued, and the link is not over
        its high-water mark.

        Args:
            target: the name of the other node, ``name@host``.
            confirm: wait until the other node has handed it to its handler.
            priority: as for `call`.
            timeout: seconds for all of it, or None. When it is over, a message without
                `confirm` may be queued.

        Raises:
            LinkClosed: the client was closed, or the link ended meanwhile.
            CallTimeout: not done in time, or the loop of the client is blocked.
            ConfigError: as for `call`.
            As `Node.send`.
        """
        data = _unchanging(payload)
        self._do(
            lambda node, left: node.send(
                target,
                endpoint,
                data,
                confirm=confirm,
                priority=priority,
                timeout=left,
            ),
            timeout,
        )

    def connect(self, target: str, *, timeout: float | None = None) -> Peer:
        """Connect with another node, unless there is a link, and return the peer.

        `call` and `send` connect by themselves. This is for a program that wants to
        know early whether it can.

        Args:
            target: the name of the other node, ``name@host``.
            timeout: seconds for all of it. None: each address that is tried may take
                ``handshake_timeout``.

        Raises:
            LinkClosed: the client was closed.
            CallTimeout: no link in time, or the loop of the client is blocked.
            ConfigError: as for `call`.
            As `Node.connect`.
        """

        async def connected(node: Node, left: float | None) -> Peer:
            link, _ = await connect_with_deadline(left, node.connect, target)
            return link.peer

        return self._do(connected, timeout)

    def reconnect(
        self, target: str | None = None, *, timeout: float | None = None
    ) -> None:
        """Replace the link with a node, or all links, so that a new certificate takes
        effect on them. Nothing is lost or doubled.

        Args:
            target: the name of the other node. None: all links.
            timeout: seconds. None: ``NodeOptions.shutdown_timeout``.

        Raises:
            LinkClosed: the client was closed, or a link was closed meanwhile.
            ConfigError: as for `call`.
            As `Node.reconnect`.
        """
        self._do(lambda node, left: node.reconnect(target, timeout=left), timeout)

    def stats(self) -> tuple[tuple[Peer, LinkStats], ...]:
        """Return the peer and the counters of each link that is up. Start nothing.

        Raises:
            LinkClosed: the client was closed.
            ConfigError: as for `call`.
        """

        async def counted(
            node: Node, _left: float | None
        ) -> tuple[tuple[Peer, LinkStats], ...]:
            return tuple((link.peer, link.stats) for link in node.links)

        thread = self._thread
        if not self._closed and (thread is None or not thread.usable):
            return ()
        return self._do(counted, None)

    # --- starting and closing ----------------------------------------------------

    def __enter__(self) -> Self:
        """Start the node.

        Raises:
            LinkClosed: the client was closed.
            CertificateError: the certificate of the client has expired.
        """

        async def nothing(_node: Node, _left: float | None) -> None:
            """Wait for nothing but the start."""

        self._do(nothing, None)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self, timeout: float | None = None) -> tuple[Undelivered, ...]:
        """Close the client. What was sent leaves, and its links end in order.

        Calls and sends that other threads are waiting for raise `LinkClosed` at once.
        To close a closed client waits for the same end. A client that is not closed
        ends with the interpreter, or when nothing refers to it any more.

        Args:
            timeout: seconds for what was sent. What has not left by then is cut off.
                None: ``NodeOptions.shutdown_timeout``.

        Returns:
            What was not done, of each link where something was left; it is logged too.

        Raises:
            CallTimeout: the loop of the client is blocked by a hook. The client ends
                when the hook returns.
            ConfigError: the call comes from the loop of the client itself, or `timeout`
                is below 0.
        """
        if timeout is not None and not timeout >= 0:
            raise no_timeout(timeout)
        thread = self._thread
        if thread is not None:
            thread.refuse_itself()
        with _lifecycle:
            self._closed = True
            thread = self._thread
        return () if thread is None else thread.close(timeout)

    def __del__(self) -> None:
        # Must not wait: the garbage collector may run in any thread.
        if not self._closed and self._thread is not None:
            self._thread.begin_close(CLIENT_EXIT_SECONDS)

    def _do(self, work: Work[Result], timeout: float | None) -> Result:
        """Run something on the loop of the client and wait for its result."""
        if timeout is not None and not timeout >= 0:
            raise no_timeout(timeout)
        thread = self._thread
        if thread is None or not thread.usable or self._closed:
            thread = self._started()
        thread.refuse_itself()
        return thread.do(work, timeout)

    def _started(self) -> LoopThread:
        """Return the loop thread, a new one where there is none.

        Raises:
            LinkClosed: the client was closed, or the interpreter ends.
        """
        with _lifecycle:
            if self._closed or _exit_thread is not None:
                _leave_quietly()
                raise closed(self._name)
            if self._thread is None or not self._thread.usable:
                self._thread = LoopThread(self._name, self._options, self._loop_kind)
            return self._thread


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
        # Not the default executor: an address lookup in it may take its time.
        self.loop.close()
        # Those that came meanwhile. What comes now finds the loop closed.
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

    def reason(self) -> BaseException:
        """Return why a job ends that is not done."""
        failure = self._failure
        if self in _inherited:
            return LinkClosed(
                f"this process was forked while it waited for client {self.name}",
                side=Side.LOCAL,
                hint="its parent goes on to wait; call again in this process",
            )
        if failure is None:
            return closed(self.name)
        if self._ready.done():
            return LinkClosed(
                f"the loop of client {self.name} was ended by {failure!r}",
                side=Side.LOCAL,
                hint="a hook of its options raised that; the next call starts it again",
            )
        return renewed(failure) if isinstance(failure, FastnodeError) else failure

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
            self._result = await self._work(node, self._left())
        except asyncio.CancelledError:
            self.give_up()
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
                hint="nothing was sent: the client had to start, or was busy",
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
            self._error = self._thread.reason()
            self._gave_up = True
            self._finish()

    def _finish(self) -> None:
        if not self._over:
            self._over = True
            self._thread.jobs.discard(self)
            self._done.release()


def closed(name: str) -> LinkClosed:
    """Return the error for a client that was closed."""
    return LinkClosed(
        f"client {name} was closed", side=Side.LOCAL, hint="make a new client"
    )


def _client_options(name: str, options: NodeOptions) -> NodeOptions:
    """Return the options for the node of a client.

    Raises:
        ConfigError: they name acceptors.
    """
    acceptors = tuple(options.network.acceptors)
    if acceptors not in ((), tuple(NetworkOptions().acceptors)):
        raise ConfigError(
            f"client {name} cannot listen, and has {len(acceptors)} acceptors",
            side=Side.LOCAL,
            hint="write NetworkOptions(acceptors=()); a node that listens needs "
            "start_node, or serve",
        )
    # Processes of one program have clients of one name, and their peers must not take
    # each new link for a restart that ends the link before.
    group = (
        options.group
        or hashlib.blake2b(
            b"fastnode.blocking " + name.encode(), digest_size=GROUP_BYTES
        ).digest()
    )
    return replace(options, network=replace(options.network, acceptors=()), group=group)


def _unchanging(payload: Payload) -> Payload:
    """Return a payload that the caller cannot change while the loop sends it."""
    if isinstance(payload, (bytearray, memoryview)):
        return bytes(payload)
    return payload


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


# --- the end of the interpreter ----------------------------------------------------


def _leave_quietly() -> None:
    """End this thread if the interpreter ends, and is ended by another thread.

    Raises:
        SystemExit: it does.
    """
    if _exit_thread not in {None, threading.get_ident()}:
        raise SystemExit


def _close_all() -> None:
    """Close all clients: what was sent leaves, if it does so soon."""
    global _exit_thread  # noqa: PLW0603
    _exit_thread = threading.get_ident()
    with _lifecycle:
        running = list(_running)
    for thread in running:
        thread.begin_close(CLIENT_EXIT_SECONDS)
    deadline = time.monotonic() + CLIENT_EXIT_SECONDS + CLOSE_GRACE_SECONDS
    for thread in running:
        thread.wait_ended(max(deadline - time.monotonic(), 0.0))


atexit.register(_close_all)


# --- fork --------------------------------------------------------------------------


def _before_fork() -> None:
    _lifecycle.acquire()
    for thread in tuple(_running):
        thread.pause()


def _after_fork_in_parent() -> None:
    for thread in tuple(_running):
        thread.resume()
    _lifecycle.release()


def _after_fork_in_child() -> None:
    global _lifecycle  # noqa: PLW0603
    _lifecycle = threading.RLock()
    _inherited.extend(_running)
    _running.clear()
    for thread in _inherited:
        thread.in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )
