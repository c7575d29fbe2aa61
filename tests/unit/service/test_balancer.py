"""Choosing among the instances of a service: shares, weights, keys, busy instances."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastnode import ConfigError
from fastnode.discovery.target import Target
from fastnode.limits import SLOW_START_SECONDS
from fastnode.service.balancer import CHOOSERS, Balancer, Candidate, in_order

NOW = 1000.0


def candidates(*weights: float) -> list[Candidate]:
    return [
        Candidate(f"shop@10.0.0.{at}", f"{at:032x}", weight)
        for at, weight in enumerate(weights)
    ]


def shares(balancer: Balancer, among: list[Candidate], calls: int) -> list[float]:
    """Return the part of one-at-a-time calls that each candidate gets."""
    found = Counter(id(balancer.pick(among, NOW)) for _ in range(calls))
    return [found[id(each)] / calls for each in among]


@pytest.mark.parametrize("policy", CHOOSERS)
def test_equal_instances_get_equal_shares(policy: str) -> None:
    for share in shares(Balancer(policy, 7), candidates(1, 1, 1), 10_000):
        assert abs(share - 1 / 3) < 0.02


@pytest.mark.parametrize("policy", ["least_outstanding", "weighted"])
def test_shares_follow_the_weights(policy: str) -> None:
    found = shares(Balancer(policy, 7), candidates(1, 2, 5), 20_000)
    for share, weight in zip(found, (1, 2, 5), strict=True):
        assert abs(share - weight / 8) < 0.03


def test_the_one_with_fewer_calls_under_way_is_chosen() -> None:
    crowded, free = candidates(1, 1)
    crowded.outstanding = 3
    balancer = Balancer("least_outstanding", 7)
    assert {balancer.pick([crowded, free], NOW) for _ in range(100)} == {free}


def test_a_slow_instance_gets_a_share_that_follows_its_speed() -> None:
    """48 callers, and an instance that takes ten times as long as the two others."""
    among = candidates(1, 1, 1)
    seconds = dict(zip(among, (1.0, 1.0, 10.0), strict=True))
    balancer = Balancer("least_outstanding", 7)
    done: Counter[Candidate] = Counter()
    ends: list[tuple[float, int, Candidate]] = []
    now, number = NOW, 0

    def call() -> None:
        nonlocal number
        chosen = balancer.pick(among, now)
        assert chosen is not None
        chosen.outstanding += 1
        number += 1
        ends.append((now + seconds[chosen], number, chosen))

    for _ in range(48):
        call()
    for _ in range(20_000):
        end = min(ends)
        ends.remove(end)
        now = end[0]
        end[2].outstanding -= 1
        done[end[2]] += 1
        call()
    share = done[among[2]] / done.total()
    assert 0.03 < share < 0.07, share  # 1 / 21 would follow its speed exactly


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, 3.0]), min_size=1, max_size=8))
@pytest.mark.parametrize("policy", CHOOSERS)
def test_weight_0_is_only_for_want_of_others(policy: str, weights: list[float]) -> None:
    balancer, among = Balancer(policy, 3), candidates(*weights)
    chosen = {balancer.pick(among, NOW) for _ in range(50)}
    chosen |= {balancer.pick(among, NOW, b"%d" % at) for at in range(50)}
    assert None not in chosen
    if any(weights):
        assert all(each is not None and each.weight > 0 for each in chosen)


@pytest.mark.parametrize("policy", CHOOSERS)
def test_a_busy_instance_is_passed_over_while_there_is_another(policy: str) -> None:
    balancer, among = Balancer(policy, 3), candidates(1, 1, 1)
    among[1].busy_until = NOW + 1
    assert among[1] not in {balancer.pick(among, NOW) for _ in range(100)}
    among[0].busy_until = among[2].busy_until = NOW + 1
    assert {balancer.pick(among, NOW) for _ in range(200)} == set(among)
    assert among[1] in {balancer.pick(among, NOW + 1) for _ in range(100)}


@pytest.mark.parametrize("policy", ["least_outstanding", "weighted"])
def test_a_new_instance_gets_its_share_slowly(policy: str) -> None:
    balancer, among = Balancer(policy, 7), candidates(1, 1)
    among[1].warm_up(NOW)
    growing = []
    for part in (0.0, 0.5, 1.0):
        now = NOW + part * SLOW_START_SECONDS
        found = Counter(balancer.pick(among, now) for _ in range(5000))
        growing.append(found[among[1]] / 5000)
    assert growing[0] < 0.15
    assert growing[0] + 0.1 < growing[1] < 0.4
    assert abs(growing[2] - 0.5) < 0.05


@given(
    st.lists(st.binary(min_size=1, max_size=8), min_size=1, max_size=60),
    st.integers(2, 12),
    st.data(),
)
def test_only_the_keys_of_one_that_leaves_move(
    keys: list[bytes], count: int, data: st.DataObject
) -> None:
    among = candidates(*[1.0] * count)
    gone = data.draw(st.sampled_from(among))
    rest = [each for each in among if each is not gone]
    balancer = Balancer("least_outstanding", 1)
    for key in keys:
        before = balancer.pick(among, NOW, key)
        after = balancer.pick(rest, NOW, key)
        assert before is gone or before is after
        # Another process, another policy, another order: the same instance.
        other = Balancer("round_robin", 99).pick(among[::-1], NOW, key)
        assert other is before


def test_keys_spread_by_weight() -> None:
    among = candidates(1, 1, 2)
    balancer = Balancer("least_outstanding", 1)
    found = Counter(balancer.pick(among, NOW, b"%d" % at) for at in range(8000))
    for each, share in zip(among, (0.25, 0.25, 0.5), strict=True):
        assert abs(found[each] / 8000 - share) < 0.03


def test_the_score_of_a_key_is_the_same_in_every_version() -> None:
    """Processes of neighbouring releases have to agree."""
    among = candidates(1, 1, 1, 1)
    balancer = Balancer("least_outstanding", 1)
    found = [
        among.index(chosen)
        for at in range(12)
        if (chosen := balancer.pick(among, NOW, b"customer-%d" % at)) is not None
    ]
    assert found == EXPECTED


#: Computed by another implementation of the same rule.
EXPECTED = [0, 1, 3, 0, 2, 1, 3, 3, 1, 1, 2, 0]


def test_nobody_to_choose() -> None:
    for policy in CHOOSERS:
        assert Balancer(policy, 1).pick([], NOW) is None
        assert Balancer(policy, 1).pick([], NOW, b"key") is None


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        Balancer("fastest", 1)
    assert caught.value.hint == 'use "least_outstanding", "round_robin", "weighted"'


@given(st.integers(1, 200), st.integers(1, 40), st.binary(min_size=1, max_size=4))
def test_the_part_of_targets_is_stable(count: int, most: int, seed: bytes) -> None:
    targets = [Target(f"10.0.{at // 250}.{at % 250}", 15000) for at in range(count)]
    part = in_order(targets, seed)[:most]
    assert part == in_order(targets[::-1], seed)[:most]
    without = in_order([each for each in targets if each != part[0]], seed)[:most]
    assert set(part) - set(without) == {part[0]}


def test_nodes_choose_different_parts() -> None:
    targets = [Target(f"10.0.0.{at}", 15000) for at in range(100)]
    found = Counter(
        target for node in range(400) for target in in_order(targets, b"%d" % node)[:10]
    )
    assert len(found) == 100
    assert max(found.values()) < 100  # 40 each on average
