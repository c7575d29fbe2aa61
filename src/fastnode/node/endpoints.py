"""The endpoints of a node: functions by name."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from threading import get_ident
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, overload

from fastnode.dispatch.endpoint import EndpointRegistry
from fastnode.errors import ConfigError, Side
from fastnode.names import check_not_reserved

if TYPE_CHECKING:
    from fastnode.dispatch.message import Message
    from fastnode.dispatch.reply import Reply

__all__ = ["Endpoints", "elsewhere"]

#: What a handler returns: None is an empty reply.
Answer: TypeAlias = "bytes | bytearray | memoryview | Reply | None"
Handler = TypeVar("Handler", bound="Callable[[Message], Answer | Awaitable[Answer]]")
BatchHandler = TypeVar("BatchHandler", bound="Callable[[list[Message]], object]")
AnyHandler = TypeVar("AnyHandler", bound=Callable[..., Any])


class Endpoints:
    """What a `Node` handles, and the thread that it does so in."""

    def __init__(self, node: str) -> None:
        self._endpoints = EndpointRegistry(node)
        self._of = node
        self._thread: int | None = None

    @overload
    def handler(
        self,
        name: str,
        *,
        concurrency: int | None = None,
        max_waiting: int | None = None,
        batch: Literal[False] = False,
    ) -> Callable[[Handler], Handler]: ...

    @overload
    def handler(
        self, name: str, *, concurrency: int | None = None, batch: Literal[True]
    ) -> Callable[[BatchHandler], BatchHandler]: ...

    @overload
    def handler(
        self,
        name: str,
        *,
        concurrency: int | None = None,
        max_waiting: int | None = None,
        batch: bool,
    ) -> Callable[[AnyHandler], AnyHandler]: ...

    def handler(
        self,
        name: str,
        *,
        concurrency: int | None = None,
        max_waiting: int | None = None,
        batch: bool = False,
    ) -> Callable[[AnyHandler], AnyHandler]:
        """Decorator: the function handles what is sent to endpoint `name`.

        It is given a `Message`; what it returns (bytes, or None for an empty reply)
        is the reply of a call and is dropped for a one-way message. It may be
        ``async def``; a plain function runs where the message is received, so it
        must not block. What it raises is logged, and a caller gets `RemoteError`.

        Args:
            concurrency: how many of an ``async`` handler may be under way at once, over
                all links; None: no bound. What comes beyond waits in order, and counts
                against its sender's window.
            max_waiting: how many messages and calls may wait for `concurrency`, over
                all links. While so many wait, the caller of a further call, or the
                sender of a message with ``confirm=True``, gets `Busy` at once. Other
                messages wait nevertheless. 0: no call waits. None: no bound.
            batch: the function is given a `list` of messages, never an empty one: what
                arrived together on one link, in order; at most MAX_BATCH_MESSAGES, and
                no further one once they have MAX_BATCH_BYTES (`fastnode.limits`).
                Nothing waits for more to come. Of an ``async`` function the next batch
                of a link begins when the one before has finished. A message with
                ``confirm=True`` is confirmed when its batch was handed over; a call
                fails with `RemoteError`, which says so.

        Raises:
            ConfigError: the endpoint has a handler already, or its name begins with
                ``fastnode.``, which is reserved; `concurrency` is no number
                from 1 upward; `max_waiting` is no number from 0 upward, or was given
                without `concurrency` or with `batch`; there is no name
                (``@node.handler`` without parentheses); or this is another thread than
                the one that started the node.
        """
        if not isinstance(name, str):
            raise ConfigError(
                "node.handler takes the name of an endpoint, not a "
                f"{type(name).__name__}",
                side=Side.LOCAL,
                hint='write @node.handler("name")',
            )
        check_not_reserved(name)
        self._check_thread()

        def register(handler: AnyHandler) -> AnyHandler:
            self._endpoints.add(name, handler, concurrency, batch, max_waiting)
            return handler

        return register

    def default_handler(self, handler: Handler) -> Handler:
        """Decorator: the function handles all endpoints that have no handler.

        Raises:
            ConfigError: it cannot be called, or this is another thread.
        """
        self._check_thread()
        self._endpoints.set_fallback(handler)
        return handler

    def _belong_here(self) -> None:
        self._thread = get_ident()

    def _check_thread(self) -> None:
        if self._thread not in (None, get_ident()):
            raise elsewhere(self._of, "thread")


def elsewhere(node: str, what: str) -> ConfigError:
    """A node was used where it does not belong."""
    return ConfigError(
        f"node {node} belongs to another {what}",
        side=Side.LOCAL,
        hint="one node, one loop; from another thread: asyncio."
        "run_coroutine_threadsafe(node.call(...), loop).result()",
    )
