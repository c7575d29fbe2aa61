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
        limit.say(logging.WARNING, "why", "number %d", number, event="tested")
    limit.say(logging.WARNING, "other", "something else", event="tested")
    clock.now += 1.0
    limit.say(logging.WARNING, "why", "number %d", 5, event="tested")
    clock.now += 1.0
    limit.say(logging.WARNING, "why", "number %d", 6, event="tested")
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
        limit.say(logging.DEBUG, "why", "quiet", event="tested")
    limit.say(logging.WARNING, "why", "loud", event="tested")
    assert caplog.messages == ["loud"]


def test_reasons_are_forgotten(clock: Clock, limit: LogLimit) -> None:
    for number in range(10 * MOST_REASONS):
        limit.say(logging.WARNING, str(number), "x", event="tested")
        clock.now += 0.1
    assert len(limit._seen) <= MOST_REASONS + 10


def test_the_record_has_fields_and_the_place_of_the_caller(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    limit = LogLimit(logging.getLogger("fastnode.test"), clock, node="a@h")
    for _ in range(3):
        limit.say(logging.WARNING, "why", "text", event="tested", peer="b@h")
        clock.now += 0.5
    first, second = caplog.records
    assert (vars(first)["event"], vars(first)["node"]) == ("tested", "a@h")
    assert vars(first)["peer"] == "b@h"
    assert first.funcName == "test_the_record_has_fields_and_the_place_of_the_caller"
    assert "left_out" not in vars(first)
    assert vars(second)["left_out"] == 1


def test_the_error_of_a_traceback_is_in_the_fields(
    limit: LogLimit, caplog: pytest.LogCaptureFixture
) -> None:
    error = ValueError("no")
    limit.say(logging.ERROR, "why", "text", event="tested", traceback=error)
    (record,) = caplog.records
    assert vars(record)["reason"] == "ValueError"
    assert record.exc_info is not None
    assert record.exc_info[1] is error
