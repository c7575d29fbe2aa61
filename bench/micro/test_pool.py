"""The buffer pool alone."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from fastnode.buffers.pool import BufferPool
from fastnode.buffers.slab import Slab

ROUNDS = 1000


@pytest.mark.parametrize("size", [4 << 10, 64 << 10, 1 << 20], ids=str)
def test_take_and_release(benchmark: BenchmarkFixture, size: int) -> None:
    """One slab at a time, which the pool has kept."""
    pool = BufferPool()

    def work() -> None:
        for _ in range(ROUNDS):
            pool.release(pool.take(size))

    benchmark(work)
    assert pool.outstanding == 0


def test_take_many_then_release(benchmark: BenchmarkFixture) -> None:
    """As many links hold them."""
    pool = BufferPool()

    def work() -> None:
        slabs: list[Slab] = [pool.take(4 << 10) for _ in range(ROUNDS)]
        for slab in slabs:
            pool.release(slab)

    benchmark(work)
    assert pool.outstanding == 0
