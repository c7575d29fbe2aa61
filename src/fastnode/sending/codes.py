"""Errors, counted by their code."""

from __future__ import annotations

from typing import Final

from fastnode.limits import MAX_COUNTED_CODES

__all__ = ["OTHER", "CodeCounts"]

#: The name for all codes that have no count of their own.
OTHER: Final = "other"


class CodeCounts:
    """Counts errors by code. Counts never decrease.

    A `CallError` may have any code, and a peer chooses the codes that it sends. So at
    most `MAX_COUNTED_CODES` codes are counted one by one. The others count as "other".
    """

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def add(self, code: str) -> None:
        """Count an error with this code."""
        if code not in self._counts and len(self._counts) >= MAX_COUNTED_CODES:
            code = OTHER
        self._counts[code] = self._counts.get(code, 0) + 1

    def shown(self) -> dict[str, int]:
        """Return a copy of the counts, by code."""
        return dict(self._counts)
