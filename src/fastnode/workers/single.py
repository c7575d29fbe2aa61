"""`run_node`: a node as a program, in one process.

How it works. The program starts its node without accepting connections, calls `setup`,
and then accepts. So no peer meets a node without handlers. A signal stops the node in
order, see `fastnode.workers.stop_signals`. If the program itself stops the node, the
program ends too: it would look alive, and serve nobody. SIGHUP reads certificate files
again.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import threading
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from fastnode.errors import ConfigError, Side
from fastnode.limits import SHUTDOWN_TIMEOUT_SECONDS, WORKER_GRACE_SECONDS
from fastnode.loggers import fields
from fastnode.names import check_timeout
from fastnode.node.fork import handled_signals
from fastnode.node.node import Node
from fastnode.node.runner import run
from fastnode.workers.application import Application
from fastnode.workers.stop_signals import SIGNALLED, StopSignals, hard_seconds
from fastnode.workers.systemd import ServiceManager

if TYPE_CHECKING:
    from fastnode.options import NodeOptions
    from fastnode.workers.application import MakeOptions, Setup

__all__ = ["run_node"]

log = logging.getLogger("fastnode.workers")


def run_node(
    name: str,
    options: NodeOptions | MakeOptions | str,
    setup: Setup | str | None = None,
    *,
    shutdown_timeout: float | None = None,
) -> None:
    """Run a node in this process, until a signal or the program stops it.

    SIGTERM and SIGINT (Ctrl-C) stop the node in order: peers are told, calls under way
    are answered, and then the links are closed. A second signal cuts this short. SIGHUP
    reads the files again that `CertManager.watch` follows. If systemd has started the
    program with ``Type=notify``, systemd is told when the node is ready, reads its
    files, and stops; and the watchdog is served. Call it in the main thread. ::

        options = NodeOptions(cert_manager=...)

        async def setup(node: Node) -> None:
            @node.handler("price")
            def price(message: Message) -> bytes: ...

        if __name__ == "__main__":
            run_node("orders@10.0.0.5", options, setup)

    It returns when the node has stopped in order, also if the program itself has called
    `Node.stop`. So a program that ends here has the exit code 0. docs/deploy.md lists
    all exit codes.

    Args:
        name: ``name@host``.
        options: the `NodeOptions`; or a function without arguments, plain or ``async``,
            that returns them; or its name, ``"module:function"``.
        setup: a function, plain or ``async``, or its name, that is given the started
            `Node` and registers its handlers. The node may dial meanwhile. It takes
            connections, and is ready, once the function has returned. If it returns an
            ``async with`` context, that is entered before and left after the node has
            stopped.
        shutdown_timeout: seconds that the links have to end in order; None: that of the
            `NodeOptions`. What `setup` does at its end has 5 s more, and the rest of
            the program another 5 s. A program that needs longer is ended with the exit
            code 1.

    Raises:
        ConfigError: an argument cannot work, or this is not the main thread; or see
            `Node.start`.
        CertificateError: see `Node.start`.
        SystemExit: a second signal has cut the end short. Its code is 128 and the
            number of the signal.
        RuntimeError: a loop is running in this thread already.

        What `options` and `setup` raise, after the node was stopped.
    """
    application = Application(name, options, setup)
    application.check_here()
    if shutdown_timeout is not None and check_timeout(shutdown_timeout) > 86400:
        raise ConfigError(
            f"shutdown_timeout is {shutdown_timeout!r}",
            side=Side.LOCAL,
            hint="0 to 86400 s; None takes that of the NodeOptions",
        )
    if threading.current_thread() is not threading.main_thread():
        raise ConfigError(
            "run_node was called in a thread that gets no signals",
            side=Side.LOCAL,
            hint="call it in the main thread; in a program that has a loop of its own, "
            "await start_node(...)",
        )
    signals = StopSignals(hard_seconds(shutdown_timeout or SHUTDOWN_TIMEOUT_SECONDS))
    with signals.handled(), handled_signals(signal.SIGHUP):
        status = run(_run(application, shutdown_timeout, signals))
    if status:
        sys.exit(status)


async def _run(
    application: Application, shutdown_timeout: float | None, signals: StopSignals
) -> int:
    return await Program(application, shutdown_timeout, signals).run()


class Program:
    """One run of a node, from the start of the loop to its end."""

    def __init__(
        self,
        application: Application,
        shutdown_timeout: float | None,
        signals: StopSignals,
    ) -> None:
        self._application = application
        self._timeout = shutdown_timeout
        self._signals = signals
        self._loop = asyncio.get_running_loop()
        self._manager = ServiceManager()
        self._node: Node | None = None
        self._was_ready = self._stopping = False
        self._cleanup = AsyncExitStack()
        self._cleaning: asyncio.Timeout | None = None
        self._told_to_stop = asyncio.Event()
        self._told_to_reread = asyncio.Event()
        self._status = 0
        self._hurrying: asyncio.Task[object] | None = None

    async def run(self) -> int:
        """Run until a signal ends it; return the exit code."""
        self._signals.tell(self._stop_signal)
        if self._signals.count:
            return 0
        self._loop.add_signal_handler(signal.SIGHUP, self._told_to_reread.set)
        self._manager.start()
        starting = self._loop.create_task(self._start())
        told = self._loop.create_task(self._told_to_stop.wait())
        background: list[asyncio.Task[Any]] = [told]
        try:
            await asyncio.wait([starting, told], return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                await starting
                assert self._node is not None
                left = self._loop.create_task(self._node._wait_left())
                background += [
                    left, self._loop.create_task(self._reread_when_told())
                ]  # fmt: skip
                await asyncio.wait([left, told], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in background:
                task.cancel()
            await self._end(starting)
            self._manager.close()
        return self._status

    def _stop_signal(self, number: signal.Signals) -> None:
        name = self._application.name
        if not self._told_to_stop.is_set():
            log.info(
                "%s: %s stops",
                number.name,
                name,
                extra=fields("signal_received", node=name, signal=number.name),
            )
            self._told_to_stop.set()
            return
        log.warning(
            "%s: the end of %s is cut short",
            number.name,
            name,
            extra=fields("end_cut_short", node=name),
        )
        self._status = SIGNALLED + number
        if self._node is not None:
            self._hurrying = self._loop.create_task(self._node.stop(0.0))
        if self._cleaning is not None:
            self._cleaning.reschedule(self._loop.time())

    # --- the start -----------------------------------------------------------------

    async def _start(self) -> None:
        options = await self._application.finished_options()
        if self._timeout is None:
            self._timeout = options.shutdown_timeout
            self._signals.seconds = hard_seconds(self._timeout)
        self._node = node = Node(self._application.name, options)
        node.on_ready_change(self._ready_changed)
        await node.start(accept=False)
        await self._application.set_up(node, self._cleanup)
        node.accept()
        log.info("%s is up", node.name, extra=fields("node_up", node=node.name))

    def _ready_changed(self, ready: bool) -> None:
        text = f"{self._application.name} is {'ready' if ready else 'not ready'}"
        if ready and not self._was_ready:
            self._was_ready = True
            self._manager.ready(text)
        elif not self._stopping:
            self._manager.status(text)

    # --- SIGHUP --------------------------------------------------------------------

    async def _reread_when_told(self) -> None:
        """However many signals come meanwhile, the files are read once more."""
        while True:
            await self._told_to_reread.wait()
            self._told_to_reread.clear()
            self._manager.reloading("reads certificate files")
            # Here: it loads cryptography, which a node in plaintext does not need.
            from fastnode.certs.watch import reread_all  # noqa: PLC0415

            try:
                watches, taken = await asyncio.to_thread(reread_all)
            except Exception:
                log.exception(
                    "certificate files could not be read again",
                    extra=fields("files_not_read", node=self._application.name),
                )
                text = "certificate files could not be read"
            else:
                text = f"{taken} of {watches} certificate watches have taken new files"
                log.info(
                    "SIGHUP: %s",
                    text,
                    extra=fields("files_read", node=self._application.name),
                )
            self._manager.reloaded(text)

    # --- the end -------------------------------------------------------------------

    async def _end(self, starting: asyncio.Task[None]) -> None:
        """Stop the node in order; then do what `setup` has left to do."""
        timeout = WORKER_GRACE_SECONDS if self._timeout is None else self._timeout
        if not self._signals.count:
            # An error ends the program.
            self._signals.limit.start(hard_seconds(timeout))
        self._stopping = True
        self._manager.stopping(f"{self._application.name} stops")
        if not starting.done():
            await self._cancel(starting, timeout)
        if self._node is not None:
            await self._node.stop(0.0 if self._status else timeout)
        if self._hurrying is not None:
            await self._hurrying
        try:
            async with asyncio.timeout(WORKER_GRACE_SECONDS) as scope:
                self._cleaning = scope
                await self._cleanup.aclose()
        except TimeoutError:
            if not scope.expired():
                raise
            log.error(
                "what the setup of %s does at its end was cut short",
                self._application.name,
                extra=fields("end_cut_short", node=self._application.name),
            )
            self._status = self._status or 1

    async def _cancel(self, starting: asyncio.Task[None], timeout: float) -> None:
        starting.cancel()
        await asyncio.wait([starting], timeout=timeout)
        if not starting.done() or starting.cancelled():
            return
        error = starting.exception()
        if error is not None:
            log.error(
                "the start of %s failed when it was to stop",
                self._application.name,
                exc_info=error,
                extra=fields("start_failed", node=self._application.name, error=error),
            )
