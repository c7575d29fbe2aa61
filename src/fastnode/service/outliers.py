"""Which instances are left out of the choice because they fail more than the others.

There are two signs (as in Envoy's outlier detection, and gRPC's A50): several failures
in a row, and a success rate that is far below the others'. An instance that is ejected
gets no calls for a time that doubles with each further ejection. At most half of the
instances are ejected at once: if more of them fail, the fault is not theirs, and the
rest could not carry the load.

This module has no clock and no loop.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastnode.limits import (
    EJECT_AFTER_FAILURES,
    EJECT_FIRST_SECONDS,
    EJECT_MOST_SECONDS,
    OUTLIER_DIFFERENCE,
    OUTLIER_INTERVAL_SECONDS,
    OUTLIER_LEAST_CALLS,
)

if TYPE_CHECKING:
    from fastnode.service.balancer import Candidate

__all__ = ["Outliers"]


@dataclass(slots=True)
class Record:
    """What is remembered of one instance.

    Attributes:
        until: when the ejection ends, seconds; 0: it is not ejected.
        ejections: how often in a row it was ejected.
        calls: its calls when the interval began.
        failures: its failures when the interval began.
    """

    until: float = 0.0
    ejections: int = 0
    calls: int = 0
    failures: int = 0


class Outliers:
    """Ejects instances, and takes them back.

    Args:
        now: seconds.
    """

    def __init__(self, now: float) -> None:
        self._records: dict[Hashable, Record] = {}
        self._interval_began = now
        #: How many ejections there have been.
        self.ejections = 0

    def is_ejected(self, candidate: Candidate, now: float) -> bool:
        """Whether an instance gets no calls now."""
        record = self._records.get(_key(candidate))
        return record is not None and record.until > now

    def next_return(self, now: float) -> float | None:
        """When the next ejection ends, seconds; None if no instance is ejected."""
        ends = [each.until for each in self._records.values() if each.until > now]
        return min(ends, default=None)

    def failed(
        self, candidate: Candidate, others: Iterable[Candidate], now: float
    ) -> bool:
        """An instance has failed. Return whether an instance was ejected.

        Args:
            candidate: the instance. Its counters have this failure already.
            others: all instances of the service, this one included.
            now: seconds.
        """
        everyone = list(others)
        if candidate.consecutive >= EJECT_AFTER_FAILURES and self._eject(
            candidate, everyone, now
        ):
            return True
        if now - self._interval_began < OUTLIER_INTERVAL_SECONDS:
            return False
        return self._compare(everyone, now)

    def forget(self, candidate: Candidate) -> None:
        """An instance is gone for good."""
        self._records.pop(_key(candidate), None)

    def _eject(
        self, candidate: Candidate, everyone: list[Candidate], now: float
    ) -> bool:
        record = self._records.setdefault(_key(candidate), Record())
        if record.until > now:
            return False
        ejected = sum(self.is_ejected(each, now) for each in everyone)
        if (ejected + 1) * 2 > len(everyone):
            return False
        quiet = record.until and now - record.until > 2 * self._seconds(record)
        record.ejections = 1 if quiet else record.ejections + 1
        record.until = now + self._seconds(record)
        candidate.consecutive = 0
        self.ejections += 1
        return True

    @staticmethod
    def _seconds(record: Record) -> float:
        """How long the current ejection of an instance takes, seconds."""
        return min(
            EJECT_FIRST_SECONDS * 2.0 ** min(record.ejections - 1, 30),
            EJECT_MOST_SECONDS,
        )

    def _compare(self, everyone: list[Candidate], now: float) -> bool:
        """Compare the success rates of the interval that ends now."""
        self._interval_began = now
        rates: list[tuple[float, Candidate]] = []
        for each in everyone:
            record = self._records.setdefault(_key(each), Record())
            calls = each.calls - record.calls
            failures = each.failures - record.failures
            record.calls, record.failures = each.calls, each.failures
            if calls >= OUTLIER_LEAST_CALLS:
                rates.append((1 - min(failures / calls, 1.0), each))
        found = False
        for rate, each in sorted(rates, key=lambda pair: pair[0]):
            others = [other for other, candidate in rates if candidate is not each]
            if not others or rate >= sum(others) / len(others) - OUTLIER_DIFFERENCE:
                break
            found |= self._eject(each, everyone, now)
        return found


def _key(candidate: Candidate) -> Hashable:
    return candidate.name, candidate.instance
