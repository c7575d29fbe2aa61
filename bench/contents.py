"""What payloads hold, and whether what came is that.

Up to `WHOLE_BYTES` every payload is compared in full. Of larger ones `EDGE_BYTES` at
both ends of each are, and all of one in `EVERY`: a full comparison of 1 MiB costs a
tenth of what its journey does. The C program does the same.
"""

from __future__ import annotations

from functools import cache

WHOLE_BYTES = 1024
EDGE_BYTES = 32
EVERY = 16


@cache
def pattern(size: int) -> bytes:
    """So many bytes. The period is a prime, so that a shift shows."""
    return (bytes(range(251)) * (size // 251 + 1))[:size]


class Counter:
    """The handler of one-way messages: one Python call for each.

    Attributes:
        messages: how many have come.
        wrong: how many of them were not as they should be.
        expected: a payload that may come again.
    """

    def __init__(self) -> None:
        self.messages = 0
        self.wrong = 0
        self.expected = b""

    def handle(self, payload: bytes) -> None:
        """A message has come."""
        self.messages += 1
        if payload != self.expected:
            self.look_at(payload)

    def look_at(self, payload: bytes) -> None:
        """It is not the same as the last one, or large."""
        right = pattern(len(payload))
        if len(payload) <= WHOLE_BYTES:
            good = payload == right
            self.expected = right
        elif self.messages % EVERY == 0:
            good = payload == right
        else:
            good = (
                payload[:EDGE_BYTES] == right[:EDGE_BYTES]
                and payload[-EDGE_BYTES:] == right[-EDGE_BYTES:]
            )
        self.wrong += not good
