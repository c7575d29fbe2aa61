"""Announcer: enters a node into a discovery while the node is ready.

How it works. A task enters the context that ``discovery.announce`` returns when the
node becomes ready, and leaves the context when the node is not ready any more. Both
happen in the same task, because a context may hold a timeout or a group of tasks. What
a discovery raises never stops the node: it is logged, and the node is announced again
after a pause that grows. A discovery that does not come to an end is cancelled after a
time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, TypeAlias

from fastnode.backoff import Backoff
from fastnode.dispatch.user_code import HookFailed, settle
from fastnode.limits import ANNOUNCE_SECONDS, CANCEL_SECONDS, WITHDRAW_SECONDS
from fastnode.log_limit import LogLimit
from fastnode.loggers import fields

if TYPE_CHECKING:
    from fastnode.discovery.protocol import AnnouncedNode
    from fastnode.dispatch.context import HandlerContext

__all__ = ["Announcer"]

#: `AnnouncingDiscovery.announce`.
Announce: TypeAlias = (
    "Callable[[AnnouncedNode, Sequence[str]], AbstractAsyncContextManager[None]]"
)

log = logging.getLogger("fastnode.node")


class Announcer:
    """Announces one node while it is ready.

    Args:
        node: what is announced.
        services: the services that the node belongs to.
        announce: the method of the discovery.
        context: in which the discovery is called, as hooks are.
        backoff: pauses after failures; None: as those of `Node.keep_connected`.
    """

    def __init__(
        self,
        node: AnnouncedNode,
        services: Sequence[str],
        announce: Announce,
        context: HandlerContext,
        *,
        backoff: Backoff | None = None,
    ) -> None:
        self._node = node
        self._services = tuple(services)
        self._enter = announce
        self._context = context
        self._backoff = backoff if backoff is not None else Backoff()
        # By its type, because its `repr` is code of the user.
        self._where = type(getattr(announce, "__self__", announce)).__name__
        self._limit = LogLimit(log, node=node.name)
        self._ready = False
        self._closing = False
        self._announced = False
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def announced(self) -> bool:
        """Whether the discovery has the node at present."""
        return self._announced

    def ready_changed(self, ready: bool) -> None:
        """Take the news that the node is ready, or is not ready any more."""
        self._ready = ready
        self._news.set()
        if ready and self._task is None and not self._closing:
            self._task = self._start(self._run())

    async def close(self, timeout: float) -> None:
        """Withdraw the node for good, and wait until that is done.

        Args:
            timeout: seconds, after which the discovery is cancelled. It has
                WITHDRAW_SECONDS at most.
        """
        self._closing = True
        self.ready_changed(False)
        task = self._task
        if task is None:
            return
        if self._announced:
            await asyncio.wait([task], timeout=min(timeout, WITHDRAW_SECONDS))
            if not task.done():
                log.warning(
                    "%s was not withdrawn by %s in time",
                    self._node.name,
                    self._where,
                    extra=fields("not_announced", node=self._node.name),
                )
        # Otherwise it waits, or it announces.
        task.cancel()
        await asyncio.wait([task], timeout=CANCEL_SECONDS)
        if not task.done():
            log.error(
                "%s: %s goes on announcing though it was cancelled",
                self._node.name,
                self._where,
                extra=fields("discovery_goes_on", node=self._node.name),
            )

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        # Not in the context of a handler, which may be the caller.
        loop = asyncio.get_running_loop()
        task: asyncio.Task[None] = self._context.run(loop.create_task, coroutine)
        return task

    async def _run(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            await self._until(ready=True)
            began = clock()
            try:
                await settle(self._announce())
            except HookFailed as failed:
                self._failed(failed)
            finally:
                self._announced = False
            if self._closing:
                return
            self._backoff.was_up(clock() - began)
            if self._ready:  # it was not withdrawn, but failed
                await self._pause(self._backoff.pause())

    async def _announce(self) -> None:
        """Announce the node until it is not ready any more."""
        clock = asyncio.get_running_loop().time
        name = self._node.name
        async with (
            asyncio.timeout(ANNOUNCE_SECONDS) as limit,
            self._enter(self._node, self._services),
        ):
            limit.reschedule(None)
            self._announced = True
            log.info(
                "%s is announced by %s",
                name,
                self._where,
                extra=fields("announced", node=name),
            )
            await self._until(ready=False)
            limit.reschedule(clock() + WITHDRAW_SECONDS)
        log.info("%s is withdrawn", name, extra=fields("withdrawn", node=name))

    async def _until(self, *, ready: bool) -> None:
        while self._ready is not ready:
            self._news.clear()
            await self._news.wait()

    async def _pause(self, seconds: float) -> None:
        """Wait for a time, or until the node is not ready any more."""
        try:
            async with asyncio.timeout(seconds):
                await self._until(ready=False)
        except TimeoutError:
            return

    def _failed(self, failed: HookFailed) -> None:
        what = "withdrawn" if self._announced else "announced"
        self._limit.say(
            logging.WARNING,
            "announce",
            "%s cannot be %s by %s: %s",
            self._node.name,
            what,
            self._where,
            failed,
            event="not_announced",
            error=failed.error,
        )
