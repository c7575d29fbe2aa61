"""What may be sent again, and the budget of retries."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastnode import (
    Busy,
    CallTimeout,
    ConfigError,
    FastnodeError,
    LinkClosed,
    LinkLost,
    MessageTooLarge,
    NoSuchEndpoint,
    RemoteError,
    SendQueueFull,
    Side,
)
from fastnode.service.retry import (
    Retry,
    RetryBudget,
    is_elsewhere,
    is_fault,
    may_have_begun,
)

CODES = Retry().codes
REMOTE, LOCAL = Side.REMOTE, Side.LOCAL


@pytest.mark.parametrize(
    ("error", "elsewhere", "idempotent", "fault"),
    [
        (Busy("full"), True, True, False),
        (SendQueueFull("full"), True, True, False),
        (LinkClosed("bye", side=REMOTE, begun="no"), True, True, False),
        (LinkClosed("bye", side=REMOTE), False, True, False),
        (LinkClosed("we stop", side=LOCAL, begun="no"), False, True, False),
        (LinkLost("reset", begun="no"), True, True, True),
        (LinkLost("reset"), False, True, True),
        (NoSuchEndpoint("what?"), False, False, False),
        (MessageTooLarge("big"), False, False, False),
        (CallTimeout("late"), False, True, True),
        (CallTimeout("late", begun="no"), False, True, False),
        (RemoteError("ValueError", "no"), False, False, True),
        (RemoteError("", "gone", code="unavailable"), False, True, True),
        (RemoteError("", "who?", code="not_found"), False, False, False),
        (ConfigError("no"), False, False, False),
    ],
    ids=lambda value: (
        f"{type(value).__name__}-{value.begun}-{value.code}"
        if isinstance(value, FastnodeError)
        else None
    ),
)
def test_what_an_error_allows(
    error: FastnodeError, elsewhere: bool, idempotent: bool, fault: bool
) -> None:
    assert is_elsewhere(error) is elsewhere
    assert may_have_begun(error, CODES) is idempotent
    assert is_fault(error) is fault


def test_other_exceptions_are_never_sent_again() -> None:
    assert not is_elsewhere(TypeError("payload"))
    assert not may_have_begun(KeyboardInterrupt(), CODES)


@pytest.mark.parametrize(
    "wrong",
    [
        {"not_begun": -1},
        {"not_begun": 1.5},
        {"idempotent": True},
        {"codes": "unavailable"},
        {"codes": {1}},
        {"budget": -0.1},
        {"budget": "much"},
        {"budget_per_second": float("nan")},
    ],
)
def test_bad_options_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        Retry(**wrong)
    assert next(iter(wrong)) in str(caught.value)
    assert caught.value.hint


@given(
    st.lists(st.tuples(st.integers(0, 50), st.floats(0, 3), st.integers(0, 30))),
    st.floats(0, 1),
    st.floats(0, 20),
)
def test_the_budget_bounds_retries(
    steps: list[tuple[int, float, int]], share: float, per_second: float
) -> None:
    """Whatever happens, there are no more retries than the share of the calls, plus
    those that time allows, plus the one second that it begins with."""
    budget = RetryBudget(share, per_second, 0.0)
    calls, now, taken = 0, 0.0, 0
    for more, seconds, wanted in steps:
        calls += more
        now += seconds
        taken += sum(budget.take(calls, now) for _ in range(wanted))
        assert taken <= calls * share + (now + 1) * per_second + 1e-6


def test_the_budget_saves_up_only_so_much() -> None:
    budget = RetryBudget(0.1, 10, 0.0)
    taken = 0
    while budget.take(0, 1e6):
        taken += 1
    assert taken == 110


def test_without_a_budget_there_are_no_retries() -> None:
    assert not RetryBudget(0, 0, 0.0).take(1000, 1000.0)
