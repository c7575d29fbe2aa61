"""Totals of nodes and of groups of workers, without nodes: pure parts."""

from __future__ import annotations

import dataclasses
import json
import pickle
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastnode.dispatch.histogram import BOUNDS
from fastnode.limits import MAX_COUNTED_CODES, MAX_COUNTED_ENDPOINTS
from fastnode.link.stats import COUNTERS, LinkTotals
from fastnode.node.distribution import Distribution
from fastnode.node.snapshot import Rotations
from fastnode.node.stats import (
    EndpointStats,
    NodeStats,
    decoded,
    encoded,
    is_total,
    summed,
)
from fastnode.sending.codes import OTHER, CodeCounts
from fastnode.workers.totals import GroupTotals, Report, parts_of

# --- distributions --------------------------------------------------------------------

COUNTS = st.integers(0, 1000)
DISTRIBUTIONS = st.builds(
    lambda found: Distribution.of(found.items(), float(sum(found.values()))),
    st.dictionaries(st.sampled_from(BOUNDS), COUNTS, max_size=4),
)


def test_percentiles() -> None:
    found = Distribution.of([(0.4, 1), (0.1, 989), (0.2, 9), (0.3, 1)], 110.0)
    assert found.count == 1000
    assert found.buckets == ((0.1, 989), (0.2, 9), (0.3, 1), (0.4, 1))
    assert (found.p50, found.p90, found.p99, found.p999) == (0.1, 0.1, 0.2, 0.3)


def test_no_times() -> None:
    assert Distribution.of([(0.1, 0)], 0.0) == Distribution()
    assert Distribution().p50 is None
    assert Distribution().p999 is None


@given(DISTRIBUTIONS)
def test_percentiles_grow_and_are_bounds(found: Distribution) -> None:
    percentiles = [found.p50, found.p90, found.p99, found.p999]
    if not found.count:
        assert percentiles == [None] * 4
        return
    known = [each for each in percentiles if each is not None]
    assert len(known) == 4
    assert known == sorted(known)
    assert set(known) <= {bound for bound, _ in found.buckets}


@given(st.lists(DISTRIBUTIONS, max_size=4))
def test_distributions_add(parts: list[Distribution]) -> None:
    together = Distribution.sum_of(parts)
    assert together.count == sum(part.count for part in parts)
    assert together.seconds == pytest.approx(sum(part.seconds for part in parts))


# --- codes ----------------------------------------------------------------------------


def test_codes_that_peers_choose_are_bounded() -> None:
    counts = CodeCounts()
    for number in range(3 * MAX_COUNTED_CODES):
        counts.add(f"code_{number}")
    counts.add("code_0")
    shown = counts.shown()
    assert len(shown) == MAX_COUNTED_CODES + 1
    assert shown["code_0"] == 2
    assert shown[OTHER] == 2 * MAX_COUNTED_CODES


# --- stats as a whole -----------------------------------------------------------------

#: Whole snapshots are large.
few = settings(max_examples=25)

NAMES = st.sampled_from(["a", "b", OTHER])
SECONDS = st.none() | st.floats(-1e9, 1e9)


def values_of(of: type) -> dict[str, Any]:
    """A strategy for each field."""
    found: dict[str, Any] = {}
    for each in dataclasses.fields(of):
        kind = str(each.type)
        if kind == "int":
            found[each.name] = COUNTS
        elif kind == "float":
            found[each.name] = st.floats(0, 10)
        elif kind == "float | None":
            found[each.name] = SECONDS
        elif kind == "Distribution":
            found[each.name] = DISTRIBUTIONS
        elif kind == "Mapping[str, int]":
            found[each.name] = st.dictionaries(NAMES, COUNTS)
        else:
            assert kind == "Mapping[str, EndpointStats]"
            found[each.name] = st.dictionaries(NAMES, ENDPOINTS)
    return found


ENDPOINTS = st.builds(EndpointStats, **values_of(EndpointStats))
STATS = st.builds(NodeStats, **values_of(NodeStats))


def totals(stats: NodeStats | EndpointStats, prefix: str = "") -> dict[str, float]:
    """Every total, by a name of its own; those that are 0 may be left out."""
    found: dict[str, float] = {}
    for each in dataclasses.fields(stats):
        if not is_total(type(stats), each.name):
            continue
        value, name = getattr(stats, each.name), prefix + each.name
        if isinstance(value, Distribution):
            found[f"{name}, count"] = value.count
            found[f"{name}, seconds"] = value.seconds
            found |= {f"{name}, {bound}": count for bound, count in value.buckets}
        elif isinstance(value, Mapping):
            for key, entry in value.items():
                if isinstance(entry, EndpointStats):
                    found |= totals(entry, f"{name}[{key}].")
                else:
                    found[f"{name}[{key}]"] = entry
        else:
            found[name] = value
    return found


def gone_back(before: NodeStats, after: NodeStats) -> dict[str, tuple[float, float]]:
    """The totals that are less than they were."""
    now = totals(after)
    return {
        name: (value, now.get(name, 0))
        for name, value in totals(before).items()
        # A sum of seconds is rounded, in whatever order it is added.
        if now.get(name, 0) < value - 1e-6 * abs(value)
    }


def test_snapshots_are_frozen() -> None:
    for stats, name in (
        (NodeStats(), "rotations"),
        (EndpointStats(), "calls"),
        (Distribution(), "count"),
    ):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(stats, name, 1)


