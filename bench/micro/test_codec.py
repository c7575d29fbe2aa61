"""Encoding and decoding alone: no TLS, no socket, no loop.

Fixed counts, so that instruction counters measure the same work every time.
"""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from fastnode.buffers.pool import BufferPool
from fastnode.wire.decoder import Decoder
from fastnode.wire.encoder import Encoder

#: Size of a payload, and how many of them make up one round.
WORK = [(64, 1000), (1 << 10, 100), (16 << 10, 20), (1 << 20, 2)]
IDS = ["64 B", "1 KiB", "16 KiB", "1 MiB"]


def encode(encoder: Encoder, payload: bytes, count: int) -> bytes:
    """The frames of some messages."""
    for _ in range(count):
        encoder.add_message("endpoint", payload)
    return encoder.take()


@pytest.mark.parametrize(("size", "count"), WORK, ids=IDS)
def test_encode(benchmark: BenchmarkFixture, size: int, count: int) -> None:
    """Queue messages and take their frames out."""
    encoder = Encoder(BufferPool())
    payload = bytes(size)
    written = benchmark(encode, encoder, payload, count)
    assert len(written) >= size * count
    encoder.clear()


@pytest.mark.parametrize(("size", "count"), WORK, ids=IDS)
def test_decode(benchmark: BenchmarkFixture, size: int, count: int) -> None:
    """Feed their frames and take the payloads."""
    pool = BufferPool()
    encoder = Encoder(pool)
    data = encode(encoder, bytes(size), count)
    decoder = Decoder(pool)
    found = benchmark(decoder.feed, data)
    assert sum(len(payload or b"") >= size for *_, payload in found) == count
    decoder.close()
    encoder.clear()


@pytest.mark.parametrize("piece", [1400, 16 << 10], ids=["1400 B", "16 KiB"])
def test_decode_in_pieces(benchmark: BenchmarkFixture, piece: int) -> None:
    """As a network cuts them."""
    pool = BufferPool()
    encoder = Encoder(pool)
    data = encode(encoder, bytes(1 << 10), 100)
    pieces = [data[at : at + piece] for at in range(0, len(data), piece)]
    decoder = Decoder(pool)

    def feed() -> int:
        return sum(len(decoder.feed(part)) for part in pieces)

    assert benchmark(feed) >= 100
    decoder.close()
    encoder.clear()
