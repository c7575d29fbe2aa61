"""What is queued in one turn of the loop leaves together."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fastnode import limits
from fastnode.link.transport_protocol import TransportProtocol
from fastnode.node import attempt
from helpers.nodes import B, pair, until

RECORD_BYTES = 16 << 10
#: What a record of TLS 1.3 adds: header, content type, tag.
RECORD_HEADER_BYTES = 5
RECORD_OVERHEAD_BYTES = RECORD_HEADER_BYTES + 1 + 16
FRAME_HEADER_BYTES = 8


class Recorded:
    """A transport whose writes are kept."""

    def __init__(self, transport: asyncio.Transport, writes: list[bytes]) -> None:
        self._transport = transport
        self._writes = writes

    def write(self, data: bytes) -> None:
        self._writes.append(data)
        self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def records(written: bytes) -> list[int]:
    """The sizes of the TLS records, as plaintext."""
    found = []
    at = 0
    while at < len(written):
        size = int.from_bytes(written[at + 3 : at + 5])
        found.append(RECORD_HEADER_BYTES + size - RECORD_OVERHEAD_BYTES)
        at += RECORD_HEADER_BYTES + size
    return found


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What dialers write."""
    written: list[bytes] = []

    def record(protocol: Any) -> TransportProtocol:
        made = TransportProtocol(protocol)
        connected = made.connection_made

        def connection_made(transport: Any) -> None:
            connected(Recorded(transport, written))  # type: ignore[arg-type]

        setattr(made, "connection_made", connection_made)  # noqa: B010 - a slot
        return made

    monkeypatch.setattr(attempt, "TransportProtocol", record)
    return written


async def test_frames_of_one_turn_leave_in_one_write_of_full_records(
    writes: list[bytes],
) -> None:
    async with pair() as (a, b):
        got: list[bytes] = []
        b.handler("e")(lambda m: got.append(m.payload))
        link = await a.connect(B)
        link.send("e", b"the name of the endpoint goes first")
        await until(lambda: got)
        writes.clear()
        count = 700
        size = count * (FRAME_HEADER_BYTES + 64)
        assert 3 * RECORD_BYTES < size < limits.FLUSH_BYTES
        for _ in range(count):
            link.send("e", bytes(64))
        assert writes == []
        await until(lambda: len(got) == 1 + count)
        (written,) = writes
        assert records(written) == [RECORD_BYTES] * 3 + [size - 3 * RECORD_BYTES]


async def test_more_than_a_flush_leaves_in_few_writes(writes: list[bytes]) -> None:
    async with pair() as (a, b):
        got: list[bytes] = []
        b.handler("e")(lambda m: got.append(m.payload))
        link = await a.connect(B)
        writes.clear()
        count = 10_000
        for _ in range(count):
            link.send("e", bytes(64))
        await until(lambda: len(got) == count)
        flushes = count * (FRAME_HEADER_BYTES + 64) // limits.FLUSH_BYTES + 1
        assert len(writes) <= flushes
        # One record that is not full for each flush, at most.
        sizes = [size for written in writes for size in records(written)]
        assert sum(size < RECORD_BYTES for size in sizes) <= flushes
        assert max(sizes) == RECORD_BYTES