@few
@given(STATS)
def test_stats_travel_as_json_and_as_pickle(stats: NodeStats) -> None:
    assert decoded(json.loads(json.dumps(encoded(stats)))) == stats
    assert pickle.loads(pickle.dumps(stats)) == stats


@few
@given(STATS)
def test_gauges_end_with_a_node(stats: NodeStats) -> None:
    ended = stats.without_gauges()
    assert totals(ended) == totals(stats)
    assert (ended.links, ended.queued_bytes, ended.loop_late_seconds) == ({}, 0, 0.0)
    assert ended.certificate_seconds_left is None
    assert all(each.running == 0 for each in ended.endpoints.values())


@few
@given(STATS, STATS)
def test_stats_add(one: NodeStats, other: NodeStats) -> None:
    together = summed([one, other])
    assert together.messages_sent == one.messages_sent + other.messages_sent
    assert together.queued_bytes == one.queued_bytes + other.queued_bytes
    assert together.loop_late_seconds == max(
        one.loop_late_seconds, other.loop_late_seconds
    )
    left = {one.authority_seconds_left, other.authority_seconds_left} - {None}
    assert together.authority_seconds_left == min(left, default=None)  # type: ignore[type-var]
    for code in ("a", "b", OTHER):
        assert together.call_errors.get(code, 0) == (
            one.call_errors.get(code, 0) + other.call_errors.get(code, 0)
        )
    assert not gone_back(one, together)
    assert not gone_back(other, together)


# --- links ----------------------------------------------------------------------------


class FakeLink:
    """A link that counts, and ends."""

    def __init__(self) -> None:
        self.counts = [0] * len(COUNTERS)

    def counters(self) -> tuple[int, ...]:
        return tuple(self.counts)


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from("cue"), COUNTS)))
def test_no_total_of_links_goes_back(steps: list[tuple[int, str, int]]) -> None:
    """Links come up, count and end; sums are always those of all that happened."""
    known, expected = LinkTotals(), [0] * len(COUNTERS)
    links: dict[int, FakeLink] = {}
    for number, step, count in steps:
        if step == "u":
            links.setdefault(number, FakeLink())
        elif number in links and step == "c":
            which = count % len(COUNTERS)
            links[number].counts[which] += count
            expected[which] += count
        elif number in links:
            known.add(links.pop(number))
        shown = known.with_links(links.values())
        assert shown == dict(zip(COUNTERS, expected, strict=True))


# --- rotations ------------------------------------------------------------------------


class FakeManager:
    """Counts as a `CertManager` does."""

    def __init__(self) -> None:
        self.rotations = self.failed_rotations = 0


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from("aurf"))))
def test_rotations_count_while_a_manager_is_used(steps: list[tuple[int, str]]) -> None:
    managers: list[Any] = [FakeManager() for _ in range(3)]
    used: set[Any] = set()
    counted, expected = Rotations(), [0, 0]
    for number, step in steps:
        manager = managers[number]
        if step == "a":
            counted.add(manager)
            used.add(manager)
        elif step == "u":
            used.discard(manager)
        elif step == "r":
            manager.rotations += 1
            expected[0] += manager in used
        else:
            manager.failed_rotations += 1
            expected[1] += manager in used
        assert counted.counted(used) == tuple(expected)


# --- groups of workers ----------------------------------------------------------------


@few
@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from("re"), STATS), max_size=8))
def test_no_total_of_a_group_goes_back(
    steps: list[tuple[int, str, NodeStats]],
) -> None:
    """Workers report and end, in any order."""
    group = GroupTotals()
    reported: dict[int, NodeStats] = {}
    before = group.shown()
    for worker, step, grown in steps:
        if step == "r":
            # Its totals so far, and something more.
            reported[worker] = summed([*filter(None, [reported.get(worker)]), grown])
            group.report(worker, reported[worker])
        else:
            reported.pop(worker, None)
            group.end(worker)
        after = group.shown()
        assert not gone_back(before, after)
        before = after


def test_endpoints_of_a_group_are_bounded() -> None:
    group = GroupTotals()
    for number in range(2 * MAX_COUNTED_ENDPOINTS):
        stats = NodeStats(endpoints={f"e{number}": EndpointStats(calls=1)})
        group.report(number, stats)
        group.end(number)
    shown = group.shown().endpoints
    assert len(shown) == MAX_COUNTED_ENDPOINTS + 1
    assert sum(each.calls for each in shown.values()) == 2 * MAX_COUNTED_ENDPOINTS
    assert shown["e0"].calls == 1
    assert shown[OTHER].calls == MAX_COUNTED_ENDPOINTS


@few
@given(STATS, STATS, st.integers(0, 3))
def test_a_report_travels_in_parts(
    first: NodeStats, second: NodeStats, dropped: int
) -> None:
    """A report whose end was left out is dropped, and the next one is read."""
    long = {f"endpoint-{number}": EndpointStats() for number in range(100)}
    first = dataclasses.replace(first, endpoints={**long, **first.endpoints})
    report = Report()
    parts = list(parts_of(first, 1))
    assert len(parts) > 3
    for part in parts[:dropped]:
        assert report.add(json.loads(json.dumps(part))) is None
    *rest, last = parts_of(second, 2)
    assert all(report.add(part) is None for part in rest)
    assert report.add(json.loads(json.dumps(last))) == second
