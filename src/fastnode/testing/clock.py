"""A clock that a test advances by hand, for code that waits for timers of its loop.

How it works. `FakeClock` replaces methods of the running event loop: ``time``,
``call_later`` and ``call_at``. All timers of asyncio are made with them:
``asyncio.sleep``, ``asyncio.timeout``, ``asyncio.wait_for``, and the timers of nodes.
While the clock is in use, it keeps the timers in a queue of its own, in the order in
which they are due. `FakeClock.advance` goes from one timer to the next. For each timer
it sets the time, lets the timer run, and then waits until no task has anything to do.
So a task that sleeps in a loop sleeps as often as it would in real time, and sees the
right time each time. To know when tasks rest, the clock also counts the calls of
``call_soon``.

The methods are replaced in the loop object, and not in a class of loops. So the clock
works on stock asyncio, on uvloop, and with the loop that a test framework has made. The
loop itself goes on with real time: the timers that it had before stay as they are.
"""

from __future__ import annotations

import asyncio
import heapq
import sys
from collections.abc import Callable
from contextvars import Context
from functools import partial
from itertools import count
from math import ceil
from types import TracebackType
from typing import Any, Final, Self

from fastnode import ConfigError
from fastnode.names import check_flag
from fastnode.testing.seconds import check_seconds

__all__ = ["FakeClock"]

#: How many turns of the loop have to schedule nothing before a test goes on. More than
#: one, because the loop looks at sockets in a turn of their own.
QUIET_TURNS: Final = 3
#: The turns of the loop after which a test goes on even if a task never rests.
MOST_TURNS: Final = 1000


class _Timer(asyncio.TimerHandle):
    """A timer of the fake clock, as ``call_later`` and ``call_at`` return it."""

    def __init__(
        self,
        when: float,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        loop: asyncio.AbstractEventLoop,
        context: Context | None,
    ) -> None:
        super().__init__(when, callback, args, loop, context)
        self._what = (callback, args, context)
        self._given: asyncio.Handle | None = None

    def give(self, schedule: Callable[..., asyncio.Handle], *delay: float) -> None:
        """Schedule the callback with a method of the loop."""
        callback, args, context = self._what
        self._given = schedule(*delay, callback, *args, context=context)

    def cancel(self) -> None:
        # Not that of the base class: it reports to the loop, which does not know us.
        asyncio.Handle.cancel(self)
        if self._given is not None:
            self._given.cancel()


