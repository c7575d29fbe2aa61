"""Callbacks that block the loop: handlers and hooks, by name."""

from __future__ import annotations

import logging
from collections.abc import Callable
from inspect import isawaitable
from time import monotonic
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from fastnode.dispatch.user_code import contain, settle
from fastnode.log_limit import LogLimit

if TYPE_CHECKING:
    from fastnode.dispatch.context import HandlerContext
    from fastnode.link.protocol import LinkProtocol

__all__ = ["SlowCallbacks"]

log = logging.getLogger("fastnode.node")

#: Names of endpoints in one line.
MOST_NAMED = 8

Given = ParamSpec("Given")
Result = TypeVar("Result")


class SlowCallbacks:
    """Calls hooks, in the node's own context, and warns of what blocks the loop.

    Args:
        seconds: from which on a callback is slow; None: none is.
        context: in which handlers run; hooks run there too.
        node: the name of the node, for the log.
    """

    def __init__(
        self, seconds: float | None, context: HandlerContext, node: str
    ) -> None:
        self._seconds = seconds
        self._context = context
        self._limit = LogLimit(log, node=node)

    def watch(self, protocol: LinkProtocol) -> None:
        """Time what the handlers of a link take."""
        if self._seconds is not None:
            protocol.watch_callbacks(self._seconds, self._handlers, self._handler)

    def call(
        self,
        what: str,
        function: Callable[Given, Result],
        *args: Given.args,
        **kwargs: Given.kwargs,
    ) -> Result:
        """Call a hook, and warn if it blocks the loop.

        Raises:
            HookFailed: whatever the hook raised, `BaseException` included.
        """
        began = monotonic()
        try:
            return self._context.run(function, *args, **kwargs)
        except BaseException as error:
            raise contain(error) from error
        finally:
            if self._seconds is not None:
                took = monotonic() - began
                if took >= self._seconds:
                    self._warn(what, f"the {what} hook", took)

    async def ask(
        self,
        what: str,
        function: Callable[Given, object],
        *args: Given.args,
        **kwargs: Given.kwargs,
    ) -> Any:
        """Call a hook that may be asynchronous, and wait for its answer.

        The caller bounds the time. A cancellation of the current task goes through.

        Raises:
            HookFailed: whatever the hook raised, `BaseException` included.
        """
        answer: Any = self.call(what, function, *args, **kwargs)
        return await settle(answer) if self.call(what, isawaitable, answer) else answer

    def _handlers(self, peer: str, took: float, names: list[str]) -> None:
        which = ", ".join(map(repr, names[:MOST_NAMED]))
        if len(names) == 1:
            text = f"the handler of {which}"
        else:
            text = f"handlers, of {which}{', ...' if len(names) > MOST_NAMED else ''}"
        self._warn(which, f"{text}, on what {peer} sent,", took, peer)

    def _handler(self, endpoint: str, took: float) -> None:
        self._warn(repr(endpoint), f"the handler of {endpoint!r}", took)

    def _warn(
        self, reason: str, what: str, took: float, peer: str | None = None
    ) -> None:
        self._limit.say(
            logging.WARNING,
            reason,
            "%s blocked the loop for %.2f s: await what takes so long, or use a thread",
            what,
            took,
            event="callback_slow",
            peer=peer,
            callback=what,
            seconds=round(took, 3),
        )
