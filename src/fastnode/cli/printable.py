"""Text of a peer, fit for a terminal."""

from __future__ import annotations

__all__ = ["printable"]


def printable(text: str) -> str:
    """The text on one line; what would move the cursor or change colours is escaped."""
    return text if text.isprintable() else repr(text)[1:-1]
