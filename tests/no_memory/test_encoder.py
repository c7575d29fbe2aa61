"""When memory runs out while frames are queued: all of them are queued, or none is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from functools import partial
from itertools import count

import pytest

from fastnode.buffers.pool import BufferPool, PoolExhausted, live_slabs
from fastnode.buffers.slab import Slab
from fastnode.wire.decoder import Decoder
from fastnode.wire.encoder import Encoder
from helpers import frames
from helpers.no_memory import NEEDS_HOOKS, raises

SLAB = 64 << 10
#: A payload of each way: in one step, split over two slabs, referred to, in frames.
SIZES = [0, 5, 4096, 4097, 16 << 10, 40_000, 150_000]
#: Room that is left in the only slab when a payload of that size does not fit any more:
#: for nothing, for a header, or for a header and some of the rest.
LEFT = {0: 0, 5: 0, 4096: 200, 4097: 200, 16 << 10: 200, 40_000: 4, 150_000: 20}
FAILURES = pytest.mark.parametrize("failures", [1, 3, 0], ids=["one", "three", "all"])

Sent = tuple[int, int, bytes]
Operation = Callable[[Encoder], object]


class Peer:
    """Decodes whole frames, with the names of their endpoints.

    Attributes:
        got: kind, call and payload; of messages and calls behind their endpoint.
    """

    def __init__(self) -> None:
        self.decoder = Decoder(BufferPool())
        self.books: dict[int, dict[int, bytes]] = defaultdict(dict)
        self.got: list[tuple[int, int, bytes]] = []

    def feed(self, data: bytes) -> None:
        for lane, (kind, number, call, payload) in self.decoder.feed(data, lanes=True):
            assert payload is not None
            if kind == frames.ENDPOINT:
                self.books[lane][number] = payload
                continue
            if kind in (frames.MESSAGE, frames.CALL, frames.CONFIRM):
                name = self.books[lane][number]
                self.got.append((kind, call, name + b":" + payload))
            else:
                self.got.append((kind, call, payload))
        assert not self.decoder.unfinished


def operations() -> dict[str, tuple[Operation, Sent]]:
    """What queues frames, by name, and what the peer decodes then."""
    made: dict[str, tuple[Operation, Sent]] = {}
    for size in SIZES:
        payload = bytes(size)
        for name in ("known", "new"):
            text = name.encode() + b":" + payload
            for lane in (frames.DATA, frames.HIGH):
                made[f"message to {name}, lane {lane}, {size}"] = (
                    partial(Encoder.add_message, endpoint=name, payload=payload,
                            priority=lane),
                    (frames.MESSAGE, 0, text),
                )  # fmt: skip
            made[f"nested call to {name}, {size}"] = (
                partial(Encoder.add_call, endpoint=name, call=7, payload=payload,
                        nested=True),
                (frames.CALL, 7, text),
            )  # fmt: skip
            made[f"confirm to {name}, {size}"] = (
                partial(Encoder.add_confirm, endpoint=name, call=8, payload=payload),
                (frames.CONFIRM, 8, text),
            )
        made[f"reply, {size}"] = (
            partial(Encoder.add_reply, call=9, payload=payload),
            (frames.REPLY, 9, payload),
        )
    made["control"] = (
        partial(Encoder.add_frame, kind=frames.PING, number=0, body=bytes(8)),
        (frames.PING, 0, bytes(8)),
    )
    return made


OPERATIONS = operations()


def prepared(pool: BufferPool, case: int) -> tuple[Encoder, Peer, list[Sent]]:
    """An encoder that has sent something, and one of several things queued."""
    encoder, peer, sent = Encoder(pool), Peer(), []
    # Two names and no more: a third one takes the number of the first.
    encoder.limit(frames.MAX_FRAME, 2)
    for lane in range(7):
        encoder.grant(lane, 1 << 20)

    def send(name: str, size: int, lane: int = frames.DATA) -> None:
        encoder.add_message(name, bytes(size), lane)
        sent.append((frames.MESSAGE, 0, name.encode() + b":" + bytes(size)))

    for lane in (frames.DATA, frames.HIGH):
        send("old", 1, lane)
        send("known", 2, lane)
        if case == 1:
            # The slab has no room left for a copy, and the ring none for a segment.
            for _ in range(15):
                send("known", 4096, lane)
            for _ in range(6):
                send("known", 20_000, lane)
            send("known", 1000, lane)
        peer.feed(encoder.take() if case == 0 else b"")
    if case == 2:
        # Bulk has something queued, behind a barrier.
        send("known", 150_000)
        send("old", 150_000)
    return encoder, peer, sent


@NEEDS_HOOKS
@FAILURES
@pytest.mark.parametrize("case", [0, 1, 2], ids=["empty", "full slab", "bulk"])
def test_a_frame_is_queued_as_a_whole_or_not_at_all(case: int, failures: int) -> None:
    slabs = live_slabs()
    for name, (operation, expected) in OPERATIONS.items():
        for start in count():
            pool = BufferPool()
            encoder, peer, sent = prepared(pool, case)
            queued = encoder.queued
            raised = raises(lambda: operation(encoder), start, failures)  # noqa: B023
            if raised:
                assert encoder.queued == queued, name
            else:
                sent.append(expected)
            # It goes on as if nothing had happened, also with a name that is new.
            for later in ("new", "known", "newer", "old"):
                encoder.add_message(later, b"later")
                sent.append((frames.MESSAGE, 0, later.encode() + b":later"))
            peer.feed(encoder.take())
            assert sorted(peer.got) == sorted(sent), (name, start)
            encoder.clear()
            assert pool.outstanding == 0, (name, start)
            if not raised:
                break
    assert live_slabs() == slabs


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["known", "new"])
def test_nothing_is_queued_where_the_pool_is_exhausted(size: int, name: str) -> None:
    pool = BufferPool(ceiling=SLAB)
    encoder, peer = Encoder(pool), Peer()
    encoder.add_message("known", b"")
    payload = bytes(1000)
    sent = [(frames.MESSAGE, 0, b"known:")]
    while encoder.queued + 2016 <= SLAB:
        encoder.add_message("known", payload)
        sent.append((frames.MESSAGE, 0, b"known:" + payload))
    filler = bytes(SLAB - encoder.queued - 8 - LEFT[size])
    encoder.add_message("known", filler)
    sent.append((frames.MESSAGE, 0, b"known:" + filler))
    queued = encoder.queued
    for _ in range(3):
        with pytest.raises(PoolExhausted):
            encoder.add_message(name, bytes(size))
        assert encoder.queued == queued
    peer.feed(encoder.take())
    encoder.add_message(name, bytes(size))
    sent.append((frames.MESSAGE, 0, name.encode() + b":" + bytes(size)))
    peer.feed(encoder.take())
    assert peer.got == sent
    encoder.clear()
    assert pool.outstanding == 0


@NEEDS_HOOKS
@FAILURES
def test_a_slab_is_returned_without_memory(failures: int) -> None:
    for start in range(8):
        pool = BufferPool()
        taken = [pool.take(4096) for _ in range(40)]

        def release(taken: list[Slab] = taken, pool: BufferPool = pool) -> None:
            for slab in taken:
                pool.release(slab)

        raises(release, start, failures)
        release([slab for slab in taken if slab.taken])
        taken.clear()
        assert pool.outstanding == 0
        pool.trim()
        pool.trim()
        assert pool.held == 0
