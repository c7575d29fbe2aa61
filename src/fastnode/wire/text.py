"""Text on the wire: bounded UTF-8."""

from __future__ import annotations

__all__ = ["cut"]


def cut(text: str, limit: int) -> bytes:
    """UTF-8 of at most `limit` bytes, ending between characters."""
    data = text.encode("utf-8", "replace")[:limit]
    return data.decode("utf-8", "ignore").encode()
