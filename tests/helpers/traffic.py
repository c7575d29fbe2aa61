"""Numbered payloads, and a checksum of all of them in their order."""

from __future__ import annotations

import random
import zlib

__all__ = ["PAYLOAD_BYTES", "SEQUENCE_BYTES", "Traffic"]

PAYLOAD_BYTES = 64
SEQUENCE_BYTES = 8
_FILL_BYTES = PAYLOAD_BYTES - SEQUENCE_BYTES
_FILL = random.Random(0).randbytes(4096 + _FILL_BYTES)


class Traffic:
    """Makes payloads of 64 bytes, each with its number and then noise.

    Attributes:
        made: how many so far.
        checksum: CRC-32 of all of them, one after the other.
    """

    def __init__(self) -> None:
        self.made = 0
        self.checksum = 0

    def next(self) -> bytes:
        """The next payload."""
        at = self.made * 61 % 4096
        payload = self.made.to_bytes(SEQUENCE_BYTES) + _FILL[at : at + _FILL_BYTES]
        self.made += 1
        self.checksum = zlib.crc32(payload, self.checksum)
        return payload
