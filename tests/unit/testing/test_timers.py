"""The timers of `FakeClock` against a model: a list that is sorted by due time."""

from __future__ import annotations

import asyncio

import uvloop
from hypothesis import given
from hypothesis import strategies as st

from fastnode.testing import FakeClock

#: Whole seconds, so that sums are exact, and few, so that many timers are due together.
SECONDS = st.integers(0, 20)
#: (delay, whether the timer is cancelled, delay of a timer that it starts)
TIMERS = st.lists(st.tuples(SECONDS, st.booleans(), st.none() | SECONDS), max_size=12)
LOOPS = st.sampled_from([asyncio.new_event_loop, uvloop.new_event_loop])


@given(LOOPS, TIMERS, st.lists(SECONDS, max_size=6))
def test_timers_run_in_order_and_in_time(
    make_loop: object,
    timers: list[tuple[int, bool, int | None]],
    steps: list[int],
) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        with FakeClock(frozen=True) as clock:
            began = clock.time()
            ran: list[tuple[float, str]] = []

            def run(name: str, again: int | None = None) -> None:
                ran.append((clock.time() - began, name))
                if again is not None:
                    loop.call_later(again, run, f"{name} again")

            for number, (delay, cancelled, again) in enumerate(timers):
                timer = loop.call_later(delay, run, str(number), again)
                assert timer.when() == began + delay
                if cancelled:
                    timer.cancel()
            for step in steps:
                await clock.advance(step)
            end = clock.time() - began
            assert end == sum(steps)
            expected = due_until(end, timers) if steps else []
            assert [at for at, _ in ran] == sorted(at for at, _ in ran)
            assert sorted(ran) == sorted(expected)

    with asyncio.Runner(loop_factory=make_loop) as runner:  # type: ignore[arg-type]
        runner.run(scenario())


def due_until(
    end: float, timers: list[tuple[int, bool, int | None]]
) -> list[tuple[float, str]]:
    """What runs until then, and when."""
    found: list[tuple[float, str]] = []
    for number, (delay, cancelled, again) in enumerate(timers):
        if cancelled:
            continue
        found.append((delay, str(number)))
        if again is not None:
            found.append((delay + again, f"{number} again"))
    return [each for each in found if each[0] <= end]
