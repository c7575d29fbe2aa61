"""Checks of a program: functions that say whether what a node depends on works.

Each check is run again and again, in a task of its own, while its node runs. A run has
a time limit. A run that goes on after that, because it ignores its cancellation, counts
as failed, and the check is not run again before that run has ended.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeAlias

from fastnode.dispatch.user_code import HookFailed, name_of, text_of
from fastnode.errors import ConfigError, Side
from fastnode.limits import MAX_CHECK_NAME_BYTES, MAX_CHECKS
from fastnode.loggers import fields
from fastnode.names import check_timeout
from fastnode.node.health import CheckResult

if TYPE_CHECKING:
    from fastnode.dispatch.context import HandlerContext
    from fastnode.node.slow import SlowCallbacks

__all__ = ["CheckFunction", "Checks"]

log = logging.getLogger("fastnode.node")

#: Passes if it returns True or None. Fails if it returns False, or raises.
CheckFunction: TypeAlias = "Callable[[], object | Awaitable[object]]"

#: Between two runs of a check, and for one run. Seconds.
LEAST_SECONDS = 0.01
MOST_SECONDS = 86400.0
#: Of the type of an exception. Peers are told it.
REASON_CHARACTERS = 64


class Checks:
    """The checks of one node.

    Args:
        node: the name of the node, for the log.
        slow: calls the functions, and warns of those that block the loop.
        context: in which the functions run.
        on_result: called when a result has changed.
    """

    def __init__(
        self,
        node: str,
        slow: SlowCallbacks,
        context: HandlerContext,
        on_result: Callable[[], None],
    ) -> None:
        self._node = node
        self._slow = slow
        self._context = context
        self._on_result = on_result
        self._checks: dict[str, Check] = {}
        self._runs = False

    def add(
        self, name: str, function: CheckFunction, interval: float, timeout: float
    ) -> None:
        """Add a check, and run it from now on if the node runs.

        Raises:
            ConfigError: see `Node.add_check`.
        """
        self._check_name(name)
        if not callable(function):
            raise ConfigError(
                f"the check {name!r} is {function!r}, which cannot be called",
                side=Side.LOCAL,
                hint="a check is a function without arguments, plain or async",
            )
        for what, value in (("interval", interval), ("timeout", timeout)):
            if not LEAST_SECONDS <= check_timeout(value) <= MOST_SECONDS:
                raise ConfigError(
                    f"the {what} of the check {name!r} is {value!r}",
                    side=Side.LOCAL,
                    hint=f"seconds, from {LEAST_SECONDS:g} to {MOST_SECONDS:g}",
                )
        check = Check(name, function, float(interval), float(timeout), self)
        self._checks[name] = check
        self._on_result()
        if self._runs:
            self._begin(check)

    def _check_name(self, name: object) -> None:
        if (
            not isinstance(name, str)
            or not name.isprintable()
            or not 0 < len(name.encode()) <= MAX_CHECK_NAME_BYTES
        ):
            raise ConfigError(
                f"the name of a check is {name!r}",
                side=Side.LOCAL,
                hint=f"a printable str of 1 to {MAX_CHECK_NAME_BYTES} bytes",
            )
        if name in self._checks:
            raise ConfigError(
                f"node {self._node} has a check {name!r} already",
                side=Side.LOCAL,
                hint="choose another name",
            )
        if len(self._checks) >= MAX_CHECKS:
            raise ConfigError(
                f"node {self._node} has {MAX_CHECKS} checks, the maximum",
                side=Side.LOCAL,
                hint="let one check look at several things",
            )

    def results(self) -> dict[str, CheckResult]:
        """Return the last result of each check, by its name."""
        return {name: check.result for name, check in self._checks.items()}

    def start(self) -> None:
        """Run all checks from now on. A loop runs."""
        self._runs = True
        for check in self._checks.values():
            self._begin(check)

    def _begin(self, check: Check) -> None:
        # The check must not run in the caller's context, which may be a handler's.
        loop = asyncio.get_running_loop()
        check.task = self._context.run(loop.create_task, check.repeat())

    def stop(self) -> list[asyncio.Task[Any]]:
        """Run no check any more; return the tasks that were cancelled.

        The results stay.
        """
        self._runs = False
        tasks = [
            task
            for check in self._checks.values()
            for task in (check.task, check.run)
            if task is not None and not task.done()
        ]
        for task in tasks:
            task.cancel()
        return tasks

    # --- for a `Check` -------------------------------------------------------------

    async def ask(self, check: Check) -> CheckResult:
        """Run a check once, without a time limit."""
        began = monotonic()
        what = f"check {check.name!r}"
        try:
            value = await self._slow.ask(what, check.function)
            passed = value is None or self._slow.call(what, bool, value)
        except HookFailed as failed:
            reason = name_of(failed.error)[:REASON_CHARACTERS]
            text = text_of(failed.error)
            error = f"{reason}: {text}" if text else reason
            return CheckResult(False, reason, error, monotonic() - began)
        if passed:
            return CheckResult(True, seconds=monotonic() - began)
        reason = "it returned a false value"
        return CheckResult(False, reason, reason, monotonic() - began)

    def took(self, check: Check, result: CheckResult) -> None:
        """Take the result of a run."""
        before, check.result = check.result, result
        if result.ok and before.ok is False:
            log.info(
                "%s: the check %r passes again",
                self._node,
                check.name,
                extra=fields("check_passes", node=self._node, check=check.name),
            )
        elif not result.ok and before.ok is not False:
            log.warning(
                "%s: the check %r fails: %s",
                self._node,
                check.name,
                result.error,
                extra=fields("check_failed", node=self._node, check=check.name),
            )
        self._on_result()


class Check:
    """One check, and its last result.

    Attributes:
        name: the name of the check.
        function: what the program has given.
        result: of the last run.
        task: runs the check again and again.
        run: runs it once.
    """

    def __init__(
        self,
        name: str,
        function: CheckFunction,
        interval: float,
        timeout: float,
        checks: Checks,
    ) -> None:
        self.name = name
        self.function = function
        self.result = CheckResult()
        self.task: asyncio.Task[None] | None = None
        self.run: asyncio.Task[CheckResult] | None = None
        self._interval = interval
        self._timeout = timeout
        self._checks = checks

    async def repeat(self) -> None:
        """Run the check until this task is cancelled."""
        while True:
            await self._run_once()
            await asyncio.sleep(self._interval)

    async def _run_once(self) -> None:
        self.run = run = asyncio.ensure_future(self._checks.ask(self))
        await asyncio.wait([run], timeout=self._timeout)
        if not run.done():
            reason = f"no answer within {self._timeout:g} s"
            self._checks.took(self, CheckResult(False, reason, reason, self._timeout))
            run.cancel()
            await asyncio.wait([run])
        elif run.cancelled():
            reason = "it was cancelled"
            self._checks.took(self, CheckResult(False, reason, reason))
        else:
            self._checks.took(self, run.result())
