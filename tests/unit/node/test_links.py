"""The rules of `fastnode.node.links`, without sockets and without a clock."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastnode.errors import DuplicateLink, FastnodeError
from fastnode.link.machine import State
from fastnode.node.link_events import LinkEvents
from fastnode.node.links import LinkRegistry
from fastnode.node.slow import SlowCallbacks
from fastnode.peer import Peer

SETTINGS = SimpleNamespace(handshake_timeout=10.0)
A, B = "alpha@h", "beta@h"


def peer(name: str, instance: str, *, verified: bool = True) -> Peer:
    return Peer(name, ("h", 1), verified=verified, instance=instance * 32)


def registry(name: str, instance: str, *, verifies: bool = True) -> Any:
    nothing: Any = SimpleNamespace()
    events = LinkEvents(SlowCallbacks(None, nothing, name))
    return LinkRegistry(name, instance * 32, events, verifies=verifies)


class End:
    """One end of a link, as far as a registry looks at it."""

    def __init__(
        self,
        links: Any,
        peer: Peer,
        *,
        dialer: bool = False,
        additional: bool = False,
    ) -> None:
        self.links = links
        self.number = 1
        self.peer = peer
        self.dialer = dialer
        self.state = State.DECIDING
        self.link = self
        self.settings = SETTINGS
        self.succession = SimpleNamespace(
            ticket=None, predecessor=None, successor=None, on_asked=None
        )
        self.extensions = SimpleNamespace(on_leaving=None, leaving=False)
        self.peer_hello = SimpleNamespace(wants_another=b"" if additional else None)
        self.error: FastnodeError | None = None
        self.reason: FastnodeError | None = None
        self.checks: list[Callable[[], object] | None] = []
        self.on_end: Callable[[], object] = lambda: None

    @property
    def closed(self) -> bool:
        return self.state is State.CLOSED

    def peer_text(self) -> str:
        return self.peer.name

    def check(
        self, seconds: float, on_silent: Callable[[], object] | None = None
    ) -> None:
        assert 0 < seconds <= 3
        self.checks.append(on_silent)

    def come_up(self) -> None:
        self.state = State.UP
        self.links.came_up(self)

    def terminate(self, error: FastnodeError, *_: object) -> None:
        if self.state is State.CLOSED:
            return
        self.state = State.CLOSED
        self.error = self.reason = error
        self.links.ended(self)
        self.on_end()


def up(links: Any, who: Peer, **options: bool) -> End:
    end = End(links, who, **options)
    end.come_up()
    return end


# --- instances side by side -----------------------------------------------------------


def test_an_instance_comes_up_beside_another_one() -> None:
    links = registry(A, "0")
    first, second = up(links, peer(B, "1")), up(links, peer(B, "2"))
    assert links.links_of(B) == [first, second]
    # The first may have been restarted: it is asked, and the second is not.
    (on_silent,) = first.checks
    assert not second.checks
    assert on_silent is not None
    on_silent()
    assert first.closed
    assert "another instance" in str(first.error)
    assert links.find(B) is second
    on_silent()  # it has ended meanwhile


def test_workers_of_one_group_are_not_asked() -> None:
    links = registry(A, "0")
    one = Peer(B, ("h", 1), verified=True, instance="1" * 32)
    two = Peer(B, ("h", 1), verified=True, instance="1" * 16 + "2" * 16)
    ends = [up(links, one), up(links, two)]
    assert links.links_of(B) == ends
    assert not ends[0].checks


def test_an_instance_that_is_linked_is_refused_or_replaces_its_link(
    caplog: pytest.LogCaptureFixture,
) -> None:
    links = registry(A, "0")
    ours = up(links, peer(B, "1"), dialer=True)
    with pytest.raises(DuplicateLink):
        asyncio.run(links.admit_inbound(End(links, ours.peer), ours.peer))
    assert len(ours.checks) == 1
    # One that wants another instance is told who we are, and decides.
    wants = End(links, ours.peer, additional=True)
    asyncio.run(links.admit_inbound(wants, ours.peer))
    assert not ours.closed
    # The other instance of that name is not concerned.
    theirs = up(links, peer(B, "2"))
    again = up(links, peer(B, "2"))
    assert theirs.closed
    assert links.links_of(B) == [ours, again]
    (said,) = [each.getMessage() for each in caplog.records if each.levelno > 20]
    assert theirs.peer.instance in said
    assert "what to do: see whether a proxy" in said


@pytest.mark.parametrize("same", [True, False])
def test_guarantee_4_the_unverified_end_no_link_of_the_verified(same: bool) -> None:
    links = registry(A, "0", verifies=False)
    verified = up(links, peer(B, "1"))
    stranger = up(links, peer(B, "1" if same else "2", verified=False))
    assert links.links_of(B) == [verified]
    assert not verified.closed
    assert not verified.checks
    assert not stranger.closed
    verified.terminate(FastnodeError("it ends"))
    # And a verified peer takes its name from those who are not.
    other = up(links, peer(B, "3", verified=False))
    assert links.find(B) is other
    verified = up(links, peer(B, "1"))
    assert links.links_of(B) == [verified]


@pytest.mark.parametrize("leaves", [False, True])
def test_watchers_hear_once_of_each_change(leaves: bool) -> None:
    links = registry(A, "0")
    heard: list[tuple[End, bool]] = []
    links.watchers.append(lambda end, now: heard.append((end, now)))
    old, other = up(links, peer(B, "1")), up(links, peer(B, "2"))
    if leaves:
        links.turn_away(old)
    new = End(links, old.peer)
    new.succession.predecessor = old
    old.hand_over_to = lambda _: None  # type: ignore[attr-defined]
    new.come_up()
    old.terminate(FastnodeError("it has been succeeded"))
    began = [(old, True), (other, True)]
    if leaves:
        assert heard == [*began, (old, False), (new, True)]
        assert links.links_of(B) == [other, new]
    else:
        assert heard == [*began, (new, True), (old, False)]
        assert links.links_of(B) == [new, other]


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["up", "up", "up", "end", "silent", "leave", "prefer"]),
        st.sampled_from([B, "gamma@h"]),
        st.sampled_from("123"),
        st.booleans(),
        st.booleans(),
    ),
    max_size=25,
)


class Table:
    """A registry, and the links that it says new messages may take."""

    def __init__(self, *, verifies: bool) -> None:
        self.links = registry(A, "0", verifies=verifies)
        self.verifies = verifies
        self.usable: list[End] = []
        self.ends: list[End] = []
        self.links.watchers.append(self.watch)

    def watch(self, end: Any, now: bool) -> None:
        if now:
            self.usable.append(end)
        else:
            self.usable.remove(end)

    def alive(self) -> list[End]:
        return [end for end in self.ends if end.state is State.UP]

    def come_up(self, who: Peer, *, dialer: bool) -> None:
        """A link comes up, and ends no link but those that it has to."""
        if dialer and self.links.link_with(who) is not None:
            with pytest.raises(DuplicateLink):
                self.links.admit_outbound(who)
            return
        before = self.alive()
        self.ends.append(up(self.links, who, dialer=dialer))
        for end in before:
            if end.closed:
                assert end.peer.name == who.name
                assert who.verified or not end.peer.verified
                same = end.peer.instance == who.instance
                assert same or (who.verified and not end.peer.verified)

    def change(self, what: str, end: End) -> None:
        """Something happens to a link that is up."""
        if what == "end":
            end.terminate(FastnodeError("it ends"))
        elif what == "silent":
            for on_silent in end.checks:
                if on_silent is not None:
                    on_silent()
        elif what == "leave":
            self.links.turn_away(end)
        else:
            self.links.prefer(end)

    def hold(self) -> None:
        """What always holds."""
        found: list[Any] = []
        for name in self.links.names():
            named: list[Any] = self.links.links_of(name)
            assert self.links.find(name) is named[0]
            trust = {end.peer.verified for end in named}
            assert len(trust) == 1
            assert True in trust or not self.verifies
            found += named
        assert all(end.state is State.UP for end in found)
        pairs = {(end.peer.name, end.peer.instance) for end in found}
        assert len(pairs) == len(found) == len(self.usable)
        assert {id(end) for end in found} == {id(end) for end in self.usable}


@given(STEPS, st.booleans())
def test_guarantee_4_the_table_of_links(steps: list[Any], verifies: bool) -> None:
    """Whatever comes and goes: one usable link with an instance, no stranger in front
    of a verified peer, and no live instance is ended by another one."""
    table = Table(verifies=verifies)
    for what, name, instance, verified, dialer in steps:
        if what == "up":
            who = peer(name, instance, verified=verified)
            table.come_up(who, dialer=dialer)
        else:
            for end in table.alive():
                if end.peer.instance == instance * 32:
                    table.change(what, end)
                    break
        table.hold()


# --- two instances dial each other ----------------------------------------------------


class Wire:
    """What one end of a link has sent and the other has not got: in order."""

    def __init__(self, delays: deque[int]) -> None:
        self._delays = delays
        self._sent: asyncio.Queue[Callable[[], Any] | None] = asyncio.Queue()

    def send(self, what: Callable[[], Any] | None) -> None:
        self._sent.put_nowait(what)

    async def run(self) -> None:
        while (what := await self._sent.get()) is not None:
            for _ in range(self._delays.popleft() if self._delays else 0):
                await asyncio.sleep(0)
            done = what()
            if asyncio.iscoroutine(done):
                await done


class Pending:
    """A dial that has sent its HELLO."""

    hello_sent = verifies = True

    def __init__(self) -> None:
        self.over = asyncio.Event()

    def supersede(self) -> None:
        raise AssertionError

    async def attempt_over(self) -> None:
        await self.over.wait()

    def may_reach(self, who: Peer) -> bool:
        return True


class Dial:
    """HELLO, HELLO, ACCEPT, and the goodbyes of a side that ends the link.

    Args:
        ours, theirs: the registry of each side, and who it is.
        delays: turns of the loop that frames take.
        by_address: whether it is a dial by address, and not by name.
    """

    def __init__(
        self,
        ours: tuple[Any, Peer],
        theirs: tuple[Any, Peer],
        delays: deque[int],
        *,
        by_address: bool,
    ) -> None:
        (self.ours, self.own), (self.theirs, self.them) = ours, theirs
        self.by_address = by_address
        self.here = End(self.ours, self.them, dialer=True)
        self.there = End(self.theirs, self.own, additional=by_address)
        self.to, self.back = Wire(delays), Wire(delays)
        self.pending = Pending()
        self.here.on_end = lambda: self.to.send(
            lambda: self.there.terminate(FastnodeError("goodbye"))
        )
        self.there.on_end = lambda: self.back.send(self.refused)

    async def run(self, late: int) -> tuple[End, End] | None:
        """Return both ends; None if there is no need to dial."""
        for _ in range(late):
            await asyncio.sleep(0)
        name = self.them.name
        if not self.by_address and (
            self.ours.welcomed(name) or self.ours.find(name) is not None
        ):
            return None
        if self.by_address:
            self.ours.instance_dials.add(self.pending)
        else:
            self.ours.dials[self.them.name] = self.pending
        self.to.send(self.judge)
        wires = [asyncio.ensure_future(wire.run()) for wire in (self.to, self.back)]
        await self.pending.over.wait()
        for _ in range(200):
            await asyncio.sleep(0)
        for wire in (self.to, self.back):
            wire.send(None)
        await asyncio.gather(*wires)
        return self.here, self.there

    async def judge(self) -> None:
        """The acceptor has got HELLO."""
        try:
            await self.theirs.admit_inbound(self.there, self.own)
        except DuplicateLink as error:
            self.there.terminate(error)
        else:
            self.back.send(self.compare)

    def compare(self) -> None:
        """The dialer has got HELLO."""
        if self.here.closed:
            return
        look = self.ours.rival_of if self.by_address else self.ours.link_with
        if look(self.them) is not None:
            self.here.terminate(self.ours.duplicate(self.them))
        else:
            self.to.send(self.accepted)
            self.here.come_up()
        self.over()

    def accepted(self) -> None:
        """The acceptor has got ACCEPT."""
        if not self.there.closed:
            self.there.come_up()

    def refused(self) -> None:
        """The dialer has got a goodbye."""
        self.here.terminate(FastnodeError("goodbye"))
        self.over()

    def over(self) -> None:
        self.pending.over.set()
        self.ours.dials.pop(self.them.name, None)
        self.ours.instance_dials.discard(self.pending)


@settings(max_examples=300)
@given(
    st.lists(st.integers(0, 6), max_size=12),
    st.integers(0, 12),
    st.booleans(),
    st.booleans(),
    st.sampled_from([(A, B), (B, A), (A, A)]),
)
def test_two_instances_that_dial_each_other_keep_one_link(
    ticks: list[int], late: int, first: bool, second: bool, names: tuple[str, str]
) -> None:
    """By name or by address, whatever comes first, under one name or two."""

    async def both() -> None:
        one, two = peer(names[0], "1"), peer(names[1], "2")
        links = [registry(names[0], "1"), registry(names[1], "2")]
        delays = deque(ticks)
        async with asyncio.timeout(5):
            sides = (links[0], one), (links[1], two)
            ends = await asyncio.gather(
                Dial(sides[0], sides[1], delays, by_address=first).run(0),
                Dial(sides[1], sides[0], delays, by_address=second).run(late),
            )
        made = [pair for pair in ends if pair is not None]
        alive = [pair for pair in made if not pair[0].closed or not pair[1].closed]
        assert len(alive) == 1
        assert not any(end.closed for end in alive[0])
        for each, (name, _) in zip(links, ((names[1], 0), (names[0], 0)), strict=True):
            assert each.links_of(name) == [end for end in alive[0] if end.links is each]

    asyncio.run(both())