class FakeClock:
    """The time of the running event loop, which a test advances.

    Example::

        with FakeClock() as clock:
            call = asyncio.create_task(link.call("slow", b"", timeout=30.0))
            await started.wait()  # the handler runs
            await clock.advance(30)
            with pytest.raises(CallTimeout):
                await call

    Only one can be in use on a loop. It covers what waits for timers of this loop, if
    the waiting began while the clock was in use. It does not change
    ``time.monotonic()``, ``time.time()`` or other processes, and so neither keepalive
    nor the lifetime of certificates. At its end the loop has its real time again.
    Timers that are left then wait for as long as they still had to.

    Args:
        frozen: let the time stand still between two calls of `advance`. The default is
            that real time passes too. Do not start, connect or stop nodes while the
            time stands still: they wait for short pauses now and then.
    """

    def __init__(self, *, frozen: bool = False) -> None:
        check_flag("frozen", frozen)
        self._frozen = frozen
        self._loop: asyncio.AbstractEventLoop | None = None
        self._offset = 0.0
        self._frozen_at = 0.0
        self._timers: list[tuple[float, int, _Timer]] = []
        self._numbers = count()
        self._scheduled = 0
        self._wake: asyncio.Handle | None = None
        self._wakes_at = 0.0
        self._real_time: Callable[[], float]
        self._real_call_soon: Callable[..., asyncio.Handle]
        self._real_call_at: Callable[..., asyncio.Handle]

    # --- in use, and not -----------------------------------------------------------

    def __enter__(self) -> Self:
        loop = asyncio.get_running_loop()
        if self._loop is not None or isinstance(
            getattr(loop.call_at, "__self__", None), FakeClock
        ):
            raise ConfigError(
                "this event loop, or this clock, has a fake clock in use",
                hint="use one FakeClock at a time",
            )
        self._real_time = loop.time
        self._real_call_soon = loop.call_soon
        # Of the two methods of asyncio, one calls the other; uvloop does the reverse.
        # Here it must be the one that makes a timer by itself.
        self._real_call_at = (
            loop.call_at
            if isinstance(loop, asyncio.BaseEventLoop)
            else partial(_call_at_with, loop.call_later, loop.time)
        )
        self._offset = 0.0
        # A whole number, so that sums of whole seconds are exact.
        self._frozen_at = float(ceil(loop.time()))
        try:
            vars(loop).update(
                time=self._time_of_loop,
                call_later=self._call_later,
                call_at=self._call_at,
                call_soon=self._call_soon,
            )
        except TypeError:
            raise ConfigError(
                f"{type(loop).__name__} cannot have a fake clock",
                hint="use a loop of asyncio or uvloop",
            ) from None
        self._loop = loop
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        loop, now = self._running(), self.time()
        for name in ("time", "call_later", "call_at", "call_soon"):
            del vars(loop)[name]
        self._loop = None
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None
        timers, self._timers = self._timers, []
        for when, _, timer in sorted(timers):
            if not timer.cancelled():
                timer.give(loop.call_later, max(when - now, 0.0))

    def _running(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            raise ConfigError(
                "the fake clock is not in use", hint="write: with FakeClock() as clock:"
            )
        return self._loop

    # --- what a test calls ---------------------------------------------------------

    def time(self) -> float:
        """Return the time of the event loop, in seconds, as ``loop.time()``."""
        if self._frozen:
            return self._frozen_at
        return self._real_time() + self._offset

    async def advance(self, seconds: float) -> None:
        """Let time pass at once, and run what is due meanwhile in the right order.

        It returns when no task has anything to do any more. It does not wait for what
        is on its way between nodes: await a reply or an event for that.

        Args:
            seconds: how much time passes, from 0.

        Raises:
            ConfigError: the clock is not in use, or `seconds` is not a number of
                seconds, or below 0, or infinite.
        """
        self._running()
        seconds = check_seconds("the time to advance by", seconds)
        await self._settle()
        end = self.time() + seconds
        while self._timers and self._timers[0][0] <= end:
            due = self._timers[0][0]
            self._go_to(due)
            self._run_due(max(due, self.time()))
            await self._settle()
        self._go_to(end)

    # --- time ----------------------------------------------------------------------

    def _time_of_loop(self) -> float:
        # The loop of asyncio compares its own timers with this, which are in real time.
        if sys._getframe(1).f_code.co_name == "_run_once":
            return self._real_time()
        return self.time()

    def _go_to(self, when: float) -> None:
        if self._frozen:
            self._frozen_at = max(when, self._frozen_at)
        else:
            self._offset += max(when - self.time(), 0.0)

    async def _settle(self) -> None:
        """Let the loop turn until nobody but this method schedules anything."""
        quiet = 0
        for _ in range(MOST_TURNS):
            before = self._scheduled
            # The loop has to turn for tasks to run; nothing is timed by this.
            await asyncio.sleep(0)
            quiet = quiet + 1 if self._scheduled <= before + 1 else 0
            if quiet == QUIET_TURNS:
                return

    # --- timers --------------------------------------------------------------------

    def _call_soon(
        self,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.Handle:
        self._scheduled += 1
        return self._real_call_soon(callback, *args, context=context)

    def _call_later(
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        return self._call_at(self.time() + delay, callback, *args, context=context)

    def _call_at(
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        timer = _Timer(when, callback, args, self._running(), context)
        # Timers that are due at the same time run in the order in which they were made.
        heapq.heappush(self._timers, (when, next(self._numbers), timer))
        self._plan()
        return timer

    def _run_due(self, now: float) -> None:
        while self._timers and self._timers[0][0] <= now:
            timer = heapq.heappop(self._timers)[2]
            if not timer.cancelled():
                timer.give(self._call_soon)
        self._plan()

    def _plan(self) -> None:
        """Make sure that the loop wakes up when the next timer is due in real time."""
        if self._frozen or not self._timers:
            return
        due = self._timers[0][0] - self._offset
        if self._wake is not None:
            if self._wakes_at <= due:
                return
            self._wake.cancel()
        self._wakes_at = due
        self._wake = self._real_call_at(due, self._woken)

    def _woken(self) -> None:
        self._wake = None
        self._run_due(self.time())


def _call_at_with(
    call_later: Callable[..., asyncio.Handle],
    time: Callable[[], float],
    when: float,
    callback: Callable[..., object],
) -> asyncio.Handle:
    return call_later(max(when - time(), 0.0), callback)
