"""What payloads hold, and whether what came is that.

Up to `WHOLE_BYTES` every payload is compared in full. Of larger ones `EDGE_BYTES` at
both ends of each are, and all of one in `EVERY`: a full comparison of 1 MiB costs a
tenth of what its journey does. The C program does the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

WHOLE_BYTES = 1024
EDGE_BYTES = 32
EVERY = 16
#: What calls with metadata have: 4 entries, whose names and values have 200 bytes.
METADATA = {
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "tenant": "customer-0000000007",
    "request-id": "5f0c8b7e-2d41-4c59-9a63-1f7e0d2b4c88",
    "baggage": "region=eu-central-1,plan=enterprise,canary=false,v=7.3.1",
}


@cache
def pattern(size: int) -> bytes:
    """So many bytes. The period is a prime, so that a shift shows."""
    return (bytes(range(251)) * (size // 251 + 1))[:size]


def has_metadata(found: Mapping[str, str]) -> bool:
    """Whether a call came with all of `METADATA`."""
    return all(found.get(name) == value for name, value in METADATA.items())


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
