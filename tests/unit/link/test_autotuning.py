"""When a window grows."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fastnode.dispatch.autotuning import next_window
from fastnode.limits import GROWTH_LEAST_ROUND_TRIP_SECONDS, KIB, MIB


def test_it_grows_where_the_window_holds_the_sender_up() -> None:
    # Half a window in half a round trip of 50 ms: it was waited for.
    assert next_window(128 * KIB, 64 * KIB, 0.025, 0.05, 16 * MIB) == 256 * KIB
    # In four round trips: it was not.
    assert next_window(128 * KIB, 64 * KIB, 0.2, 0.05, 16 * MIB) == 128 * KIB
    # On a short way it is never too small.
    assert next_window(128 * KIB, 64 * KIB, 0.0001, 0.0002, 16 * MIB) == 128 * KIB
    # Nobody knows how long the way is.
    assert next_window(128 * KIB, 64 * KIB, 0.025, 0.0, 16 * MIB) == 128 * KIB


def test_it_stops_at_the_product_of_bandwidth_and_delay() -> None:
    window, rate, round_trip = 128 * KIB, 10e6, 0.05
    for _ in range(20):
        taken = window // 2
        # As fast as the window lets it, or the way.
        elapsed = max(taken / rate, taken / (window / round_trip))
        window = next_window(window, taken, elapsed, round_trip, 16 * MIB)
    assert rate * round_trip <= window <= 4 * rate * round_trip


@given(
    st.integers(1, 1 << 30),
    st.integers(0, 1 << 30),
    st.floats(0, 1e6),
    st.floats(0, 1e3),
    st.integers(1, 1 << 30),
)
def test_bounds(
    window: int, taken: int, elapsed: float, round_trip: float, ceiling: int
) -> None:
    after = next_window(window, taken, elapsed, round_trip, ceiling)
    assert window <= after <= max(window, min(2 * window, ceiling))
    if round_trip < GROWTH_LEAST_ROUND_TRIP_SECONDS:
        assert after == window
