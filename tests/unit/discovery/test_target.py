"""Targets are checked when they are made, and sets of them have one form."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastnode import ConfigError
from fastnode.discovery import (
    AnnouncedNode,
    AnnouncingDiscovery,
    Discovery,
    Target,
)
from fastnode.discovery.target import normal_targets

TARGETS = st.builds(
    Target,
    st.sampled_from(["10.0.0.1", "10.0.0.2", "a.example", "::1"]),
    st.integers(1, 3),
    st.integers(0, 65535),
)


@pytest.mark.parametrize(
    ("host", "normal"),
    [
        ("A.Example.", "a.example"),
        ("[0:0:0:0:0:0:0:1]", "::1"),
        ("10.0.0.1", "10.0.0.1"),
    ],
)
def test_hosts_have_one_form(host: str, normal: str) -> None:
    target = Target(host, 15000)
    assert target.host == normal
    assert target == Target(normal, 15000, 100)
    assert hash(target) == hash(Target(normal, 15000))


@pytest.mark.parametrize(
    "arguments",
    [
        ("", 1),
        (None, 1),
        ("a b", 1),
        ("a", 0),
        ("a", 65536),
        ("a", "1"),
        ("a", True),
        ("a", 1, -1),
        ("a", 1, 65536),
        ("a", 1, 1.5),
        ("a", 1, True),
    ],
)
def test_bad_targets_are_refused(arguments: tuple[object, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        Target(*arguments)  # type: ignore[arg-type]
    assert pickle.loads(pickle.dumps(caught.value)).hint == caught.value.hint


def test_targets_are_frozen_ordered_and_can_be_pickled() -> None:
    target = Target("b", 1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        target.port = 2  # type: ignore[misc]
    assert min([target, Target("a", 2), Target("a", 1)]) == Target("a", 1)
    assert pickle.loads(pickle.dumps(target)) == target


@given(st.lists(TARGETS))
def test_sets_of_targets_have_one_form(targets: list[Target]) -> None:
    normal = normal_targets(targets)
    assert normal == normal_targets(reversed(targets)) == normal_targets(normal)
    addresses = [(each.host, each.port) for each in normal]
    assert len(addresses) == len(set(addresses))
    assert set(addresses) == {(each.host, each.port) for each in targets}
    for target in targets:
        [kept] = [
            each
            for each in normal
            if (each.host, each.port) == (target.host, target.port)
        ]
        assert kept.weight >= target.weight


def test_what_is_no_target_is_refused() -> None:
    with pytest.raises(ConfigError, match="not a Target"):
        normal_targets([("10.0.0.1", 1)])  # type: ignore[list-item]


def test_the_protocols_tell_what_a_discovery_can_do() -> None:
    class Watches:
        def watch(self, service: str) -> AsyncIterator[Sequence[Target]]:
            raise AssertionError(service)

    class Announces(Watches):
        def announce(
            self, node: AnnouncedNode, services: Sequence[str]
        ) -> AbstractAsyncContextManager[None]:
            return nullcontext()

    assert isinstance(Watches(), Discovery)
    assert not isinstance(Watches(), AnnouncingDiscovery)
    assert isinstance(Announces(), AnnouncingDiscovery)
    assert not isinstance(object(), Discovery)
