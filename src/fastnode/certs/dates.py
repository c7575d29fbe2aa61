"""A moment as people say it: the date, and how far away it is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

__all__ = ["day_and_distance"]


def day_and_distance(moment: datetime, now: datetime | None = None) -> str:
    """For example ``2026-01-02, 3 days ago`` or ``2026-01-02, in 5 hours``.

    Args:
        moment: aware.
        now: aware; None: this moment.
    """
    now = now or datetime.now(UTC)
    distance = abs(moment - now)
    for unit, size in (
        ("day", timedelta(days=1)),
        ("hour", timedelta(hours=1)),
        ("minute", timedelta(minutes=1)),
        ("second", timedelta(seconds=1)),
    ):
        count = distance // size
        if count or unit == "second":
            break
    text = f"{count} {unit}{'' if count == 1 else 's'}"
    when = f"{text} ago" if moment <= now else f"in {text}"
    return f"{moment.astimezone(UTC):%Y-%m-%d}, {when}"
