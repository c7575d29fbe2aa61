"""The dials that are under way: one for a peer, however many want it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastnode.errors import ConfigError, LinkClosed, Side
from fastnode.names import NodeName
from fastnode.node.deadline import wait_cancelled
from fastnode.node.dial import Dial

if TYPE_CHECKING:
    from fastnode.link.link import Link
    from fastnode.node.context import NodeContext
    from fastnode.options import NetworkOptions
    from fastnode.routing import RouteTable

__all__ = ["Dials"]


@dataclass(slots=True)
class Pursuit:
    """A dial, and those who want the link.

    Attributes:
        waiters: how many there are; when the last one goes, the dial is given up.
    """

    task: asyncio.Task[Link]
    waiters: int = 0


class Dials:
    """Connects one node with others."""

    def __init__(
        self, context: NodeContext, routes: RouteTable, network: NetworkOptions
    ) -> None:
        self._context = context
        self._links = context.links
        self._routes = routes
        self._network = network
        self._pursuits: dict[str, Pursuit] = {}
        # Also of dials that were given up and have not ended yet.
        self._tasks: set[asyncio.Task[Link]] = set()
        self._closed = False

    def check(self, name: str) -> NodeName:
        """The name of a node that may be dialed.

        Raises:
            ConfigError: it is no node name, or this node's own.
            LinkClosed: this node stops.
        """
        parsed = NodeName.parse(name)
        if parsed == self._context.name:
            raise ConfigError(
                f"{name} is this node itself",
                side=Side.LOCAL,
                hint="call the handler directly",
            )
        if self._closed:
            raise self.stopped()
        return parsed

    def stopped(self) -> LinkClosed:
        """What is raised when this node stops."""
        return LinkClosed(
            f"node {self._context.name} was stopped",
            side=Side.LOCAL,
            hint="start a new node",
        )

    async def connect(self, name: str) -> Link:
        """See `Node.connect`."""
        parsed = self.check(name)
        pursuit = self._pursuits.get(name) or self._start(name, parsed)
        pursuit.waiters += 1
        try:
            link = await asyncio.shield(pursuit.task)
            # It may have been replaced before we came to run.
            return self._links.find(name) or link
        except asyncio.CancelledError:
            if pursuit.task.cancelled() and self._closed:
                raise self.stopped() from None
            raise
        finally:
            pursuit.waiters -= 1
            if not pursuit.waiters and not pursuit.task.done():
                self._forget(name, pursuit)
                pursuit.task.cancel()
            # Its error has this frame in its traceback.
            del pursuit

    def _start(self, name: str, parsed: NodeName) -> Pursuit:
        dial = Dial(
            self._context,
            parsed,
            routes=self._routes,
            resolver=self._network.resolver,
            insecure_skip_verify=self._network.insecure_skip_verify,
        )
        task = asyncio.get_running_loop().create_task(dial.run())
        pursuit = Pursuit(task)
        self._tasks.add(task)
        self._pursuits[name] = pursuit
        self._links.dials[name] = dial

        def over(task: asyncio.Task[Link]) -> None:
            self._tasks.discard(task)
            self._forget(name, pursuit)
            if not task.cancelled():
                task.exception()  # whoever waited has it; nobody may be left

        task.add_done_callback(over)
        return pursuit

    def _forget(self, name: str, pursuit: Pursuit) -> None:
        """Whoever connects from now on begins a dial of his own."""
        if self._pursuits.get(name) is pursuit:
            del self._pursuits[name]
            del self._links.dials[name]

    async def close(self) -> None:
        """Give up all dials, for good."""
        self._closed = True
        self.cancel()
        await wait_cancelled(str(self._context.name), tuple(self._tasks))

    def cancel(self) -> None:
        """Give up the dials that are under way."""
        for task in self._tasks:
            task.cancel()
