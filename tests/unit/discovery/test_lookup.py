"""The targets of a service when the DNS answers in full, in part, or not at all."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastnode.discovery import DnsDiscovery, Target
from fastnode.discovery.dns import Lookup
from fastnode.discovery.dns_client import Answer, Kind, Srv
from fastnode.discovery.failure import DiscoveryError


class Zone:
    """Answers from a mapping; a question that is not in it has no answer."""

    def __init__(self, answers: dict[tuple[str, Kind], Answer]) -> None:
        self.answers = answers
        self.asked: list[tuple[str, Kind]] = []

    async def ask(self, name: str, kind: Kind) -> Answer:
        self.asked.append((name, kind))
        try:
            return self.answers[name, kind]
        except KeyError:
            raise DiscoveryError(f"{kind} of {name}") from None


def v4(*addresses: str, ttl: float = 60) -> Answer:
    return Answer(ttl, addresses)


def srv(*records: Srv, ttl: float = 60, **extra: tuple[str, ...]) -> Answer:
    return Answer(ttl, (), records, {f"{host}.": each for host, each in extra.items()})


EMPTY = Answer(3)


async def test_the_smallest_ttl_counts() -> None:
    zone = Zone({("s", "A"): v4("10.0.0.1", ttl=9), ("s", "AAAA"): EMPTY})
    assert await Lookup(zone.ask).hosts("s", 1) == ([Target("10.0.0.1", 1)], 3)


async def test_nobody_can_tell() -> None:
    for answers in ({}, {("s", "A"): EMPTY}):
        with pytest.raises(DiscoveryError):
            await Lookup(Zone(dict(answers)).ask).hosts("s", 1)  # type: ignore[arg-type]
    zone = Zone({("s", "A"): EMPTY, ("s", "AAAA"): EMPTY})
    assert await Lookup(zone.ask).hosts("s", 1) == ([], 3)
    with pytest.raises(DiscoveryError):
        await Lookup(zone.ask).services("s")


async def test_a_part_that_fails_has_its_last_good_answer() -> None:
    zone = Zone({("s", "A"): v4("10.0.0.1"), ("s", "AAAA"): v4("::1")})
    lookup = Lookup(zone.ask)
    both = [Target("10.0.0.1", 1), Target("::1", 1)]
    assert await lookup.hosts("s", 1) == (both, 60)
    zone.answers = {("s", "A"): v4("10.0.0.2")}
    assert await lookup.hosts("s", 1) == ([Target("10.0.0.2", 1), both[1]], 0)
    # Without an earlier answer, what is known counts, and is asked for again soon.
    assert await Lookup(zone.ask).hosts("s", 1) == ([Target("10.0.0.2", 1)], 0)
    zone.answers = {}
    with pytest.raises(DiscoveryError):
        await lookup.hosts("s", 1)


async def test_addresses_that_come_along_are_not_asked_for() -> None:
    records = srv(Srv(1, 5, 7, "a."), Srv(1, 6, 8, "a."), a=("10.0.0.1", "::1"))
    zone = Zone({("s", "SRV"): records})
    found, ttl = await Lookup(zone.ask).services("s")
    assert sorted(found) == [
        Target("10.0.0.1", 7, 5), Target("10.0.0.1", 8, 6),
        Target("::1", 7, 5), Target("::1", 8, 6),
    ]  # fmt: skip
    assert ttl == 60
    assert zone.asked == [("s", "SRV")]


async def test_a_higher_number_waits_until_the_lower_ones_have_no_address() -> None:
    records = srv(Srv(1, 1, 7, "a."), Srv(2, 2, 8, "b."), b=("10.0.0.2",))
    zone = Zone({("s", "SRV"): records})
    lookup = Lookup(zone.ask)
    with pytest.raises(DiscoveryError):  # of the first nobody can tell
        await lookup.services("s")
    zone.answers |= {("a.", "A"): EMPTY, ("a.", "AAAA"): EMPTY}
    assert await lookup.services("s") == ([Target("10.0.0.2", 8, 2)], 3)
    zone.answers["a.", "A"] = v4("10.0.0.1")
    assert await lookup.services("s") == ([Target("10.0.0.1", 7, 1)], 3)


async def test_hosts_that_fail_leave_the_others() -> None:
    records = srv(Srv(1, 1, 7, "a."), Srv(1, 1, 7, "b."), b=("10.0.0.2",))
    found = await Lookup(Zone({("s", "SRV"): records}).ask).services("s")
    assert found == ([Target("10.0.0.2", 7, 1)], 0)


async def test_records_that_are_no_targets_are_ignored() -> None:
    records = srv(Srv(1, 1, 0, "a."), Srv(1, 1, 9, "a."), Srv(0, 1, 9, "."), a=("::1",))
    found = await Lookup(Zone({("s", "SRV"): records}).ask).services("s")
    assert found == ([Target("::1", 9, 1)], 60)


HOSTS = st.sampled_from(["a.", "b.", "c."])
RECORDS = st.lists(
    st.builds(Srv, st.integers(0, 3), st.integers(0, 65535), st.integers(1, 3), HOSTS)
)


@given(RECORDS, st.dictionaries(HOSTS, st.sampled_from(["10.0.0.1", "::1"])))
def test_only_the_first_priority_with_an_address_counts(
    records: list[Srv], addresses: dict[str, str]
) -> None:
    answers: dict[tuple[str, Kind], Answer] = {("s", "SRV"): srv(*records)}
    for host in ("a.", "b.", "c."):
        answers[host, "A"] = v4(addresses[host]) if host in addresses else EMPTY
        answers[host, "AAAA"] = EMPTY
    found, _ = asyncio.run(Lookup(Zone(answers).ask).services("s"))
    usable = [each for each in records if each.host in addresses]
    first = min((each.priority for each in usable), default=None)
    assert set(found) == {
        Target(addresses[each.host], each.port, each.weight)
        for each in usable
        if each.priority == first
    }


@pytest.mark.parametrize(
    ("ttl", "empty", "pause"),
    [
        (0, False, 1),
        (7, False, 7),
        (3600, False, 30),
        (0, True, 1),
        (4, True, 4),
        (3600, True, 5),
    ],
)
def test_for_how_long_an_answer_is_used(ttl: float, empty: bool, pause: float) -> None:
    assert DnsDiscovery()._pause(ttl, empty=empty) == pause
    slow = DnsDiscovery(min_ttl=10, max_ttl=10)
    assert slow._pause(ttl, empty=empty) == 10
