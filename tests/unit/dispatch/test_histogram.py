"""Histograms of times: every time is in the right bucket."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastnode.dispatch.histogram import BOUNDS, Histogram


def test_bounds_grow_by_an_eighth_at_most() -> None:
    assert BOUNDS[0] == 1e-6
    assert 2147 < BOUNDS[-1] < 2148
    for below, bound in pairwise(BOUNDS):
        assert below < bound <= below * 1.125 * (1 + 1e-12)


@given(st.floats(min_value=0.0, max_value=2147.0))
def test_a_time_is_in_the_bucket_above_it(seconds: float) -> None:
    histogram = Histogram()
    histogram.add(seconds)
    ((bound, count),) = histogram.buckets()
    assert count == 1
    assert bound in BOUNDS
    # The product with 1e6 is rounded.
    assert seconds <= bound * (1 + 1e-15)
    below = BOUNDS[BOUNDS.index(bound) - 1] if bound > 1e-6 else 0.0
    assert seconds >= below * (1 - 1e-15)
    assert histogram.seconds == (seconds if seconds > 0 else 0.0)


@pytest.mark.parametrize(
    ("seconds", "bucket"),
    [(-1.0, 0), (math.nan, 0), (0.0, 0), (3000.0, -1), (1e12, -1), (math.inf, -1)],
)
def test_strange_times(seconds: float, bucket: int) -> None:
    histogram = Histogram()
    histogram.add(seconds)
    assert histogram.buckets() == ((BOUNDS[bucket], 1),)
    assert not math.isnan(histogram.seconds)


@given(st.lists(st.floats(min_value=0.0, max_value=3000.0)))
def test_no_time_is_lost(times: list[float]) -> None:
    histogram = Histogram()
    for seconds in times:
        histogram.add(seconds)
    assert sum(count for _, count in histogram.buckets()) == len(times)
    bounds = [bound for bound, _ in histogram.buckets()]
    assert bounds == sorted(set(bounds))
    assert histogram.seconds == pytest.approx(sum(times))
