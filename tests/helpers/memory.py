"""Links in memory: a loop that turns when it is told to, a transport without a socket.

Everything that happens is caused by the test and happens at once, so that millions of
links can be tried, and a failure can be repeated.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import Context
from typing import TYPE_CHECKING, Any, TypeVar

from fastnode import AcceptorOptions, CertManager, NetworkOptions, Node, NodeOptions
from fastnode.buffers.pool import live_slabs
from fastnode.link.clock import tell_time
from fastnode.link.machine import State
from fastnode.link.transport_protocol import TransportProtocol
from fastnode.node.acceptor import Acceptor
from fastnode.tls.choice import make_engine
from fastnode.tls.plaintext import PlaintextEngine
from helpers.nodes import B

if TYPE_CHECKING:
    from fastnode.link.protocol import LinkProtocol
    from fastnode.peer import Peer
    from fastnode.tls.engine import TlsEngine

__all__ = [
    "EagerLoop",
    "MemoryEnd",
    "MemoryNode",
    "MemoryTransport",
    "TurnLoop",
    "running_loop",
]

T = TypeVar("T")
#: A loop that has not come to rest after so many callbacks never will.
MOST_CALLBACKS = 100_000


class TurnLoop:
    """Runs callbacks in `turn`, timers in `advance`; there is no other clock.

    Has of an event loop what links need, and nothing that waits. While it counts as
    running (`running_loop`), its time is that of keepalives too.

    Attributes:
        complaints: what was told to the exception handler.
    """

    def __init__(self) -> None:
        self._ready: deque[asyncio.Handle] = deque()
        self._timers: list[asyncio.TimerHandle] = []
        self._now = 1000.0
        self._self: Any = self  # where an `asyncio.AbstractEventLoop` is asked for
        self.complaints: list[dict[str, Any]] = []

    def time(self) -> float:
        return self._now

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.complaints.append(context)

    def call_soon(
        self,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self._self, context)
        self._ready.append(handle)
        return handle

    def call_later(
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self._self, context)
        heapq.heappush(self._timers, handle)
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """What `asyncio.TimerHandle` tells its loop."""

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self._self)

    def create_task(
        self, coro: Any, *, name: str | None = None, context: Context | None = None
    ) -> asyncio.Task[Any]:
        return asyncio.Task(coro, loop=self._self, name=name, context=context)

    def turn(self) -> None:
        """Run what is ready, until nothing is."""
        for _ in range(MOST_CALLBACKS):
            if not self._ready:
                return
            handle = self._ready.popleft()
            if not handle.cancelled():
                handle._run()
        raise AssertionError("the loop does not come to rest")

    def advance(self, seconds: float) -> None:
        """Let time pass, and run the timers that are due in their order."""
        until = self._now + seconds
        self.turn()
        while self._timers and self._timers[0].when() <= until:
            timer = heapq.heappop(self._timers)
            self._at(max(self._now, timer.when()))
            if not timer.cancelled():
                timer._run()
            self.turn()
        self._at(until)

    def stand_still(self, seconds: float) -> None:
        """Let time pass in which this process does not run, or something blocks it:
        timers that are due then run late, in the next `advance`."""
        self._at(self._now + seconds)

    def _at(self, now: float) -> None:
        self._now = now
        tell_time(now)

    def finish(self, coro: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine that waits for no one else."""
        task = self.create_task(coro)
        self.turn()
        assert task.done(), f"{coro} waits"
        return task.result()  # type: ignore[no-any-return]


class EagerLoop(TurnLoop):
    """Runs a task up to its first wait when it is made, as
    `asyncio.eager_task_factory` does, which Python 3.11 does not have."""

    def create_task(
        self, coro: Any, *, name: str | None = None, context: Context | None = None
    ) -> asyncio.Task[Any]:
        task = super().create_task(coro, name=name, context=context)
        first_step = self._ready.pop()
        outer = asyncio.current_task(self._self)
        if outer is not None:
            asyncio.tasks._leave_task(self._self, outer)
        try:
            first_step._run()
        finally:
            if outer is not None:
                asyncio.tasks._enter_task(self._self, outer)
        return task


@contextmanager
def running_loop(make: type[TurnLoop] = TurnLoop) -> Iterator[TurnLoop]:
    """A loop that counts as running in here."""
    loop = make()
    before = asyncio._get_running_loop()
    asyncio._set_running_loop(loop._self)
    tell_time(loop.time())
    try:
        yield loop
    finally:
        tell_time(-1.0)
        asyncio._set_running_loop(before)


class MemoryTransport:
    """Keeps what is written.

    Attributes:
        written: what was written and not taken by `take`.
        eof: no more will be written.
        aborted: the connection was cut from this side.
    """

    def __init__(self) -> None:
        self.written = bytearray()
        self.eof = False
        self.aborted = False
        self.protocol: Any = None

    def get_extra_info(self, name: str) -> Any:
        return ("192.0.2.1", 15000) if name == "peername" else None

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def set_write_buffer_limits(self, high: int) -> None:
        """There is no limit here."""

    def write(self, data: bytes) -> None:
        assert not self.eof, "written behind the end"
        self.written += data

    def take(self) -> bytes:
        data = bytes(self.written)
        self.written.clear()
        return data

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.eof = True

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True


