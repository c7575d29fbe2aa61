"""Calling: what a node sends to another node by its name."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

from fastnode.errors import CallTimeout, LinkClosed
from fastnode.link.link import Link
from fastnode.names import check_timeout
from fastnode.node.deadline import (
    connect_with_deadline,
    inherited,
    timed_out,
    with_deadline,
)
from fastnode.node.sending import CLOSED_TRIES, Sending, untouched

if TYPE_CHECKING:
    from fastnode.dispatch.reply import Reply
    from fastnode.node.links import LinkRegistry
    from fastnode.options import Priority
    from fastnode.sending.outbox import QueueBudget

__all__ = ["Calling"]

Result = TypeVar("Result")


class Calling:
    """Messages, calls and requests of a `Node` to nodes that are given by name.

    Args:
        links: of the node.
        budget: of all send queues of the node.
        connect: `Node.connect`.
    """

    def __init__(
        self,
        links: LinkRegistry,
        budget: QueueBudget,
        connect: Callable[[str], Coroutine[Any, Any, Link]],
    ) -> None:
        self._links = links
        self._sending = Sending(links, budget)
        self._dialed_link = connect

    async def send(
        self,
        name: str,
        endpoint: str,
        payload: bytes | bytearray | memoryview,
        *,
        confirm: bool = False,
        priority: Priority | None = None,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
        inherit_deadline: bool = True,
    ) -> None:
        """Send a one-way message; connects first where needed, and waits while the
        link, or all links together, are over their high-water mark or have no room
        for it. Those who wait at the same time go on in the order of their calls.

        Args:
            confirm: wait until the other node has handed it to its handler; see
                `Link.send_confirmed`.
            priority: see `Link.send`.
            timeout: seconds for all of it, or None. When it is over, a message without
                `confirm` may be queued.
            metadata: see `Link.send`.
            inherit_deadline: with `confirm`, see `Link.call`. A message without
                `confirm` has no deadline and inherits none.

        Raises:
            CallTimeout: not done in time.
            LinkLost: the link was lost meanwhile, while it waited for room too.
            As `connect`, `Link.send` (but `SendQueueFull`), `Link.drain` and
            `Link.send_confirmed`.
        """
        if confirm and inherit_deadline:
            timeout = inherited(timeout, name)
        deadline = None
        if confirm and timeout is not None:
            deadline = asyncio.get_running_loop().time() + timeout
        sending = self._sending.send(
            self._dialed_link,
            name,
            endpoint,
            payload,
            confirm=confirm,
            priority=priority,
            metadata=metadata,
            deadline=deadline,
        )
        if timeout is None:
            await sending
        else:
            what = "confirmed" if confirm else "taken"
            text = f"a message to {endpoint!r} of {name} was not {what}"
            await with_deadline(timeout, sending, text, name)

    async def call(
        self,
        name: str,
        endpoint: str,
        payload: bytes | bytearray | memoryview,
        *,
        timeout: float | None = None,
        priority: Priority | None = None,
        metadata: Mapping[str, str] | None = None,
        inherit_deadline: bool = True,
    ) -> bytes:
        """Call an endpoint of another node and return its reply.

        Args:
            timeout: seconds for connecting and for the reply together; None waits
                as long as the link lasts.
            priority: see `Link.send`.
            metadata: see `Link.send`.
            inherit_deadline: see `Link.call`.

        Raises:
            As `connect` and `Link.call`.
        """
        return await self._ask(
            Link.call,
            name,
            endpoint,
            payload,
            timeout,
            priority=priority,
            metadata=metadata,
            inherit_deadline=inherit_deadline,
        )

    async def request(
        self,
        name: str,
        endpoint: str,
        payload: bytes | bytearray | memoryview,
        *,
        timeout: float | None = None,
        priority: Priority | None = None,
        metadata: Mapping[str, str] | None = None,
        inherit_deadline: bool = True,
    ) -> Reply:
        """Call an endpoint of another node, and return its reply with all that belongs
        to it: payload, metadata, peer, attempts.

        Args:
            As for `call`.

        Raises:
            As `call`.
        """
        return await self._ask(
            Link.request,
            name,
            endpoint,
            payload,
            timeout,
            priority=priority,
            metadata=metadata,
            inherit_deadline=inherit_deadline,
        )

    async def _ask(
        self,
        ask: Callable[..., Awaitable[Result]],
        name: str,
        endpoint: str,
        payload: bytes | bytearray | memoryview,
        timeout: float | None,
        *,
        inherit_deadline: bool,
        **options: Any,
    ) -> Result:
        """Call an endpoint over the link with its node, or a new link.

        Args:
            ask: the method of `Link` that makes the call.
            timeout: as for `call`.
            inherit_deadline: as for `call`.
            options: further arguments for `ask`.
        """
        left, tries = timeout, CLOSED_TRIES
        began = monotonic()
        while True:
            link = self._links.find(name)
            if link is None:
                if inherit_deadline:
                    left = inherited(left, name)
                link, left = await connect_with_deadline(left, self._dialed_link, name)
            try:
                return await ask(
                    link,
                    endpoint,
                    payload,
                    timeout=left,
                    inherit_deadline=inherit_deadline,
                    **options,
                )
            except CallTimeout as error:
                raise timed_out(error, endpoint, timeout, left) from error.__cause__
            except LinkClosed as error:
                # The call has crossed the goodbye of the peer.
                tries -= 1
                if not tries or not untouched(error):
                    raise
            if timeout is not None:
                left = max(began + check_timeout(timeout) - monotonic(), 0.0)
