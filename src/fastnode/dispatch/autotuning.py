"""The rule by which a window grows. It uses no socket, no loop and no clock."""

from __future__ import annotations

from fastnode.limits import GROWTH_LEAST_ROUND_TRIP_SECONDS

__all__ = ["next_window"]


def next_window(
    window: int, taken: int, elapsed: float, round_trip: float, ceiling: int
) -> int:
    """Return the size of a window after a grant.

    A sender that waits for its window sends about a whole window in each round trip.
    Other senders send less. So the window is doubled when more than half of it was used
    within one round trip. On a path with a short round trip the window stays. A larger
    window would not make the sender faster there, and would delay other messages.

    Args:
        window: current size of the window in bytes.
        taken: bytes that came since the last grant.
        elapsed: seconds since the last grant.
        round_trip: shortest measured round trip in seconds; 0 if it is unknown.
        ceiling: largest size in bytes to which a window grows.
    """
    if window >= ceiling or round_trip < GROWTH_LEAST_ROUND_TRIP_SECONDS:
        return window
    if taken * round_trip * 2 < window * elapsed:
        return window
    return min(2 * window, ceiling)
