"""GroupTotals: what all workers of a group did, also those that have ended.

How it works. Each worker reports its `NodeStats` from time to time, and once more when
its node has stopped. The group keeps the last report of each worker. When a worker has
ended, the totals of its last report are added to what all ended workers did. So no
total goes back, whatever happens to a worker. What a worker did between its last report
and a sudden end is not known.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterator
from itertools import count
from typing import Any, Final

from fastnode.limits import MAX_COUNTED_ENDPOINTS
from fastnode.node.stats import NodeStats, decoded, encoded, summed
from fastnode.sending.codes import OTHER

__all__ = ["GroupTotals", "Report", "parts_of"]

#: A report is sent in parts of so many characters. The system takes a message of this
#: size from a Unix socket as a whole, or not at all.
PART_CHARACTERS: Final = 8000

_numbers = count(1)


class GroupTotals:
    """Adds what the workers of a group report."""

    def __init__(self) -> None:
        self._ended = NodeStats()
        self._last: dict[Hashable, NodeStats] = {}
        # Endpoints that have entries of their own, in the order in which workers
        # reported them. The values mean nothing.
        self._names: dict[str, None] = {}

    def report(self, worker: Hashable, stats: NodeStats) -> None:
        """Take the latest stats of a worker, which has not ended."""
        for name in stats.endpoints.keys() - {OTHER}:
            if len(self._names) < MAX_COUNTED_ENDPOINTS:
                self._names.setdefault(name)
        self._last[worker] = stats

    def end(self, worker: Hashable) -> None:
        """Keep the totals of a worker that has ended. It reports nothing more."""
        last = self._last.pop(worker, None)
        if last is not None:
            parts = [self._ended, last.without_gauges()]
            self._ended = summed(parts, self._names)

    def shown(self) -> NodeStats:
        """Return the stats of all workers together."""
        return summed([self._ended, *self._last.values()], self._names)


# --- reports as messages ------------------------------------------------------------


def parts_of(stats: NodeStats, asked: int) -> Iterator[dict[str, Any]]:
    """Return the messages that tell the group the stats of a worker.

    Args:
        asked: the number of the last request of the group that the worker has seen.
    """
    text = json.dumps(encoded(stats))
    number = next(_numbers)
    for at in range(0, len(text), PART_CHARACTERS):
        yield {
            "say": "stats",
            "report": number,
            "asked": asked,
            "at": at,
            "size": len(text),
            "text": text[at : at + PART_CHARACTERS],
        }


class Report:
    """Joins the parts of the reports of one worker.

    A worker whose channel is full leaves out the rest of a report. So parts that do not
    continue the report at hand are dropped, unless they begin another one.
    """

    def __init__(self) -> None:
        self._number = 0
        self._text = ""

    def add(self, message: dict[str, Any]) -> NodeStats | None:
        """Take a part. Returns the stats if that was the last part of a report."""
        if message["at"] == 0:
            self._number, self._text = message["report"], ""
        if message["report"] != self._number or message["at"] != len(self._text):
            return None
        self._text += message["text"]
        if len(self._text) < message["size"]:
            return None
        text, self._text = self._text, ""
        return decoded(json.loads(text))
