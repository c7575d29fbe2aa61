"""What nodes write into a directory, and what a poisoned directory may hold."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastnode import ConfigError
from fastnode.discovery import Target
from fastnode.discovery.entry import (
    MAX_ENTRY_SERVICES,
    MAX_ENTRY_TARGETS,
    Entry,
    decode_entry,
    entry_of,
)
from fastnode.discovery.kit import FakeNode
from fastnode.limits import MAX_ENTRY_BYTES

NAMES = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,20}", fullmatch=True)
PORTS = st.integers(1, 65535)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)

GOOD: dict[str, Any] = {
    "version": 1,
    "node": "billing@10.0.0.7",
    "instance": "00ff",
    "services": ["billing"],
    "targets": [{"host": "10.0.0.7", "port": 15000, "weight": 100}],
}


@given(NAMES, st.lists(NAMES, min_size=1, max_size=5), st.sets(PORTS, min_size=1))
def test_entries_survive_the_way(
    name: str, services: list[str], ports: set[int]
) -> None:
    targets = [Target("10.0.0.7", port) for port in sorted(ports)[:MAX_ENTRY_TARGETS]]
    entry = entry_of(FakeNode.at(name, *targets), services)
    assert decode_entry(entry.encode()) == entry
    assert list(entry.targets) == targets


@given(st.binary())
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        decode_entry(data)


@given(st.sampled_from(sorted(GOOD)), JSON)
def test_any_field_is_read_or_refused(field: str, value: Any) -> None:
    data = json.dumps({**GOOD, field: value}).encode()
    try:
        entry = decode_entry(data)
    except ValueError:
        return
    assert isinstance(entry, Entry)
    assert decode_entry(entry.encode()) == entry


def test_the_good_one_is_good() -> None:
    entry = decode_entry(json.dumps(GOOD).encode())
    assert entry.targets == (Target("10.0.0.7", 15000),)
    assert entry.services == ("billing",)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"version": None},
        {"node": "billing"},
        {"node": 3},
        {"instance": "../up"},
        {"instance": "f" * 65},
        {"services": "billing"},
        {"services": ["a b"]},
        {"services": [3]},
        {"services": ["s"] * (MAX_ENTRY_SERVICES + 1)},
        {"targets": {}},
        {"targets": [["10.0.0.7", 1]]},
        {"targets": [{"host": "10.0.0.7", "port": 0}]},
        {"targets": [{"host": "10.0.0.7", "port": "1"}]},
        {"targets": [{"host": "", "port": 1}]},
        {"targets": [{"port": 1}]},
        {"targets": [{"host": "10.0.0.7", "port": 1, "weight": -1}]},
        {"targets": GOOD["targets"] * (MAX_ENTRY_TARGETS + 1)},
    ],
)
def test_bad_entries_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        decode_entry(json.dumps({**GOOD, **change}).encode())


def test_long_and_deep_entries_are_refused() -> None:
    with pytest.raises(ValueError, match="more than"):
        decode_entry(json.dumps({**GOOD, "x": "y" * MAX_ENTRY_BYTES}).encode())
    with pytest.raises(ValueError, match="not JSON"):
        decode_entry(b"[" * MAX_ENTRY_BYTES)


@pytest.mark.parametrize("services", ["billing", [], ["a b"], [None]])
def test_bad_services_are_not_announced(services: Any) -> None:
    with pytest.raises(ConfigError):
        entry_of(FakeNode.at("billing", Target("10.0.0.7", 1)), services)


def test_a_node_without_acceptors_is_not_announced() -> None:
    with pytest.raises(ConfigError, match="0 acceptors"):
        entry_of(FakeNode.at("billing"), ["billing"])


def test_an_entry_that_nobody_would_read_is_not_written() -> None:
    long = [f"{n:02}{'s' * 500}" for n in range(MAX_ENTRY_SERVICES)]
    hosts = [Target(f"{'h' * 60}.{n}.example", 1) for n in range(MAX_ENTRY_TARGETS)]
    with pytest.raises(ConfigError, match="bytes"):
        entry_of(FakeNode.at("billing", *hosts), long).encode()
