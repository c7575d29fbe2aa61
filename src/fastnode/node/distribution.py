"""How long something took, as a snapshot: counts in fixed buckets, and percentiles."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

__all__ = ["Distribution"]

#: The upper bound of a bucket in seconds, and how many times are in the bucket.
Bucket = tuple[float, int]


@dataclass(frozen=True, slots=True)
class Distribution:
    """How long something took.

    A percentile is the upper bound of the bucket that it falls into: at most 12.5 %
    above the true value. Times up to 1 microsecond are one bucket.

    Attributes:
        count: how many times were taken.
        seconds: their sum.
        p50: half of the times were not longer than this, seconds; None without times.
        p90, p99, p999: the same of 90 %, 99 % and 99.9 % of the times.
        buckets: the buckets that are not empty, in the order of their bounds. Each is
            its upper bound in seconds, and how many times are in this bucket alone. The
            last possible bound is 2147 s; its bucket has all longer times too.
    """

    count: int = 0
    seconds: float = 0.0
    p50: float | None = None
    p90: float | None = None
    p99: float | None = None
    p999: float | None = None
    buckets: tuple[Bucket, ...] = ()

    @classmethod
    def of(cls, buckets: Iterable[Bucket], seconds: float) -> Self:
        """Make a distribution.

        Args:
            buckets: each bound at most once, in any order.
            seconds: the sum of all times.
        """
        filled = tuple(sorted(bucket for bucket in buckets if bucket[1]))
        return cls(
            count=sum(count for _, count in filled),
            seconds=seconds,
            p50=percentile(filled, 500),
            p90=percentile(filled, 900),
            p99=percentile(filled, 990),
            p999=percentile(filled, 999),
            buckets=filled,
        )

    @classmethod
    def sum_of(cls, parts: Iterable[Distribution]) -> Self:
        """Return the distribution of the times of all parts together."""
        counts: dict[float, int] = {}
        seconds = 0.0
        for part in parts:
            seconds += part.seconds
            for bound, count in part.buckets:
                counts[bound] = counts.get(bound, 0) + count
        return cls.of(counts.items(), seconds)


def percentile(buckets: tuple[Bucket, ...], thousandths: int) -> float | None:
    """Return the least bound that this part of the times does not exceed.

    Args:
        buckets: in the order of their bounds, none of them empty.
        thousandths: the part, from 1 to 1000.
    """
    total = sum(count for _, count in buckets)
    seen = 0
    for bound, count in buckets:
        seen += count
        if seen * 1000 >= total * thousandths:
            return bound
    return None
