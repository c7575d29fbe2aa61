"""The buffer pool: sizes, ceiling, trimming, and what a released slab is."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    rule,
)

from fastnode.buffers.pool import BufferPool, PoolExhausted, live_slabs
from fastnode.buffers.slab import Slab


@pytest.mark.parametrize(
    ("asked", "given"),
    [(0, 4096), (1, 4096), (4096, 4096), (4097, 16384), (16385, 65536),
     (65537, 262144), (262145, 262145)],
)  # fmt: skip
def test_sizes(asked: int, given: int) -> None:
    pool = BufferPool()
    slab = pool.take(asked)
    assert len(slab) == slab.capacity == given
    assert pool.held == given
    pool.release(slab)
    # Only slabs of a size class are kept.
    assert pool.held == (given if given <= 262144 else 0)


def test_a_released_slab_is_taken_again() -> None:
    pool = BufferPool()
    slab = pool.take(100)
    pool.release(slab)
    assert pool.take(200) is slab
    pool.release(slab)


def test_guarantee_9_the_ceiling_holds_and_nothing_is_lost_at_it() -> None:
    pool = BufferPool(8192)
    first, second = pool.take(1), pool.take(1)
    with pytest.raises(PoolExhausted, match="8192"):
        pool.take(1)
    assert (pool.held, pool.outstanding) == (8192, 2)
    pool.release(first)
    assert pool.take(1) is first
    pool.release(first)
    pool.release(second)


def test_a_size_near_the_largest_number_does_not_wrap() -> None:
    pool = BufferPool(1 << 20)
    pool.release(pool.take(1))
    with pytest.raises(PoolExhausted):
        pool.take((1 << 64) - 1)


def test_released_twice() -> None:
    pool = BufferPool()
    slab = pool.take(1)
    pool.release(slab)
    with pytest.raises(ValueError, match="before"):
        pool.release(slab)
    assert pool.outstanding == 0


def test_a_released_slab_is_never_written() -> None:
    pool = BufferPool()
    slab = pool.take(10)
    view = memoryview(slab)
    view[0] = 7
    # While somebody can write into it, it cannot be released ...
    with pytest.raises(BufferError, match="alive"):
        pool.release(slab)
    view.release()
    pool.release(slab)
    # ... and once it is released nobody can begin to.
    with pytest.raises(BufferError, match="released"):
        memoryview(slab)


def test_slabs_come_from_pools_only() -> None:
    with pytest.raises(TypeError, match="take"):
        Slab()


def test_trim_frees_what_was_idle_since_the_last_trim() -> None:
    pool = BufferPool()
    slabs = [pool.take(1) for _ in range(4)]
    for slab in slabs:
        pool.release(slab)
    # All four were needed since the pool was made.
    assert pool.trim() == 0
    again = [pool.take(1), pool.take(1)]
    for slab in again:
        pool.release(slab)
    # Two were needed since then, two were not.
    assert pool.trim() == 2 * 4096
    assert pool.held == 2 * 4096
    assert pool.trim() == 2 * 4096
    assert pool.held == 0


class PoolMachine(RuleBasedStateMachine):
    """Any sequence of takes, releases and trims keeps the books right."""

    slabs = Bundle("slabs")
    ceiling = 1 << 20

    def __init__(self) -> None:
        super().__init__()
        self.pool = BufferPool(self.ceiling)
        self.before = live_slabs()
        self.taken: dict[int, Slab] = {}

    @rule(target=slabs, size=st.integers(0, 1 << 19))
    def take(self, size: int) -> Slab | None:
        try:
            slab = self.pool.take(size)
        except PoolExhausted:
            return None
        assert id(slab) not in self.taken
        assert len(slab) >= size
        self.taken[id(slab)] = slab
        return slab

    @rule(slab=consumes(slabs))
    def release(self, slab: Slab | None) -> None:
        if slab is not None:
            self.pool.release(self.taken.pop(id(slab)))

    @rule()
    def trim(self) -> None:
        before = self.pool.held
        freed = self.pool.trim()
        assert self.pool.held == before - freed

    @invariant()
    def books(self) -> None:
        assert self.pool.outstanding == len(self.taken)
        assert live_slabs() == self.before + len(self.taken)
        lent = sum(map(len, self.taken.values()))
        assert lent <= self.pool.held <= self.ceiling

    def teardown(self) -> None:
        for slab in self.taken.values():
            self.pool.release(slab)
        self.pool.trim()
        self.pool.trim()
        assert self.pool.held == 0


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(max_examples=50, deadline=None)
