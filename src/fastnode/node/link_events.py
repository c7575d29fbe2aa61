"""Telling callbacks of the program which links come and go."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fastnode.dispatch.user_code import HookFailed
from fastnode.loggers import fields
from fastnode.options import check_plain

if TYPE_CHECKING:
    from fastnode.errors import FastnodeError
    from fastnode.link.link import Link
    from fastnode.node.slow import SlowCallbacks
    from fastnode.options import OnLinkDown, OnLinkUp

__all__ = ["LinkEvents"]

log = logging.getLogger("fastnode.node")


class LinkEvents:
    """Calls `on_link_up` and `on_link_down`, in the order of the events.

    Callbacks run in a later turn of the loop, so none runs while a link changes state.
    """

    def __init__(
        self,
        slow: SlowCallbacks,
        on_up: OnLinkUp | None = None,
        on_down: OnLinkDown | None = None,
    ) -> None:
        self._slow = slow
        self._on_up = [on_up] if on_up is not None else []
        self._on_down = [on_down] if on_down is not None else []

    def add_up(self, callback: OnLinkUp) -> None:
        """Call `callback` with each link that comes up.

        Raises:
            ConfigError: it is no plain function.
        """
        check_plain("the callback of on_link_up", callback)
        self._on_up.append(callback)

    def add_down(self, callback: OnLinkDown) -> None:
        """Call `callback` with each link that goes down, and the reason.

        Raises:
            ConfigError: it is no plain function.
        """
        check_plain("the callback of on_link_down", callback)
        self._on_down.append(callback)

    def up(self, link: Link) -> None:
        """Report a link that has come up."""
        for callback in self._on_up:
            asyncio.get_running_loop().call_soon(
                self._tell, "on_link_up", callback, link
            )

    def down(self, link: Link, reason: FastnodeError) -> None:
        """Report a link that has gone down."""
        for callback in self._on_down:
            asyncio.get_running_loop().call_soon(
                self._tell, "on_link_down", callback, link, reason
            )

    def _tell(self, hook: str, callback: Callable[..., object], *what: Any) -> None:
        try:
            self._slow.call(hook, callback, *what)
        except HookFailed as failed:
            log.error(
                "a callback for links raised: %r",
                callback,
                exc_info=failed.error,
                extra=fields("hook_failed", hook=hook, error=failed.error),
            )
