"""Who wants to hear of links that come up and go down."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from fastnode.dispatch.user_code import HookFailed

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastnode.errors import FastnodeError
    from fastnode.link.link import Link
    from fastnode.node.slow import SlowCallbacks
    from fastnode.options import OnLinkDown, OnLinkUp

__all__ = ["LinkEvents"]

log = logging.getLogger("fastnode.node")


class LinkEvents:
    """Tells callbacks, in the order of the events and never in the middle of one."""

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
        """Tell `callback` of links that come up."""
        self._on_up.append(callback)

    def add_down(self, callback: OnLinkDown) -> None:
        """Tell `callback` of links that go down."""
        self._on_down.append(callback)

    def up(self, link: Link) -> None:
        """A link is up."""
        for callback in self._on_up:
            asyncio.get_running_loop().call_soon(
                self._tell, "on_link_up", callback, link
            )

    def down(self, link: Link, reason: FastnodeError) -> None:
        """It is not any more."""
        for callback in self._on_down:
            asyncio.get_running_loop().call_soon(
                self._tell, "on_link_down", callback, link, reason
            )

    def _tell(self, hook: str, callback: Callable[..., object], *what: Any) -> None:
        try:
            self._slow.call(hook, callback, *what)
        except HookFailed as failed:
            log.error(
                "a callback for links raised: %r", callback, exc_info=failed.error
            )
