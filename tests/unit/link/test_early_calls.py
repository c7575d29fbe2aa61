"""Calls that leave before the end of the loop turn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from fastnode import Link, LinkLost
from helpers import frames
from helpers.memory import (
    MemoryEnd,
    MemoryNode,
    MemoryTransport,
    TurnLoop,
    running_loop,
)
from helpers.nodes import A


class Breakable(MemoryTransport):
    """Takes nothing once it is broken."""

    broken = False

    def write(self, data: bytes) -> None:
        if self.broken:
            raise OSError("no more")
        super().write(data)


class End(MemoryEnd):
    """One end, over such a transport."""

    transport: Breakable


@contextmanager
def linked() -> Iterator[tuple[TurnLoop, End, Link]]:
    """A link that is up, and has written nothing since."""
    with running_loop() as loop:
        node = MemoryNode(loop)
        end = End(node, dialer=False)
        end.transport = Breakable()
        node.ends.append(end)
        end.connect()
        end.feed(frames.hello(A))
        end.feed(frames.frame(frames.ACCEPT))
        end.transport.take()
        (link,) = node.node.links
        yield loop, end, link
        # What broke on purpose is in the log.
        if end.transport.broken:
            assert len(node.take_errors()) == 1
        node.finish()


def test_a_lone_call_leaves_at_once() -> None:
    with linked() as (loop, end, link):
        call = link.call("echo", b"alone")
        call.send(None)
        assert end.transport.take().endswith(b"alone")
        # Another one waits for the end of the turn, with all that is queued in it.
        second = link.call("echo", b"second")
        second.send(None)
        link.send("note", b"third")
        assert end.transport.take() == b""
        loop.turn()
        written = end.transport.take()
        assert written.index(b"second") < written.index(b"third")
        call.close()
        second.close()
        loop.turn()


def test_many_calls_leave_in_halves() -> None:
    with linked() as (loop, end, link):
        writes = []
        calls = [link.call("echo", b"%02d" % number) for number in range(64)]
        for call in calls:
            call.send(None)
            if written := end.transport.take():
                writes.append(written)
        loop.turn()
        writes.append(end.transport.take())
        assert b"".join(writes).count(b"63") == 1
        # The first alone, then as many as are under way already.
        assert 3 <= len(writes) <= 5
        for call in calls:
            call.close()
        loop.turn()


def test_a_call_whose_link_ends_while_it_leaves() -> None:
    with linked() as (loop, end, link):
        end.transport.broken = True
        with pytest.raises(LinkLost):
            loop.finish(link.call("echo", b""))
