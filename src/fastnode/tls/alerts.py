"""TLS alerts that this package writes itself, before anything is encrypted."""

from __future__ import annotations

from typing import Final

__all__ = ["ILLEGAL_PARAMETER", "RECORD_OVERFLOW", "USER_CANCELED", "alert"]

# Descriptions of alerts (RFC 8446, section 6).
RECORD_OVERFLOW: Final = 22
ILLEGAL_PARAMETER: Final = 47
USER_CANCELED: Final = 90


def alert(description: int) -> bytes:
    """Return the record of a fatal alert, in plaintext."""
    return bytes([21, 3, 3, 0, 2, 2, description])
