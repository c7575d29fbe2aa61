"""The keepalive interval that two sides agree on."""

from __future__ import annotations

import pytest

from fastnode.limits import LEAST_PEER_KEEPALIVE_SECONDS
from fastnode.link.settings import LinkSettings
from fastnode.names import NodeName
from fastnode.wire.hello import Hello


def hello(keepalive_ms: int) -> Hello:
    return Hello(
        NodeName.parse("a@b"), bytes(16), 1 << 20, 1 << 16, 1 << 20, 16, keepalive_ms
    )


@pytest.mark.parametrize(
    ("own", "theirs", "agreed"),
    [
        (15.0, 15_000, 15.0),
        (15.0, 60_000, 15.0),
        (60.0, 15_000, 15.0),
        (0.01, 15_000, 0.01),
        # A peer that never probes, or one that would have us probe without end.
        (15.0, 0, 15.0),
        (15.0, 1, LEAST_PEER_KEEPALIVE_SECONDS),
        (0.05, 1, 0.05),
        (15.0, 2**32 - 1, 15.0),
    ],
)
def test_the_smaller_interval_counts(own: float, theirs: int, agreed: float) -> None:
    settings = LinkSettings(
        hello=hello(int(own * 1000)),
        handshake_timeout=1,
        keepalive_interval=own,
        high_water=1,
        low_water=1,
        max_queued=1,
        max_window=1,
    )
    assert settings.interval_with(hello(theirs)) == agreed
