"""What a program says about the health of its node, and what it can ask."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from fastnode import limits
from fastnode.names import check_flag
from fastnode.node.checks import CheckFunction, Checks
from fastnode.node.health import (
    HEALTH_ENDPOINT,
    HealthReport,
    NodeHealth,
    OnReadyChange,
    Phase,
    Readiness,
)

if TYPE_CHECKING:
    from fastnode.dispatch.endpoint import EndpointRegistry
    from fastnode.node.slow import SlowCallbacks

__all__ = ["Condition"]

ReadyCallback = TypeVar("ReadyCallback", bound=OnReadyChange)


class Condition:
    """The health of a `Node`.

    Args:
        name: the name of the node.
        instance: its instance id.
        endpoints: its endpoints. `HEALTH_ENDPOINT` is registered there.
        slow: calls checks and callbacks.
        check_place: raises `ConfigError` in another thread than that of the node, and
            in a process that was forked.
        ready: whether the node is ready as soon as it is up.
    """

    def __init__(
        self,
        name: str,
        instance: str,
        endpoints: EndpointRegistry,
        slow: SlowCallbacks,
        check_place: Callable[[], None],
        *,
        ready: bool,
    ) -> None:
        self._check_place = check_place
        self._readiness = Readiness(name, slow, wanted=ready)
        self._report = HealthReport(name, instance, lambda: self.health)
        self._checks = Checks(name, slow, endpoints.context, self._report.changed)
        endpoints.add_reserved(HEALTH_ENDPOINT, self._report.answer)

    @property
    def health(self) -> NodeHealth:
        """The state of the node, and the last results of its checks.

        A peer that has a link gets the same from the endpoint ``fastnode.health``, and
        an operator from the command ``fastnode health``.
        """
        return NodeHealth(self._readiness.state, self._checks.results())

    def set_ready(self, ready: bool) -> None:
        """Say whether the node takes work.

        While the node is not ready, it is announced nowhere, and its health says
        "starting". It goes on serving: peers that know where it is may call it.

        Args:
            ready: counts while the node is up. Before, it is what the node will be; a
                node that stops is not ready.

        Raises:
            ConfigError: `ready` is not True or False, or this is another thread than
                the one that started the node.
        """
        check_flag("ready", ready)
        self._check_place()
        self._report.changed()
        self._readiness.want(ready)

    def add_check(
        self,
        name: str,
        function: CheckFunction,
        *,
        interval: float = limits.CHECK_INTERVAL_SECONDS,
        timeout: float = limits.CHECK_TIMEOUT_SECONDS,
    ) -> None:
        """Add a check: a function that says whether something that the node needs
        works, such as a database.

        The check is run at once, or when the node starts, and then again and again
        until the node stops. `health` has the last result, and ``health.ok`` is False
        while a check fails. A check that fails does not change the state of the node:
        if a database is down that all instances use, all of them would be withdrawn at
        once. Call `set_ready` if that is what you want.

        Args:
            name: names the check in `health` and in log lines; peers see it.
            function: is called without arguments. It fails if it raises, or if it
                returns a false value that is not None. It may be ``async def``; a plain
                function must not block.
            interval: seconds from the end of one run to the next one.
            timeout: seconds for one run. An ``async`` function that takes longer fails,
                and is cancelled.

        Raises:
            ConfigError: the name is taken, empty, not printable, or longer than 64
                bytes; the function cannot be called; a number of seconds is not from
                0.01 to 86400; there are 32 checks; or this is another thread than the
                one that started the node.
        """
        self._check_place()
        self._checks.add(name, function, interval, timeout)

    def on_ready_change(self, callback: ReadyCallback) -> ReadyCallback:
        """Decorator: the function is called with True when the node becomes ready, and
        with False when it is not ready any more.

        A discovery uses this to announce the node, and to withdraw the announcement.
        The call comes before peers are told that the node stops. Callbacks are plain
        functions, called in the order in which they were added; what they raise is
        logged.

        Raises:
            ConfigError: `callback` is no plain function.
        """
        self._readiness.on_change(callback)
        return callback

    async def _wait_left(self) -> None:
        """Wait until the node begins to stop."""
        await self._readiness.left.wait()

    def _enter(self, phase: Phase) -> None:
        self._report.changed()
        self._readiness.enter(phase)
