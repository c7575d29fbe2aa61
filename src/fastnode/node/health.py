"""Health: what a node says about itself, to its own program and to its peers.

How it works. A node starts, is up, leaves and is stopped: it goes through these phases
once. While it is up, the program may say that the node is not ready. The phase and this
word together are the state. `Readiness` has the state and tells others of each change.

The state says nothing about checks, and checks do not change the state: if a database
is down that all instances use, all checks fail at once, and a service without any
instance helps nobody. A program that wants this calls `Node.set_ready`.

Every peer that has a link may ask for the health of a node: it calls the endpoint
`HEALTH_ENDPOINT`. The answer is made when something has changed, and not for each call.
It has no texts of exceptions, because these may contain secrets.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from fastnode.dispatch.user_code import HookFailed
from fastnode.loggers import fields
from fastnode.options import check_plain

if TYPE_CHECKING:
    from fastnode.dispatch.message import Message
    from fastnode.node.slow import SlowCallbacks

__all__ = [
    "HEALTH_ENDPOINT",
    "CheckResult",
    "HealthReport",
    "HealthState",
    "NodeHealth",
    "Readiness",
]

log = logging.getLogger("fastnode.node")

#: The reserved endpoint that answers with the health of its node.
HEALTH_ENDPOINT: Final = "fastnode.health"

HealthState: TypeAlias = Literal["starting", "ready", "leaving", "stopped"]
Phase: TypeAlias = Literal["starting", "up", "leaving", "stopped"]
#: Hears of a node that becomes ready (True), or that is not ready any more (False).
OnReadyChange: TypeAlias = "Callable[[bool], object]"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of the last run of a check.

    Attributes:
        ok: whether the check passed; None: it has not been run yet.
        reason: why it did not pass, in a few words without details: the type of an
            exception, for example. None if it passed. Peers are told this.
        error: the same with all details, such as the text of the exception. Peers are
            not told this.
        seconds: how long the run took; None: it has not been run yet.
    """

    ok: bool | None = None
    reason: str | None = None
    error: str | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class NodeHealth:
    """The health of a node at one moment.

    Attributes:
        state: "starting": the node is not up yet, or the program has said that it is
            not ready; "ready": it takes work; "leaving": it stops, and serves peers
            until they have turned away; "stopped": it has ended.
        checks: the last result of each check, by its name.
    """

    state: HealthState
    checks: Mapping[str, CheckResult] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether the node is ready and all its checks have passed."""
        return self.state == "ready" and all(each.ok for each in self.checks.values())


class Readiness:
    """The phase of a node, and whether its program calls it ready.

    Args:
        name: the name of the node, for the log.
        wanted: whether the node is ready as soon as it is up.
        slow: calls callbacks.

    Attributes:
        left: set when the node begins to stop, whoever has stopped it.
    """

    def __init__(self, name: str, slow: SlowCallbacks, *, wanted: bool) -> None:
        self._name = name
        self._slow = slow
        self._wanted = wanted
        self._phase: Phase = "starting"
        self._told = False
        self._telling = False
        self.left = asyncio.Event()
        self._callbacks: list[OnReadyChange] = []

    @property
    def state(self) -> HealthState:
        """See `NodeHealth`."""
        if self._phase == "up":
            return "ready" if self._wanted else "starting"
        return self._phase

    @property
    def ready(self) -> bool:
        """Whether the state is "ready"."""
        return self.state == "ready"

    def want(self, ready: bool) -> None:
        """Take the word of the program. It counts while the node is up."""
        self._wanted = ready
        self._tell(said=True)

    def enter(self, phase: Phase) -> None:
        """Go on to the next phase."""
        self._phase = phase
        if phase == "leaving":
            self.left.set()
        self._tell(said=False)

    def on_change(self, callback: OnReadyChange) -> None:
        """Call `callback` with each change of `ready`.

        Raises:
            ConfigError: it is no plain function.
        """
        check_plain("the callback of on_ready_change", callback)
        self._callbacks.append(callback)

    def _tell(self, *, said: bool) -> None:
        """Tell of a change.

        Args:
            said: the program has said so. Otherwise other lines of the log say why.
        """
        # A callback may change the state again. Then everyone hears of the first change
        # before anyone hears of the second one.
        if self._telling:
            return
        self._telling = True
        try:
            while self._told != self.ready:
                self._told = self.ready
                log.log(
                    logging.INFO if said else logging.DEBUG,
                    "%s is %s",
                    self._name,
                    "ready" if self._told else "not ready",
                    extra=fields("ready_changed", node=self._name, ready=self._told),
                )
                for callback in tuple(self._callbacks):
                    self._call(callback, self._told)
        finally:
            self._telling = False

    def _call(self, callback: OnReadyChange, ready: bool) -> None:
        try:
            self._slow.call("on_ready_change", callback, ready)
        except HookFailed as failed:
            log.error(
                "a callback of on_ready_change raised: %r",
                callback,
                exc_info=failed.error,
                extra=fields("hook_failed", hook="on_ready_change", error=failed.error),
            )


class HealthReport:
    """Answers calls of `HEALTH_ENDPOINT`.

    Args:
        node: the name of the node.
        instance: its instance id.
        snapshot: returns the health of the node.
    """

    def __init__(
        self, node: str, instance: str, snapshot: Callable[[], NodeHealth]
    ) -> None:
        self._node = node
        self._instance = instance
        self._snapshot = snapshot
        self._answer: bytes | None = None

    def changed(self) -> None:
        """Make a new answer for the next call."""
        self._answer = None

    def answer(self, message: Message) -> bytes:
        """Return the health as JSON; docs/deploy.md describes it."""
        del message
        if self._answer is None:
            self._answer = self._encode(self._snapshot())
        return self._answer

    def _encode(self, health: NodeHealth) -> bytes:
        checks = {
            name: {"ok": each.ok, "reason": each.reason, "seconds": each.seconds}
            for name, each in health.checks.items()
        }
        told = {
            "node": self._node,
            "instance": self._instance,
            "state": health.state,
            "ok": health.ok,
            "checks": checks,
        }
        return json.dumps(told).encode()
