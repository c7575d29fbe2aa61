"""Instances are ejected if they fail several times in a row, or much more often than
the others."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastnode.limits import (
    EJECT_AFTER_FAILURES,
    EJECT_FIRST_SECONDS,
    EJECT_MOST_SECONDS,
    OUTLIER_INTERVAL_SECONDS,
    OUTLIER_LEAST_CALLS,
)
from fastnode.service.balancer import Candidate
from fastnode.service.outliers import Outliers


def instances(count: int) -> list[Candidate]:
    return [Candidate(f"shop@10.0.0.{at}", f"{at:032x}") for at in range(count)]


def fail(
    outliers: Outliers, one: Candidate, among: list[Candidate], now: float
) -> bool:
    """A call of an instance fails."""
    one.calls += 1
    one.failures += 1
    one.consecutive += 1
    return outliers.failed(one, among, now)


def eject(
    outliers: Outliers, one: Candidate, among: list[Candidate], now: float
) -> None:
    for _ in range(EJECT_AFTER_FAILURES):
        fail(outliers, one, among, now)


def test_failures_in_a_row_eject() -> None:
    among = instances(3)
    outliers = Outliers(0.0)
    for _ in range(EJECT_AFTER_FAILURES - 1):
        assert not fail(outliers, among[0], among, 1.0)
    among[0].consecutive = 0  # a call has succeeded
    for _ in range(EJECT_AFTER_FAILURES - 1):
        assert not fail(outliers, among[0], among, 1.0)
    assert not outliers.is_ejected(among[0], 1.0)
    assert fail(outliers, among[0], among, 1.0)
    assert outliers.is_ejected(among[0], 1.0)
    assert not outliers.is_ejected(among[1], 1.0)
    assert outliers.next_return(1.0) == 1.0 + EJECT_FIRST_SECONDS
    assert not outliers.is_ejected(among[0], 1.0 + EJECT_FIRST_SECONDS)
    assert outliers.next_return(1.0 + EJECT_FIRST_SECONDS) is None
    assert outliers.ejections == 1


def test_ejections_take_longer_each_time() -> None:
    among = instances(2)
    outliers = Outliers(0.0)
    now, lengths = 0.0, []
    for _ in range(10):
        eject(outliers, among[0], among, now)
        end = outliers.next_return(now)
        assert end is not None
        lengths.append(end - now)
        now = end
    assert lengths[:3] == [
        EJECT_FIRST_SECONDS,
        2 * EJECT_FIRST_SECONDS,
        4 * EJECT_FIRST_SECONDS,
    ]
    assert lengths[-1] == EJECT_MOST_SECONDS
    # A long time without failures resets it.
    now += 10 * EJECT_MOST_SECONDS
    eject(outliers, among[0], among, now)
    assert outliers.next_return(now) == now + EJECT_FIRST_SECONDS


@given(st.integers(1, 9), st.lists(st.integers(0, 8), max_size=40))
def test_at_most_half_are_ejected_at_once(count: int, failing: list[int]) -> None:
    among = instances(count)
    outliers = Outliers(0.0)
    for at in failing:
        eject(outliers, among[at % count], among, 1.0)
        ejected = sum(outliers.is_ejected(each, 1.0) for each in among)
        assert ejected * 2 <= count


@pytest.mark.parametrize(("failures", "ejected"), [(2, False), (8, True)])
def test_a_rate_far_below_the_others_ejects(failures: int, ejected: bool) -> None:
    among = instances(4)
    outliers = Outliers(0.0)
    for each in among:
        each.calls = OUTLIER_LEAST_CALLS - 1
    for _ in range(failures):
        fail(outliers, among[2], among, 1.0)
        among[2].consecutive = 0  # and calls succeed between them
    for each in among:
        each.calls = OUTLIER_LEAST_CALLS
    fail(outliers, among[2], among, OUTLIER_INTERVAL_SECONDS)
    assert outliers.is_ejected(among[2], OUTLIER_INTERVAL_SECONDS) is ejected


def test_few_calls_say_nothing() -> None:
    among = instances(4)
    outliers = Outliers(0.0)
    for each in among[:3]:
        each.calls = 1000
    among[3].calls = OUTLIER_LEAST_CALLS - 2
    among[3].failures = among[3].calls
    fail(outliers, among[3], among, OUTLIER_INTERVAL_SECONDS)
    assert not outliers.is_ejected(among[3], OUTLIER_INTERVAL_SECONDS)


def test_when_all_fail_alike_nobody_is_an_outlier() -> None:
    among = instances(4)
    outliers = Outliers(0.0)
    for each in among:
        each.calls = 100
        each.failures = 60
    fail(outliers, among[0], among, OUTLIER_INTERVAL_SECONDS)
    assert not any(
        outliers.is_ejected(each, OUTLIER_INTERVAL_SECONDS) for each in among
    )


def test_an_instance_that_is_gone_is_forgotten() -> None:
    among = instances(2)
    outliers = Outliers(0.0)
    eject(outliers, among[0], among, 1.0)
    outliers.forget(among[0])
    assert outliers.next_return(1.0) is None
