"""At most one line per reason and second, and none of them lost from the count."""

from __future__ import annotations

import logging

import pytest

from fastnode.log_limit import MOST_REASONS, LogLimit


class Clock:
    """Stands still until it is told otherwise."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limit(clock: Clock) -> LogLimit:
    return LogLimit(logging.getLogger("fastnode.test"), clock)


def test_the_next_line_says_how_many_were_left_out(
    clock: Clock, limit: LogLimit, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(5):
        limit.say(logging.WARNING, "why", "number %d", number)
    limit.say(logging.WARNING, "other", "something else")
    clock.now += 1.0
    limit.say(logging.WARNING, "why", "number %d", 5)
    clock.now += 1.0
    limit.say(logging.WARNING, "why", "number %d", 6)
    assert caplog.messages == [
        "number 0",
        "something else",
        "number 5 (and 4 more like it before)",
        "number 6",
    ]


def test_what_is_not_logged_is_not_counted(
    clock: Clock, limit: LogLimit, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        limit.say(logging.DEBUG, "why", "quiet")
    limit.say(logging.WARNING, "why", "loud")
    assert caplog.messages == ["loud"]


def test_reasons_are_forgotten(clock: Clock, limit: LogLimit) -> None:
    for number in range(10 * MOST_REASONS):
        limit.say(logging.WARNING, str(number), "x")
        clock.now += 0.1
    assert len(limit._seen) <= MOST_REASONS + 10