class _Dialing(Acceptor):
    """The owner of links that we dialed: anybody may answer."""

    async def admit(self, protocol: LinkProtocol) -> Peer:
        return await self._context.admission.judge(
            protocol, verified=not self._context.plaintext, expected=None
        )


class _Errors(logging.Handler):
    """What the package logs as an error: nothing that a peer does may cause any."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(self.format(record))


class MemoryNode:
    """A node that is not started, and connections of it that are driven by bytes.

    Attributes:
        node: has the endpoints that the caller gives it.
        ends: its connections.
    """

    def __init__(
        self,
        loop: TurnLoop,
        *,
        name: str = B,
        manager: CertManager | None = None,
        **network: Any,
    ) -> None:
        self._slabs = live_slabs()
        self.loop = loop
        self.manager = manager
        self._errors = _Errors()
        logging.getLogger("fastnode").addHandler(self._errors)
        # Its time stands still while the loop turns: polling would never end.
        network.setdefault("busy_poll", 0)
        options = NetworkOptions(plaintext=manager is None, acceptors=(), **network)
        self.node = Node(name, NodeOptions(cert_manager=manager, network=options))
        self.context = self.node._context
        accepts = AcceptorOptions(port=0)
        self.acceptor = Acceptor(self.context, accepts, insecure_skip_verify=False)
        self.dialing = _Dialing(self.context, accepts, insecure_skip_verify=False)
        self.ends: list[MemoryEnd] = []

    def end(self, *, dialer: bool = False) -> MemoryEnd:
        """A further connection."""
        made = MemoryEnd(self, dialer=dialer)
        self.ends.append(made)
        return made

    def take_errors(self) -> list[str]:
        """What was logged as an error so far; `finish` does not mind it any more."""
        texts, self._errors.texts = self._errors.texts, []
        return texts

    def finish(self) -> None:
        """The peers hang up; nothing may be left, and nothing may have gone wrong."""
        for end in self.ends:
            end.hang_up()
        logging.getLogger("fastnode").removeHandler(self._errors)
        assert not self._errors.texts, self._errors.texts
        assert not self.loop.complaints, self.loop.complaints
        tasks = asyncio.all_tasks(self.loop._self)
        assert not tasks, tasks
        assert not self.node.links
        assert not list(self.context.links), "links are left"
        assert self.context.pool.outstanding == 0, "slabs are left"
        assert live_slabs() == self._slabs, "slabs are left"


class MemoryEnd:
    """One end of a connection.

    Attributes:
        protocol: the `LinkProtocol` under test.
        transport: what it has written.
    """

    def __init__(self, of: MemoryNode, *, dialer: bool) -> None:
        self._loop = of.loop
        self.transport = MemoryTransport()
        owner = of.dialing if dialer else of.acceptor
        engine: TlsEngine
        if of.manager is None:
            engine = PlaintextEngine()
        elif dialer:
            engine = make_engine(
                of.manager.client_context(), server_side=False, server_name="127.0.0.1"
            )
        else:
            engine = make_engine(of.manager.server_context(), server_side=True)
        self.protocol: Any = of.context.protocol(engine, owner, dialer=dialer)

    @property
    def state(self) -> State:
        return self.protocol.state  # type: ignore[no-any-return]

    @property
    def error(self) -> Exception | None:
        """Why it ended; None while it has not."""
        return self.protocol.error  # type: ignore[no-any-return]

    @property
    def callbacks(self) -> Any:
        """What the transport calls now."""
        return self.transport.protocol

    def connect(self) -> None:
        """The TCP connection is there."""
        self.transport.set_protocol(TransportProtocol(self.protocol.connection))
        self.callbacks.connection_made(self.transport)
        self._loop.turn()

    def feed(self, data: bytes, piece: int = 0) -> None:
        """Bytes arrive, in pieces; the loop turns after each."""
        at = 0
        while at < len(data) and not self.transport.aborted:
            view = self.callbacks.get_buffer(-1)
            part = data[at : at + min(piece or len(data), len(view))]
            view[: len(part)] = part
            self.callbacks.buffer_updated(len(part))
            self._loop.turn()
            at += len(part)

    def hang_up(self) -> None:
        """The peer sends no more, and then the connection is gone."""
        if not self.transport.aborted:
            self.callbacks.eof_received()
            self._loop.turn()
        assert self.state is State.CLOSED
        assert self.error is not None
        self.transport.aborted = True
        self.callbacks.connection_lost(None)
        self.protocol.cancel_handlers()
        self._loop.turn()
        assert self.protocol.gone.done()
        assert self.protocol.link is None or self.protocol.link.closed
