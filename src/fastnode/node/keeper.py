"""Keeping a link with a peer: dial again, after a pause, whenever there is none."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from fastnode.backoff import Backoff
from fastnode.dispatch.user_code import end_program, is_cancelled, name_of, text_of
from fastnode.errors import (
    CloseReason,
    FastnodeError,
    HandshakeError,
    HandshakeTimeout,
    LinkClosed,
    NoRoute,
    OutOfResources,
    Side,
)
from fastnode.loggers import fields

if TYPE_CHECKING:
    from fastnode.link.link import Link
    from fastnode.node.links import LinkRegistry

__all__ = ["Keeper"]

log = logging.getLogger("fastnode.node")

#: Refusals that may go away without a change of settings.
_PASSING = frozenset(
    {
        CloseReason.SHUTDOWN,
        CloseReason.DUPLICATE_LINK,
        CloseReason.HANDSHAKE_TIMEOUT,
        CloseReason.TOO_MANY_LINKS,
        CloseReason.INTERNAL_ERROR,
    }
)


class Keeper:
    """Keeps a link with a peer. Made by `Node.keep_connected`.

    Args:
        node: the name of this node, for the log.

    Attributes:
        peer: the node name of the peer.
    """

    def __init__(
        self,
        peer: str,
        links: LinkRegistry,
        connect: Callable[[str], Awaitable[Link]],
        *,
        backoff: Backoff | None = None,
        node: str | None = None,
    ) -> None:
        self.peer = peer
        self._node = node
        self._links = links
        self._connect = connect
        self._backoff = backoff if backoff is not None else Backoff()
        self._error: FastnodeError | None = None
        self._closing = False
        loop = asyncio.get_running_loop()
        self._clock = loop.time
        self._ended: asyncio.Future[None] = loop.create_future()
        self._task = loop.create_task(self._run())
        self._task.add_done_callback(self._over)

    @property
    def link(self) -> Link | None:
        """The link with the peer; None while there is none."""
        return self._links.find(self.peer)

    @property
    def error(self) -> FastnodeError | None:
        """The error of the last attempt, while there is no link. None if there is a
        link, and before the first attempt has failed."""
        return self._error if self.link is None else None

    @property
    def closed(self) -> bool:
        """Whether the keeper has stopped dialing."""
        # `cancelling()` is no help, because a timeout inside the task cancels it too.
        return self._closing or self._task.done()

    async def connected(self) -> Link:
        """Wait for a link with the peer, and return it.

        Raises:
            LinkClosed: `close` was called, or the node stopped.
        """
        while not self.closed:
            link = self.link
            if link is not None:
                return link
            change = self._links.change(self.peer)
            await asyncio.wait(
                [change, self._ended], return_when=asyncio.FIRST_COMPLETED
            )
        raise LinkClosed(
            f"the link with {self.peer} is not kept any more",
            peer=self.peer,
            side=Side.LOCAL,
            begun="no",
        )

    def close(self) -> Awaitable[None]:
        """Stop dialing. A link that is up stays.

        Takes effect at once. Await the result to wait until the task has ended.
        """
        self._closing = True
        self._task.cancel()
        return asyncio.shield(self._ended)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        how = "closed" if self.closed else "up" if self.link else "down"
        return f"<Keeper of {self.peer}, {how}>"

    # --- dialing -----------------------------------------------------------------

    def on_end(self, callback: Callable[[Self], object]) -> None:
        """Call a function when the task has ended."""
        self._ended.add_done_callback(lambda _: callback(self))

    def _over(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error(
                "internal error: %r ended",
                self,
                exc_info=error,
                extra=fields(
                    "keeper_ended", node=self._node, peer=self.peer, error=error
                ),
            )
        elif not self._closing:
            log.error(
                "%r ended: its task was cancelled by something else",
                self,
                extra=fields("keeper_ended", node=self._node, peer=self.peer),
            )
        if not self._ended.done():
            self._ended.set_result(None)

    async def _run(self) -> None:
        while True:
            if await self._dial():
                began = self._clock()
                while self.link is not None:
                    # A direct `await` could cancel it for all other callers.
                    await asyncio.wait([self._links.change(self.peer)])
                self._backoff.was_up(self._clock() - began)
            # If the peer dials meanwhile, the pause ends early.
            pause = self._backoff.pause(getattr(self._error, "retry_after", 0.0))
            await self._links.wait_for(self.peer, pause)

    async def _dial(self) -> bool:
        """Dial once; return whether there is a link."""
        try:
            await self._connect(self.peer)
        except FastnodeError as error:
            if needs_somebody(error):
                self._backoff.give_time()
            news = type(error) is not type(self._error)
            self._error = error.with_traceback(None)
            log.log(
                logging.WARNING if news else logging.DEBUG,
                "no link with %s; trying again within %g s: %s",
                self.peer,
                self._backoff.ceiling,
                error,
                extra=fields(
                    "no_link_kept", node=self._node, peer=self.peer, error=error
                ),
            )
            return False
        except BaseException as error:
            if is_cancelled(error) or isinstance(error, GeneratorExit):
                raise  # `close` was called
            # This error is unexpected, but the keeper has to try again.
            self._backoff.give_time()
            self._error = HandshakeError(
                f"connecting with {self.peer} failed: {name_of(error)}: "
                f"{text_of(error)}",
                peer=self.peer,
                side=Side.LOCAL,
                hint="see the traceback in the log; a later attempt follows",
            )
            log.error(
                "connecting with %s failed",
                self.peer,
                exc_info=error,
                extra=fields(
                    "internal_error", node=self._node, peer=self.peer, error=error
                ),
            )
            end_program(error)
            return False
        self._error = None
        return True


def needs_somebody(error: FastnodeError) -> bool:
    """Return whether every further dial fails until a setting is changed."""
    if isinstance(error, HandshakeError):
        return (
            not isinstance(error, HandshakeTimeout)
            and error.told
            and error.close_reason not in _PASSING
        )
    return not isinstance(error, (NoRoute, LinkClosed, OutOfResources))
