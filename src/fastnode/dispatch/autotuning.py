"""When a window grows. Pure: no socket, no loop, no clock."""

from __future__ import annotations

from fastnode.limits import GROWTH_LEAST_ROUND_TRIP_SECONDS

__all__ = ["next_window"]


def next_window(
    window: int, taken: int, elapsed: float, round_trip: float, ceiling: int
) -> int:
    """The window after a grant.

    A sender that is held up by its window sends about a whole one in each round trip,
    one that is not sends less. So it is doubled when more than half of it was taken in
    the time of a round trip. On a short way it stays: there the bytes that are under
    way are what others wait for, and not what the sender lacks.

    Args:
        window: bytes, as it is.
        taken: bytes that came since the last grant.
        elapsed: seconds since then.
        round_trip: the shortest seen, seconds; 0: unknown.
        ceiling: bytes that it never exceeds by growing.
    """
    if window >= ceiling or round_trip < GROWTH_LEAST_ROUND_TRIP_SECONDS:
        return window
    if taken * round_trip * 2 < window * elapsed:
        return window
    return min(2 * window, ceiling)
