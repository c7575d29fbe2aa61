"""What the summary of `fastnode ping` says."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastnode.cli import ping
from fastnode.cli.ping import RoundTrips

SECONDS = st.floats(0, 100)


@given(st.lists(SECONDS, min_size=1))
def test_the_summary_is_that_of_all_round_trips(times: list[float]) -> None:
    trips = RoundTrips()
    for seconds in times:
        trips.add(seconds)
    assert trips.count == len(times)
    assert (trips.fastest, trips.slowest) == (min(times), max(times))
    assert trips.median == statistics.median(times)
    assert trips.mean == pytest.approx(statistics.fmean(times))


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ping, "LATEST", 3)
    trips = RoundTrips()
    for seconds in (9, 1, 2, 3):
        trips.add(seconds)
    assert len(trips._latest) == 3
    assert (trips.count, trips.slowest, trips.median) == (4, 9, 2)
